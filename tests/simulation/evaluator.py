"""What a workflow should give: its plans computed directly and recursively, without the engine.

A wait's value stands for all its inputs: what takes one either waits for the
rest, or looks at nothing that depends on the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.graph import NodeKind
from tests.simulation.plans import Book, Does, Fact, Plan, Ready, digest, event_fact, unwrap


@dataclass(frozen=True, slots=True)
class Waited:
    """The values of all inputs of a wait."""

    values: tuple[Fact, ...]


class FailedError(Exception):
    """A task failed and nothing has caught it yet."""

    def __init__(self, which: int) -> None:
        super().__init__(which)
        self.which = which


class Evaluator:
    """Values of plans, each computed once."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._values: dict[int, Fact] = {}

    def value(self, key: int) -> Fact:
        """The value of a plan.

        Raises:
            FailedError: It fails, or something it needs does.
        """
        known = self._values.get(key)
        if known is None:
            known = self._values[key] = self._compute(self._book[key])
        return known

    def outcome(self, key: int) -> Fact:
        """The value, or ("failed", which error)."""
        try:
            return self.value(key)
        except FailedError as failed:
            return ("failed", failed.which)

    def agrees(self, seen: Fact, key: int) -> bool:
        """Whether a value that the engine gave to a task is that of a plan."""
        return _agree(seen, self.value(key))

    def _compute(self, plan: Plan) -> Fact:
        inputs = tuple(self.value(at) for at in plan.inputs)
        try:
            value = self._call(plan, inputs)
        except FailedError as failed:
            if not plan.options.catch_exceptions:
                raise
            return ("error", ("raised", failed.which))
        return ("ok", value) if plan.options.catch_exceptions else value

    def _call(self, plan: Plan, inputs: tuple[Fact, ...]) -> Fact:
        if plan.kind is NodeKind.WAIT:
            return Waited(inputs)
        if plan.kind is NodeKind.SLEEP:
            return 0
        if plan.kind is NodeKind.EVENT:
            return 0 if plan.stream is None else event_fact("/".join(plan.stream))
        match plan.does:
            case Does.ERROR:
                raise FailedError(plan.error)
            case Does.CONTINUE:
                return self.value(plan.sink)
            case Does.POLL:
                assert plan.stream is not None
                return digest(plan.family, event_fact("/".join(plan.stream)))
            case Does.GATHER if plan.family != plan.key:
                return unwrap(self.value(plan.family))
            case Does.GATHER:
                return gathered(plan, unwrap(inputs[0]).values)
            case Does.PEEK:
                return digest(plan.key, sorted(map(digest, unwrap(inputs[0]).values)))
        return digest(plan.key, inputs)


def gathered(plan: Plan, values: tuple[Fact, ...]) -> int:
    """What a GATHER returns once it has all values, in whatever order they came."""
    return digest(plan.key, sorted(map(digest, values)))


def _agree(seen: Fact, expected: Fact) -> bool:
    if isinstance(seen, Ready) and isinstance(expected, Waited):
        left = list(map(digest, expected.values))
        for value in map(digest, seen.values):
            if value not in left:
                return False
            left.remove(value)
        return len(left) == len(seen.remaining)
    if isinstance(seen, tuple) and isinstance(expected, tuple):
        return len(seen) == len(expected) and all(map(_agree, seen, expected))
    return bool(seen == expected)
