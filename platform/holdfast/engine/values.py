"""Values as the engine sees them: opaque handles, and what it puts around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from holdfast.engine.graph import TaskIndex


@dataclass(frozen=True, slots=True)
class Value:
    """A task's value.

    Read it as: take `base`; if `caught`, it is an error `e` and the value is `(None, e)`; then put `wraps`
    times `(value, None)` around it.

    Attributes:
        base: Opaque handle of what was returned or raised, or a `Split`.
        caught: The base is an error that `catch_exceptions` turned into a value.
        wraps: How many successful catches lie around it.
    """

    base: Any
    caught: bool = False
    wraps: int = 0

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
    """

    ready: tuple[tuple[TaskIndex, Value], ...]
    remaining: tuple[tuple[TaskIndex, str], ...]
    passing: bool = False
