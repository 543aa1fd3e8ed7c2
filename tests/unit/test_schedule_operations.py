"""Schedules in the executor's transaction: requests that come again, and rows that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Deliver
from holdfast.actors.schedule_messages import (
    DropSchedule,
    FireSchedule,
    KeepSchedule,
    ScheduleKept,
    Steering,
    SteerSchedule,
    Terms,
)
from holdfast.engine.errors import ScheduleNotFoundError, StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.schedules import Overlap
from holdfast.engine.signals import TaskReturned
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import layout, schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.memory import MemoryStore
from holdfast.storage.payload import Payload

NOW = 1_800_000_000.0
NONE = Payload(b"\x80\x05N.")


@pytest.fixture
def kv() -> Iterator[MemoryStore]:
    store = MemoryStore()
    yield store
    store.close()


@pytest.fixture
def core(kv: MemoryStore) -> ExecutorCore:
    return ExecutorCore(kv, "executor")


def keep(nonce: str = "a" * 32, every_s: float = 10.0, **about: Any) -> KeepSchedule:
    terms = Terms(timing=Timing.of(every_s=every_s), overlap=Overlap.QUEUE, catch_up_s=1000.0, coalesce=False)
    graph = Graph(nodes=(NodeSpec(task_id="t"),), sink=0)
    return KeepSchedule(name="s", terms=terms, graph=graph, nonce=nonce, digest="d", **about)


def steer(steering: Steering, nonce: str) -> SteerSchedule:
    return SteerSchedule(name="s", steering=steering, nonce=nonce)


def do(core: ExecutorCore, operation: Any, now: float = NOW) -> Any:
    (outcome,) = core.perform([operation], now).outcomes
    return outcome


def kept(kv: MemoryStore) -> schedule_store.ScheduleRow | None:
    with kv.read() as txn:
        return schedule_store.load(txn, "s")


def test_a_definition_that_is_sent_again_after_its_schedule_was_deleted_makes_none(
    kv: MemoryStore, core: ExecutorCore
) -> None:
    do(core, keep())
    do(core, DropSchedule(name="s", nonce="b" * 32))
    assert do(core, keep()) == ScheduleKept(fresh=False)
    assert kept(kv) is None


def test_a_definition_that_is_sent_again_does_not_undo_a_later_one(kv: MemoryStore, core: ExecutorCore) -> None:
    first, second = keep(), keep("b" * 32, 20.0, replaces=True)
    do(core, first)
    do(core, second)
    do(core, keep("a" * 32, replaces=True))
    row = kept(kv)
    assert row is not None
    assert row.timing["every_s"] == 20.0


def test_a_due_time_that_is_stored_is_kept_whatever_rule_it_was_made_by(kv: MemoryStore, core: ExecutorCore) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    timing = Timing.of(cron="30 2 * * *", timezone="Europe/Berlin")
    terms = Terms(timing=timing, overlap=Overlap.ALLOW, catch_up_s=1000.0, coalesce=False)
    eve = datetime(2027, 3, 28, 1, tzinfo=berlin).timestamp()
    do(core, replace(keep(), terms=terms), eve)
    row = kept(kv)
    assert row is not None
    assert row.schedule.next_due_unix_s == datetime(2027, 3, 28, 3, 0, tzinfo=berlin).timestamp()
    # As it was computed once: as much later as the clocks jump.
    was = datetime(2027, 3, 28, 3, 30, tzinfo=berlin).timestamp()
    with kv.write() as txn:
        changed = replace(row, schedule=replace(row.schedule, next_due_unix_s=was))
        schedule_store.save(txn, changed, was=row, now_unix_s=eve)
    again = do(core, replace(keep("b" * 32), terms=terms), eve)
    assert (again.fresh, again.wake_unix_s) == (False, was)
    do(core, FireSchedule(name="s"), was - 1)
    assert core.held == {}
    do(core, FireSchedule(name="s"), was)
    assert len(core.held) == 1
    row = kept(kv)
    assert row is not None
    assert row.schedule.next_due_unix_s == datetime(2027, 3, 29, 2, 30, tzinfo=berlin).timestamp()


def test_a_deletion_that_is_sent_again_spares_the_schedule_that_has_the_name_since(
    kv: MemoryStore, core: ExecutorCore
) -> None:
    do(core, keep())
    drop = DropSchedule(name="s", nonce="b" * 32)
    do(core, drop)
    do(core, keep("c" * 32))
    assert do(core, drop) == ScheduleKept(fresh=False)
    assert kept(kv) is not None
    do(core, DropSchedule(name="s", nonce="d" * 32))
    assert isinstance(do(core, DropSchedule(name="s", nonce="e" * 32)), ScheduleNotFoundError)


def test_a_pause_that_is_sent_again_does_not_undo_a_resume(kv: MemoryStore, core: ExecutorCore) -> None:
    do(core, keep())
    for steering, nonce in ((Steering.PAUSE, "1"), (Steering.RESUME, "2"), (Steering.PAUSE, "1")):
        do(core, steer(steering, nonce))
    row = kept(kv)
    assert row is not None
    assert not row.schedule.paused


def test_a_trigger_that_is_sent_again_is_answered_as_before(core: ExecutorCore) -> None:
    do(core, keep())
    first = do(core, steer(Steering.TRIGGER, "f" * 32))
    again = do(core, steer(Steering.TRIGGER, "f" * 32), NOW + 1)
    assert first.workflow_id == again.workflow_id != ""
    assert len(core.held) == 1


def test_a_schedule_that_cannot_be_read_holds_up_no_end_of_its_runs(kv: MemoryStore, core: ExecutorCore) -> None:
    do(core, keep())
    run = do(core, steer(Steering.TRIGGER, "f" * 32)).workflow_id
    with kv.write() as txn:
        txn.put(layout.schedule("s"), b"damaged")
    (seq,) = core.held
    epoch = core.held[seq].epoch
    batch = core.perform([Deliver(seq=seq, signal=TaskReturned(task=0, attempt=1, value=NONE), epoch=epoch)], NOW)
    assert [row.workflow_id for row in batch.ended] == [run]
    assert isinstance(do(core, steer(Steering.PAUSE, "1")), StorageCorruptError)
    do(core, FireSchedule(name="s"), NOW + 60)
    with kv.read() as txn:
        assert schedule_store.next_due(txn) is None
    assert do(core, DropSchedule(name="s", nonce="2")) == ScheduleKept()
    assert kept(kv) is None


def test_a_run_that_cannot_be_read_holds_up_no_other(kv: MemoryStore, core: ExecutorCore) -> None:
    do(core, keep())
    do(core, steer(Steering.TRIGGER, "f" * 32))
    (seq,) = core.held
    with kv.write() as txn:
        txn.put(layout.workflow(seq), b"damaged")
    second = do(core, steer(Steering.TRIGGER, "e" * 32), NOW + 1).workflow_id
    with kv.read() as txn:
        row = store.find(txn, second)
    assert row is not None
    assert row.status is WorkflowStatus.RUNNING
