"""The alarm rings in time, also when the time of day was set in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from holdfast.actors.alarm import Alarm
from holdfast.engine.errors import StorageError

DEADLINE_S = 30.0


class Rows:
    """What is due, a time of day that can be set, and the rings that were heard."""

    def __init__(self, *, look_every_s: float = 0.1, rest_s: float = 0.01) -> None:
        self.due: list[float] = []
        self.offset_s = 0.0
        self.rung: list[float] = []
        self.looks: list[float] = []
        self.unreadable = 0
        self.heard = asyncio.Event()
        self.alarm = Alarm(self.look, clock=self.clock, look_every_s=look_every_s, rest_s=rest_s)

    def clock(self) -> float:
        return time.time() + self.offset_s

    def add(self, due: float) -> float:
        self.due.append(due)
        self.alarm.note(due)
        return due

    def look(self) -> float | None:
        self.looks.append(time.monotonic())
        if self.unreadable:
            self.unreadable -= 1
            raise StorageError("memory:", "it cannot be read", "Look again.")
        done = [due for due in self.due if due <= self.clock()]
        self.due = [due for due in self.due if due not in done]
        self.rung.extend(done)
        if done:
            self.heard.set()
        return min(self.due, default=None)


def play(scene: Callable[[Rows], Awaitable[None]], rows: Callable[[], Rows] = Rows) -> None:
    async def stage() -> None:
        made = rows()
        made.alarm.start()
        watching = asyncio.ensure_future(made.alarm.watch())
        try:
            await asyncio.wait_for(scene(made), DEADLINE_S)
        finally:
            watching.cancel()
            made.alarm.stop()

    asyncio.run(stage())


def without_a_watch() -> Rows:
    return Rows(look_every_s=DEADLINE_S * 2)


def test_it_rings_when_something_is_due_and_not_before() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.add(rows.clock() + 0.3)
        await rows.heard.wait()
        assert rows.rung == [due]
        assert rows.clock() >= due

    play(scene, without_a_watch)


def test_what_is_due_when_it_starts_is_rung_for() -> None:
    async def scene(rows: Rows) -> None:
        rows.due.append(rows.clock() - 5.0)
        await rows.heard.wait()

    play(scene, without_a_watch)


def test_an_earlier_row_is_rung_for_first() -> None:
    async def scene(rows: Rows) -> None:
        rows.add(rows.clock() + 3600)
        soon = rows.add(rows.clock() + 0.2)
        await rows.heard.wait()
        assert rows.rung == [soon]
        assert len(rows.due) == 1

    play(scene, without_a_watch)


def test_after_a_ring_it_is_set_for_the_row_behind() -> None:
    async def scene(rows: Rows) -> None:
        begin = rows.clock()
        dues = [rows.add(begin + after) for after in (0.1, 0.2, 0.3)]
        while rows.due:
            rows.heard.clear()
            await rows.heard.wait()
        assert rows.rung == dues

    play(scene, without_a_watch)


def test_what_comes_due_while_it_rests_is_rung_for_together() -> None:
    async def scene(rows: Rows) -> None:
        begin = rows.clock()
        for at in range(200):
            rows.add(begin + 0.1 + at / 1000)
        while rows.due:
            rows.heard.clear()
            await rows.heard.wait()
        between = [after - before for before, after in zip(rows.looks, rows.looks[1:], strict=False)]
        assert min(between) >= 0.045
        assert len(rows.rung) == 200

    play(scene, lambda: Rows(look_every_s=DEADLINE_S * 2, rest_s=0.05))


def test_a_time_of_day_that_is_set_forward_rings_for_what_has_come_due() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.add(rows.clock() + 3600)
        # As when the machine was suspended for two hours: the way to the alarm is as long as it was.
        rows.offset_s = 7200
        await rows.heard.wait()
        assert rows.rung == [due]

    play(scene)


def test_a_row_that_nobody_told_of_is_found() -> None:
    async def scene(rows: Rows) -> None:
        await asyncio.sleep(0)
        rows.due.append(rows.clock())
        await rows.heard.wait()

    play(scene)


def test_a_time_of_day_that_is_set_back_rings_when_it_is_reached_again() -> None:
    async def scene(rows: Rows) -> None:
        due = rows.add(rows.clock() + 0.2)
        rows.offset_s = -0.5
        await rows.heard.wait()
        assert rows.clock() >= due

    play(scene)


def test_rows_that_cannot_be_read_are_looked_at_again() -> None:
    async def scene(rows: Rows) -> None:
        rows.unreadable = 3
        due = rows.add(rows.clock() + 0.1)
        await rows.heard.wait()
        assert rows.rung == [due]

    play(scene)
