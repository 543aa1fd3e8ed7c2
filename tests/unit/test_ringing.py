"""Executors are told when timers come due: on the real alarm, the rows of a store and the core of an executor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ray.exceptions import RayError

from holdfast.actors.due_rows import DueRows
from holdfast.actors.operations import FireTimer, Submit
from holdfast.actors.ringing import Ringing
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from tests.unit.sleepers import EXECUTOR, Sleepers

DEADLINE_S = 30.0


class Remote:
    """A method that is called as one of an actor."""

    def __init__(self, method: Callable[[Any], Awaitable[None]]) -> None:
        self.remote = method


class Executor:
    """An executor that may be slow, or not get to know."""

    def __init__(self, sleepers: Sleepers) -> None:
        self.sleepers = sleepers
        self.fire = Remote(self._fire)
        self.told: list[Sequence[tuple[float, int, int]]] = []
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.dies = 0

    async def _fire(self, timers: Sequence[tuple[float, int, int]]) -> None:
        self.told.append(timers)
        await self.going_on.wait()
        if self.dies:
            self.dies -= 1
            raise RayError("it died")
        self.sleepers.fire(timers, time.time())


async def woken(sleepers: Sleepers, count: int) -> list[float]:
    async def all_of_them() -> None:
        while len(sleepers.ends()) < count:
            await asyncio.sleep(0.005)

    await asyncio.wait_for(all_of_them(), DEADLINE_S)
    return sleepers.ends()


def play(scene: Callable[[Sleepers, Executor, Ringing], Awaitable[None]], **limits: Any) -> None:
    async def stage() -> None:
        sleepers = Sleepers()
        executor = Executor(sleepers)
        ringing = Ringing(sleepers.kv, {EXECUTOR: executor}, rows=DueRows(**limits))
        ringing.start()
        try:
            await scene(sleepers, executor, ringing)
        finally:
            ringing.stop()

    asyncio.run(stage())


def test_all_wake_and_none_is_early() -> None:
    async def scene(sleepers: Sleepers, executor: Executor, ringing: Ringing) -> None:
        now = time.time()
        dues = [now + 0.1 + at * 0.003 for at in range(100)]
        sleepers.add(*dues, now_unix_s=now)
        ringing.note(min(dues))
        ends = await woken(sleepers, len(dues))
        assert all(end >= due for end, due in zip(ends, dues, strict=True))
        assert sum(map(len, executor.told)) == len(dues)

    play(scene)


def test_a_slow_answer_keeps_nobody_waiting() -> None:
    async def scene(sleepers: Sleepers, executor: Executor, ringing: Ringing) -> None:
        executor.going_on.clear()
        now = time.time()
        sleepers.add(now, now + 0.1, now_unix_s=now)
        ringing.note(now)

        async def both_are_told() -> None:
            while len(executor.told) < 2:
                await asyncio.sleep(0.005)

        await asyncio.wait_for(both_are_told(), DEADLINE_S)
        executor.going_on.set()
        await woken(sleepers, 2)

    play(scene)


def test_what_an_executor_that_died_did_not_do_is_told_again() -> None:
    async def scene(sleepers: Sleepers, executor: Executor, ringing: Ringing) -> None:
        executor.dies = 2
        now = time.time()
        sleepers.add(now, now_unix_s=now)
        ringing.note(now)
        await woken(sleepers, 1)
        assert len(executor.told) == 3

    play(scene)


def test_more_than_can_be_on_their_way_all_come_to_it() -> None:
    async def scene(sleepers: Sleepers, executor: Executor, ringing: Ringing) -> None:
        now = time.time()
        sleepers.add(*[now] * 100, now_unix_s=now)
        ringing.note(now)
        await woken(sleepers, 100)
        assert max(map(len, executor.told)) <= 7
        assert sum(map(len, executor.told)) == 100

    play(scene, at_once=7, most_out=20)


def test_the_alarm_is_told_of_timers_that_are_set_and_not_of_those_that_fire() -> None:
    sleepers = Sleepers()
    first, second = (
        NodeSpec(task_id=f"sleep-{at}", kind=NodeKind.SLEEP, duration_s=10.0, inputs=inputs)
        for at, inputs in enumerate([(), (0,)])
    )
    submit = Submit(workflow_id="w", nonce="n", graph=Graph(nodes=(first, second), sink=1))
    assert sleepers.core.perform([submit], 1_000.0).earliest_due_unix_s == 1_010.0
    fire = FireTimer(seq=1, task=0, due_unix_s=1_010.0)
    assert sleepers.core.perform([fire], 1_010.5).earliest_due_unix_s == 1_020.5
    fire = FireTimer(seq=1, task=1, due_unix_s=1_020.5)
    assert sleepers.core.perform([fire], 1_021.0).earliest_due_unix_s is None
    assert sleepers.ends() == [1_021.0]
