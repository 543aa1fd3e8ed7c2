"""The tasks that are measured, by an older Ray with its own workflow, too: nothing of Holdfast is imported here."""

from __future__ import annotations

from typing import Any

import ray

from benchmarks.sizes import ARRAY_BYTES


@ray.remote
def noop(value: int) -> int:
    """A task that does nothing, so that only its handling is measured."""
    return value


@ray.remote
def total(*values: int) -> int:
    """The sum of what the tasks before it gave."""
    return sum(values)


@ray.remote
def fill() -> Any:
    """An array of bytes, all 1."""
    import numpy as np  # noqa: PLC0415 - needed by this workload only

    return np.ones(ARRAY_BYTES, dtype=np.uint8)


@ray.remote
def grow(array: Any) -> Any:
    """A new array, each byte one more."""
    return array + 1
