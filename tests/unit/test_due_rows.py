"""What is due is told once, unless it is lost; and one looks again when the next comes due."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.actors.due_rows import DueRows, Look
from holdfast.engine.schedules import Overlap, Schedule
from holdfast.storage import schedule_store
from holdfast.storage.schedule_store import ScheduleRow
from tests.unit.sleepers import Sleepers

MORNING = 1_000.0
LOST_S = 10.0


class Bell:
    """Sleepers, a clock, and what was told of them."""

    def __init__(self, **limits: Any) -> None:
        self.sleepers = Sleepers()
        self.now = MORNING
        self.rows = DueRows(**{"lost_after_s": LOST_S} | limits)

    def add(self, *dues: float) -> None:
        self.sleepers.add(*dues, now_unix_s=self.now)

    def look(self, at: float | None = None) -> Look:
        self.now = self.now if at is None else at
        with self.sleepers.kv.read() as txn:
            return self.rows.look(txn, self.now, self.now)

    def answer(self, look: Look, *, woken: bool = True) -> float | None:
        if woken:
            self.sleepers.fire(look.timers, self.now)
        with self.sleepers.kv.read() as txn:
            return self.rows.timers_answered(txn, look.timers, self.now)

    def add_schedule(self, name: str, due: float) -> None:
        schedule = Schedule(name=name, overlap=Overlap.QUEUE, catch_up_s=60.0, coalesce=True, next_due_unix_s=due)
        row = ScheduleRow(schedule=schedule, timing="{}", nonce=f"{name:0>32}", digest="")
        with self.sleepers.kv.write() as txn:
            schedule_store.save(txn, row, was=None, now_unix_s=self.now)


def dues(look: Look) -> list[float]:
    return [due for due, _, _ in look.timers]


@pytest.fixture
def bell() -> Bell:
    return Bell()


def test_nothing_is_told_before_its_time_and_the_look_comes_back_then(bell: Bell) -> None:
    assert bell.look().again_unix_s is None
    bell.add(1_020.0, 1_010.0)
    assert bell.look() == Look(timers=[], schedules=[], again_unix_s=1_010.0)
    assert dues(bell.look(1_009.999)) == []
    assert dues(bell.look(1_010.0)) == [1_010.0]


def test_behind_what_is_on_its_way_the_next_row_sets_the_alarm(bell: Bell) -> None:
    bell.add(1_010.0, 1_010.004, 1_010.008)
    first = bell.look(1_010.0)
    assert (dues(first), first.again_unix_s) == ([1_010.0], 1_010.004)
    # Nobody has answered yet, and the others come in their time all the same.
    assert dues(bell.look(1_010.004)) == [1_010.004]
    assert dues(bell.look(1_010.2)) == [1_010.008]


def test_what_is_on_its_way_is_told_again_only_when_it_seems_lost(bell: Bell) -> None:
    bell.add(1_010.0)
    told = bell.look(1_010.0)
    assert told.again_unix_s == 1_010.0 + LOST_S
    assert dues(bell.look(1_010.0 + LOST_S - 0.1)) == []
    assert bell.look(1_010.0 + LOST_S).timers == told.timers


def test_what_was_answered_is_not_looked_for_again(bell: Bell) -> None:
    bell.add(1_010.0)
    assert bell.answer(bell.look(1_010.0)) is None
    assert bell.look(1_011.0).timers == []
    assert bell.look(1_010.0 + LOST_S).again_unix_s is None
    assert bell.sleepers.ends() == [1_010.0]


def test_what_an_executor_has_left_rests_a_little_and_is_told_again(bell: Bell) -> None:
    bell.add(1_010.0)
    told = bell.look(1_010.0)
    again_s = bell.answer(told, woken=False)
    assert again_s is not None
    assert 0 < again_s < LOST_S
    assert bell.look(1_010.0 + again_s / 2).timers == []
    assert bell.look(1_010.0 + again_s).timers == told.timers


def test_an_answer_that_comes_after_the_row_was_told_again_harms_nothing(bell: Bell) -> None:
    bell.add(1_010.0)
    first = bell.look(1_010.0)
    second = bell.look(1_010.0 + LOST_S)
    assert second.timers == first.timers
    assert bell.answer(first) is None
    assert bell.answer(second) is None
    assert bell.sleepers.ends() == [1_010.0 + LOST_S]
    assert bell.look(1_100.0).again_unix_s is None


def test_of_many_a_look_takes_the_first_and_comes_back_at_once() -> None:
    bell = Bell(at_once=2)
    bell.add(1_010.0, 1_011.0, 1_012.0)
    first = bell.look(1_020.0)
    assert (dues(first), first.again_unix_s) == ([1_010.0, 1_011.0], 1_020.0)
    assert dues(bell.look(1_020.01)) == [1_012.0]


def test_what_finds_no_room_is_told_as_soon_as_there_is_an_answer() -> None:
    bell = Bell(most_out=2)
    bell.add(1_010.0, 1_011.0, 1_012.0)
    first = bell.look(1_020.0)
    assert dues(first) == [1_010.0, 1_011.0]
    assert first.again_unix_s == 1_020.0 + LOST_S
    assert bell.look(1_020.5).timers == []
    assert bell.answer(first) == 0.0
    assert dues(bell.look()) == [1_012.0]


def test_a_time_of_day_that_is_set_back_tells_nothing_early_and_nothing_twice(bell: Bell) -> None:
    bell.add(1_010.0)
    told = bell.look(1_010.0)
    # The executor finds it is not time any more, and leaves it.
    bell.now = 1_005.0
    bell.sleepers.fire(told.timers, bell.now)
    with bell.sleepers.kv.read() as txn:
        again_s = bell.rows.timers_answered(txn, told.timers, elapsed_s=1_010.0)
        assert again_s is not None
        look = bell.rows.look(txn, 1_005.5, elapsed_s=1_010.0 + again_s)
    assert look == Look(timers=[], schedules=[], again_unix_s=1_010.0)
    assert bell.sleepers.ends() == []


def test_a_schedule_is_told_once_and_again_when_it_moves_on(bell: Bell) -> None:
    bell.add_schedule("s", 1_010.0)
    assert bell.look().again_unix_s == 1_010.0
    assert bell.look(1_010.0).schedules == ["s"]
    assert bell.look(1_010.5).schedules == []
    bell.rows.schedule_answered("s", True, 1_010.5)
    assert bell.look(1_010.6).schedules == ["s"]


def test_a_schedule_whose_run_finds_no_place_rests(bell: Bell) -> None:
    bell.add_schedule("s", 1_010.0)
    assert bell.look(1_010.0).schedules == ["s"]
    bell.rows.schedule_answered("s", False, 1_010.1)
    resting = bell.look(1_010.5)
    assert resting.schedules == []
    assert resting.again_unix_s is not None
    assert 1_010.5 < resting.again_unix_s < 1_010.0 + LOST_S
    assert bell.look(resting.again_unix_s + 0.01).schedules == ["s"]
