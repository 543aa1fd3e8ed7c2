"""The alarm rings in time, also when the time of day was set in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from holdfast.actors.alarm import Alarm

DEADLINE_S = 30.0


class Rows:
    """What is due, a time of day that can be set, and the rings that were heard."""

    def __init__(self) -> None:
        self.due: list[float] = []
        self.offset_s = 0.0
        self.rung: list[float] = []
        self.heard = asyncio.Event()
        self.alarm = Alarm(lambda: min(self.due, default=None), self.ring, clock=self.clock, look_every_s=0.1)

    def clock(self) -> float:
        return time.time() + self.offset_s

    async def ring(self) -> None:
        done = [due for due in self.due if due <= self.clock()]
        self.due = [due for due in self.due if due not in done]
        self.rung.extend(done)
        self.alarm.set()
        if done:
            self.heard.set()


def play(scene: Callable[[Rows], Awaitable[None]]) -> None:
    async def stage() -> None:
        rows = Rows()
        rows.alarm.start()
        watching = asyncio.ensure_future(rows.alarm.watch())
        try:
            await asyncio.wait_for(scene(rows), DEADLINE_S)
        finally:
            watching.cancel()
            rows.alarm.stop()

    asyncio.run(stage())


def test_it_rings_when_something_is_due_and_not_before() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.clock() + 0.3
        rows.due.append(due)
        rows.alarm.note(due)
        await rows.heard.wait()
        assert rows.rung == [due]
        assert rows.clock() >= due

    play(scene)


def test_an_earlier_row_is_rung_for_first() -> None:
    async def scene(rows: Rows) -> None:
        for due in (rows.clock() + 3600, rows.clock() + 0.2):
            rows.due.append(due)
            rows.alarm.note(due)
        await rows.heard.wait()
        assert len(rows.rung) == 1
        assert len(rows.due) == 1

    play(scene)


def test_a_time_of_day_that_is_set_forward_rings_for_what_has_come_due() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.clock() + 3600
        rows.due.append(due)
        rows.alarm.note(due)
        # As when the machine was suspended for two hours: the way to the alarm is as long as it was.
        rows.offset_s = 7200
        await rows.heard.wait()
        assert rows.rung == [due]

    play(scene)


def test_a_row_that_nobody_told_of_is_found() -> None:
    async def scene(rows: Rows) -> None:
        rows.due.append(rows.clock())
        await rows.heard.wait()

    play(scene)


def test_a_time_of_day_that_is_set_back_rings_when_it_is_reached_again() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.clock() + 0.2
        rows.due.append(due)
        rows.alarm.note(due)
        rows.offset_s = -0.5
        await rows.heard.wait()
        assert rows.clock() >= due

    play(scene)
