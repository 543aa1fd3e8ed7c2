"""Calls of virtual actors, beside the same calls of plain Ray actors, which forget everything.

Each function does the work and returns seconds. The first call of an actor, which starts its process or activates it,
is not timed on either side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import ray

from holdfast import workflow

SEQUENTIAL = 300
ACTORS = 10
AT_ONCE = 1000
READS = 300


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, by: int) -> int:
        """Count."""
        self.count += by
        return self.count

    def value(self) -> int:
        """What has been counted."""
        return self.count


# Ray's hints know no actor classes.
PlainCounter: Any = ray.remote(num_cpus=0)(_Counter)


@workflow.virtual_actor
class DurableCounter(workflow.VirtualActor):
    """The same, durable."""

    def __init__(self) -> None:
        self.count = 0

    @workflow.virtual_actor.method
    def add(self, by: int) -> int:
        """Count."""
        self.count += by
        return self.count

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        """What has been counted."""
        return self.count


def sequential_holdfast() -> float:
    """Seconds for calls of one actor, each after the one before; every effect durable."""
    counter = DurableCounter.get_or_create("sequential")
    counter.add.run(0)
    return _timed(lambda: _check([counter.add.run(1) for _ in range(SEQUENTIAL)], list(range(1, SEQUENTIAL + 1))))


def sequential_plain_ray() -> float:
    """Seconds for calls of one actor, each after the one before."""
    counter = PlainCounter.remote()
    ray.get(counter.add.remote(0))
    return _timed(
        lambda: _check([ray.get(counter.add.remote(1)) for _ in range(SEQUENTIAL)], list(range(1, SEQUENTIAL + 1)))
    )


def at_once_holdfast() -> float:
    """Seconds for calls of several actors, all asked for before the first result is waited for."""
    counters = [DurableCounter.get_or_create(f"at-once-{at}") for at in range(ACTORS)]
    for counter in counters:
        counter.add.run(0)

    def work() -> None:
        values = ray.get([counters[at % ACTORS].add.run_async(1) for at in range(AT_ONCE)])
        _check(sum(values), sum(1 + at // ACTORS for at in range(AT_ONCE)))

    return _timed(work)


def at_once_awaited_holdfast() -> float:
    """Seconds for calls of several actors, all asked for before the first result is waited for, from an event loop."""
    counters = [DurableCounter.get_or_create(f"at-once-{at}") for at in range(ACTORS)]
    for counter in counters:
        counter.add.run(0)

    async def call_all() -> list[int]:
        return await asyncio.gather(*(counters[at % ACTORS].add.aio.run(1) for at in range(AT_ONCE)))

    return _timed(lambda: _check(sum(asyncio.run(call_all())), sum(1 + at // ACTORS for at in range(AT_ONCE))))


def at_once_plain_ray() -> float:
    """Seconds for calls of several actors, all asked for before the first result is waited for."""
    counters = [PlainCounter.remote() for _ in range(ACTORS)]
    ray.get([counter.add.remote(0) for counter in counters])

    def work() -> None:
        values = ray.get([counters[at % ACTORS].add.remote(1) for at in range(AT_ONCE)])
        _check(sum(values), sum(1 + at // ACTORS for at in range(AT_ONCE)))

    return _timed(work)


def reads_holdfast() -> float:
    """Seconds for reads of one actor, each after the one before."""
    counter = DurableCounter.get_or_create("read")
    counter.add.run(7)
    return _timed(lambda: _check([counter.value.run() for _ in range(READS)], [7] * READS))


def reads_plain_ray() -> float:
    """Seconds for reads of one actor, each after the one before."""
    counter = PlainCounter.remote()
    ray.get(counter.add.remote(7))
    return _timed(lambda: _check([ray.get(counter.value.remote()) for _ in range(READS)], [7] * READS))


def _timed(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"the workload gave {found!r} where {expected!r} was expected")
