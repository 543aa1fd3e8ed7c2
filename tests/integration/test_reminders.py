"""Reminders of virtual actors: each time one call, set by a handle or with the method that asks for it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.engine.virtual_actor_errors import ReminderNotFoundError
from tests.recovery.processes import until

pytestmark = pytest.mark.usefixtures("platform")


@workflow.virtual_actor
class Clock:
    def __init__(self) -> None:
        self.rang: list[Any] = []

    def ring(self, *what: Any) -> None:
        self.rang.append([time.time(), *what])

    def wind(self, after_s: float, fail: bool) -> None:
        workflow.remind(self, "ring", "wound", after_s=after_s, name="own")
        if fail:
            raise ValueError("broken spring")

    def stop(self, name: str) -> None:
        workflow.cancel_reminder(self, name)

    @workflow.virtual_actor.readonly
    def times(self) -> list[Any]:
        return self.rang


def made(wid: str) -> Any:
    clock = Clock.get_or_create(wid)
    ray.get(clock.ready())
    return clock


def test_once_after_a_time(wid: str) -> None:
    clock, asked = made(wid), time.time()
    workflow.remind(clock, "ring", "once", after_s=0.3)
    (listed,) = workflow.list_reminders(clock)
    assert (listed["name"], listed["method"], listed["fired"]) == ("ring", "ring", 0)
    until(clock.times.run, "it rings")
    ((rang, what),) = clock.times.run()
    assert what == "once"
    assert rang >= asked + 0.3
    assert workflow.list_reminders(clock) == []


def test_at_a_time_that_is_past_it_rings_at_once(wid: str) -> None:
    clock = made(wid)
    workflow.remind(clock, "ring", at=time.time() - 10)
    until(clock.times.run, "it rings")


def test_again_and_again_until_it_is_cancelled(wid: str) -> None:
    clock = made(wid)
    workflow.remind(clock, "ring", every_s=0.2, name="tick")
    until(lambda: len(clock.times.run()) >= 3, "it rings three times")
    workflow.cancel_reminder(clock, "tick")
    assert workflow.list_reminders(clock) == []
    with pytest.raises(ReminderNotFoundError, match="tick"):
        workflow.cancel_reminder(clock, "tick")


def test_one_of_the_same_name_takes_the_place_of_the_one_before(wid: str) -> None:
    clock = made(wid)
    workflow.remind(clock, "ring", "first", after_s=600)
    workflow.remind(clock, "ring", "second", after_s=0.1)
    until(clock.times.run, "it rings")
    assert [what for _, what in clock.times.run()] == ["second"]


def test_a_method_sets_its_own_with_its_effect(wid: str) -> None:
    clock = made(wid)
    with pytest.raises(ValueError, match="broken spring"):
        clock.wind.run(0.0, True)
    assert workflow.list_reminders(clock) == []
    clock.wind.run(600, False)
    (listed,) = workflow.list_reminders(clock)
    assert listed["name"] == "own"
    clock.stop.run("own")
    assert workflow.list_reminders(clock) == []


@pytest.mark.parametrize(
    ("times", "error", "said"),
    [
        ({}, ValueError, "exactly one"),
        ({"after_s": 1, "every_s": 2}, ValueError, "exactly one"),
        ({"after_s": -1}, ValueError, "after_s"),
        ({"every_s": "x"}, TypeError, "every_s"),
        ({"after_s": 1, "name": ""}, ValueError, "name"),
    ],
)
def test_what_is_refused_is_named(wid: str, times: dict[str, Any], error: type[Exception], said: str) -> None:
    clock = made("refused")
    with pytest.raises(error, match=said):
        workflow.remind(clock, "ring", **times)
    assert workflow.list_reminders(clock) == []


def test_methods_that_cannot_be_called_are_refused() -> None:
    clock = made("refused")
    with pytest.raises(AttributeError, match="strike"):
        workflow.remind(clock, "strike", after_s=1)
    with pytest.raises(TypeError, match="read-only"):
        workflow.remind(clock, "times", after_s=1)
    with pytest.raises(TypeError, match="virtual actor"):
        workflow.remind("clock", "ring", after_s=1)
