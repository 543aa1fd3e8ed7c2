"""Values as the engine sees them: opaque handles, and what it puts around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from holdfast.engine.graph import TaskIndex


class Taken(NamedTuple):
    """Where an event came from: its stream, its number in the inbox, and the task that took it."""

    stream: tuple[str, str]
    number: int
    task: TaskIndex


@dataclass(frozen=True, slots=True)
class Value:
    """A task's value.

    Read it as: take `base`; if `caught`, it is an error `e` and the value is `(None, e)`; then put `wraps`
    times `(value, None)` around it.

    Attributes:
        base: Opaque handle of what was returned or raised, or a `Split`.
        caught: The base is an error that `catch_exceptions` turned into a value.
        wraps: How many successful catches lie around it.
        names: Remaining tasks of waits that stand in the base: who reads it may ask for them.
        taken: Where the base came from, when it is an event of the inbox.
    """

    base: Any
    caught: bool = False
    wraps: int = 0
    names: tuple[TaskIndex, ...] = ()
    taken: Taken | None = None

    def wrapped(self) -> Value:
        """This value as seen through one more `catch_exceptions`."""
        return replace(self, wraps=self.wraps + 1)


@dataclass(frozen=True, slots=True)
class Split:
    """What `wait` decided, once: which inputs were ready and which were not.

    Attributes:
        ready: (task, value) in the order of the inputs.
        remaining: (task, task id) in the order of the inputs.
        passing: It names tasks whose numbers mean nothing after a crash; it is never logged.
        counted: The values made of it say which tasks they name. False for one that an earlier version has logged.
    """

    ready: tuple[tuple[TaskIndex, Value], ...]
    remaining: tuple[tuple[TaskIndex, str], ...]
    passing: bool = False
    counted: bool = True


def keeps(value: Value) -> bool:
    """Whether a value may name tasks or carry events at all."""
    return bool(value.names) or value.taken is not None or isinstance(value.base, Split)


def names_in(value: Value) -> Iterator[TaskIndex]:
    """Find the tasks that a reader of a value may ask for, once for each place where it names them."""
    for part in _parts(value):
        yield from part.names
        if isinstance(part.base, Split):
            for index, _ in part.base.remaining:
                yield index


def events_in(value: Value) -> Iterator[tuple[Taken, Any]]:
    """Find the events of the inbox that a reader of a value sees, with the payload of each."""
    for part in _parts(value):
        if part.taken is not None:
            yield part.taken, part.base


def _parts(value: Value) -> Iterator[Value]:
    todo = [value]
    while todo:
        part = todo.pop()
        yield part
        if isinstance(part.base, Split):
            todo.extend(one for _, one in part.base.ready)
