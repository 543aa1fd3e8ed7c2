"""What workers have begun, or may begin, before the run asks for it: such a task is not started once more.

A worker runs ahead of its executor, so that when the run asks for a task it
may be running, or be next where the one before it ran. Both are known here
until then. A worker holds its tasks under a lease; what a run asks for under
another one, it has to get by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]
"""(workflow, task)."""

Terms: TypeAlias = tuple[int, int]
"""(attempt, epoch of the lease)."""


@dataclass(slots=True)
class AheadBook:
    """The tasks that a run has not asked for yet, by (workflow, task)."""

    _begun: dict[Key, Terms] = field(default_factory=dict)
    _promised: dict[Key, tuple[str, Terms]] = field(default_factory=dict)

    def begin(self, key: Key, terms: Terms) -> None:
        """A worker has begun it."""
        self._promised.pop(key, None)
        self._begun[key] = terms

    def promise(self, key: Key, place: str, terms: Terms) -> None:
        """The worker at a place has it, and begins it when the one before it is logged."""
        self._promised[key] = place, terms

    def take_begun(self, key: Key, attempt: int, epoch: int) -> bool:
        """Whether what the run asks for is running already. Known once.

        Args:
            key: Which task.
            attempt: Which attempt.
            epoch: Of the lease of the run; 0 when it has ended in the same batch, and is under none.
        """
        return _fits(self._begun.pop(key, None), attempt, epoch)

    def take_promised(self, key: Key, attempt: int, epoch: int) -> str | None:
        """Where what the run asks for is next; None: nowhere. Known once, and as for `take_begun`."""
        place, terms = self._promised.pop(key, ("", None))
        return place if _fits(terms, attempt, epoch) else None

    def forget(self, seq: int) -> list[tuple[Key, str]]:
        """A workflow asks for nothing more. Returns what was promised of it, and where it is."""
        for key in [key for key in self._begun if key[0] == seq]:
            del self._begun[key]
        return [(key, self._promised.pop(key)[0]) for key in list(self._promised) if key[0] == seq]


def _fits(terms: Terms | None, attempt: int, epoch: int) -> bool:
    return terms is not None and terms[0] == attempt and epoch in (terms[1], 0)
