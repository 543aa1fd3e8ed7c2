"""Task ids made unique within a workflow: `id`, `id_1`, `id_2`, ..."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_NUMBERED = re.compile(r"(.+)_([1-9][0-9]*)\Z", re.DOTALL)


def never(_task_id: str) -> bool:
    """Says of every id that it was not given before."""
    return False


def was_given(counts: Mapping[str, int], name: str) -> bool:
    """Whether a task was given an id, as far as counts tell of how often each was asked for."""
    if name in counts:
        return True
    numbered = _NUMBERED.match(name)
    # `id_3` was given out when `id` has been counted past 3.
    return numbered is not None and counts.get(numbered[1], 0) > int(numbered[2])


class TaskNames:
    """Gives each task its id, in order of admission.

    Memory follows the number of different ids asked for, not the number of
    tasks: of `id_1`, `id_2`, ... only the count is kept. Who goes on from
    `repeated` need not have those that were asked for once either, as long as
    `given_before` knows them.

    Args:
        counts: How often each id was asked for.
        given_before: Whether a task has this id, of those that `counts` does not tell about.
    """

    def __init__(self, counts: Mapping[str, int] | None = None, given_before: Callable[[str], bool] = never) -> None:
        self._counts: dict[str, int] = dict(counts or {})
        self._given_before = given_before

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each id was asked for; what `__init__` takes to go on from here."""
        return self._counts

    @property
    def repeated(self) -> Mapping[str, int]:
        """Of `counts`, those above one: the numbers given out cannot be told from single ids."""
        return {asked: count for asked, count in self._counts.items() if count > 1}

    def assign(self, asked: str) -> str:
        """The unique id of the next task that asks for `asked`."""
        if not self._taken(asked):
            self._counts[asked] = 1
            return asked
        number = self._counts.get(asked, 1)
        while self._asked_literally(f"{asked}_{number}"):
            number += 1
        self._counts[asked] = number + 1
        return f"{asked}_{number}"

    def observe(self, given: str) -> None:
        """Take note of an id given out earlier, in the order they were given, to go on after a restart."""
        numbered = _NUMBERED.match(given)
        if numbered is not None and self._counts.get(numbered[1], 0) == int(numbered[2]):
            self._counts[numbered[1]] += 1
        else:
            self._counts.setdefault(given, 1)

    def _asked_literally(self, name: str) -> bool:
        return name in self._counts or self._given_before(name)

    def _taken(self, name: str) -> bool:
        return was_given(self._counts, name) or self._given_before(name)
