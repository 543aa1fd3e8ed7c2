"""Reminders of virtual actors: each time one call, set by a handle or with the method that asks for it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import ray

from holdfast import workflow
from holdfast.engine.virtual_actor_errors import ReminderNotFoundError
from holdfast.storage import actor_reminders, actor_store
from holdfast.storage.folder import StorageFolder
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

    def ring_when(self, gate: str) -> None:
        until(Path(gate).exists, "the gate opens")
        self.rang.append([time.time()])

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
        ({"every_s": 1, "overlap": "pile"}, ValueError, "'skip', 'queue', 'allow', 'replace', not 'pile'"),
        ({"every_s": 1, "catch_up_s": 1}, ValueError, "catch_up_s must be 10 seconds or more"),
        ({"every_s": 1, "catch_up_s": "x"}, TypeError, "catch_up_s"),
        ({"at": 1_000_000.0, "catch_up_s": 60}, ValueError, "would be missed: give a time that is to come"),
        ({"cron": "0 0 30 2 *"}, ValueError, "never comes due"),
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


def test_one_that_comes_faster_than_its_method_leaves_room_for_others(wid: str, tmp_path: Path) -> None:
    clock, gate = made(wid), tmp_path / "gate"
    workflow.remind(clock, "ring_when", str(gate), every_s=0.1)
    until(lambda: workflow.list_reminders(clock)[0]["skipped"] >= 10, "times pass")
    (listed,) = workflow.list_reminders(clock)
    assert (listed["fired"], listed["overlap"], listed["catch_up_s"]) == (2, "skip", None)
    assert workflow.describe(wid).mailbox_length == 2, "one that runs and one that waits"
    call = clock.ring.run_async("a caller")
    gate.touch()
    ray.get(call, timeout=60)
    workflow.cancel_reminder(clock, "ring_when")
    # Two calls of the reminder and not ten were before it.
    assert [len(rang) for rang in clock.times.run()][:3] == [1, 1, 2]


def test_each_time_has_a_call_where_that_is_asked_for(wid: str, tmp_path: Path) -> None:
    clock, gate = made(wid), tmp_path / "gate"
    workflow.remind(clock, "ring_when", str(gate), every_s=0.1, overlap="queue")
    until(lambda: workflow.list_reminders(clock)[0]["fired"] >= 10, "it has called ten times")
    assert workflow.describe(wid).mailbox_length >= 10
    workflow.cancel_reminder(clock, "ring_when")
    gate.touch()
    until(lambda: workflow.describe(wid).mailbox_length == 0, "all have run")
    assert len(clock.times.run()) >= 10


def test_by_a_cron_text_it_is_due_as_a_schedule_is(wid: str) -> None:
    clock = made(wid)
    workflow.remind(clock, "ring", cron="0 0 1 4 *", timezone="Europe/Berlin")
    (listed,) = workflow.list_reminders(clock)
    due = datetime.fromtimestamp(listed["next_due_unix_s"], ZoneInfo("Europe/Berlin"))
    assert (due.month, due.day, due.hour, due.minute) == (4, 1, 0, 0)
    assert due > datetime.now(timezone.utc)


# The last one, because it has the platform of the others opened again.
def test_after_a_time_when_nothing_ran_it_calls_once(wid: str, platform: Path) -> None:
    clock = made(wid)
    workflow.remind(clock, "ring", every_s=500)
    workflow.shutdown()
    folder = StorageFolder.open(platform, create=False)
    try:
        with folder.kv.write() as txn:
            seq = actor_store.seq_of(txn, wid)
            assert seq is not None
            known = actor_reminders.find(txn, seq, "ring")
            assert known is not None
            long_ago = replace(known, next_due_unix_s=known.next_due_unix_s - 1_000_000)
            actor_reminders.save(txn, seq, long_ago, was=known)
    finally:
        folder.close()
    workflow.init(str(platform))
    clock = workflow.get_actor(wid)
    until(clock.times.run, "it rings")
    (listed,) = workflow.list_reminders(clock)
    assert (listed["fired"], listed["next_due_unix_s"]) == (1, known.next_due_unix_s)
    assert len(clock.times.run()) == 1
