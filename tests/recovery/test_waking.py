"""A workflow that was put away wakes at the cost of what is live, and as the same workflow as before."""

from __future__ import annotations

import math

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage.memory import MemoryStore
from tests.recovery.looping import CountingStore, Loop


@pytest.mark.parametrize("named", [False, True], ids=["ids repeat", "an id of its own for each task"])
def test_waking_reads_no_more_after_a_long_history(named: bool) -> None:
    kv = CountingStore(MemoryStore())
    loop = Loop(ExecutorCore(kv, "executor"), named=named)
    loop.turn(100)
    loop.wake()
    early = kv.rows
    loop.go_on()
    loop.turn(1_000)
    loop.wake()
    assert kv.rows == early < 30


def test_putting_away_writes_no_more_after_a_long_history() -> None:
    memory = MemoryStore()
    loop = Loop(ExecutorCore(memory, "executor"), named=True)
    loop.turn(100)
    early = snapshot_bytes(memory, loop.seq)
    loop.turn(1_000)
    assert 0 < snapshot_bytes(memory, loop.seq) < early + 20


def test_a_short_sleeper_has_no_snapshot() -> None:
    memory = MemoryStore()
    loop = Loop(ExecutorCore(memory, "executor"))
    loop.turn(3)
    assert snapshot_bytes(memory, loop.seq) == 0


@pytest.mark.parametrize("named", [False, True], ids=["ids repeat", "an id of its own for each task"])
def test_a_crash_after_waking_loads_the_records_that_the_snapshot_does_not_know(named: bool) -> None:
    kv = CountingStore(MemoryStore())
    loop = Loop(ExecutorCore(kv, "executor"), named=named)
    loop.turn(100)
    loop.wake()
    before = loop.started.task
    loop.core = ExecutorCore(kv, "executor")
    recovered = loop.recover()
    assert recovered == before
    assert kv.rows > 200
    loop.go_on()
    loop.turn(3)
    # The task that ran when the process died is the only one that runs again.
    again = loop.task_ids.pop(101)
    assert loop.task_ids[100] == again
    assert len(set(loop.task_ids)) == len(loop.task_ids) == 104


@pytest.mark.parametrize("named", [False, True], ids=["ids repeat", "an id of its own for each task"])
def test_a_run_with_snapshots_does_what_one_without_does(named: bool) -> None:
    always, never = (
        Loop(ExecutorCore(MemoryStore(), "executor", snapshot_saves=saves), named=named)
        for saves in (-math.inf, math.inf)
    )
    for loop in (always, never):
        loop.turn(40)
        loop.wake()
        (ended,) = loop.stop().ended
        assert ended.status is WorkflowStatus.SUCCESSFUL
    assert always.task_ids == never.task_ids


def test_the_snapshot_goes_with_the_end_of_the_workflow() -> None:
    memory = MemoryStore()
    loop = Loop(ExecutorCore(memory, "executor"))
    loop.turn(100)
    loop.wake()
    loop.stop()
    assert snapshot_bytes(memory, loop.seq) == 0


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}"], ids=repr)
def test_a_damaged_snapshot_is_none(damaged: bytes) -> None:
    memory = MemoryStore()
    loop = Loop(ExecutorCore(memory, "executor"))
    loop.turn(100)
    with memory.write() as txn:
        txn.put(layout.snapshot(loop.seq), damaged)
    loop.turn(3)
    loop.wake()
    assert loop.stop().ended[0].status is WorkflowStatus.SUCCESSFUL


def snapshot_bytes(memory: MemoryStore, seq: int) -> int:
    with memory.read() as txn:
        return len(txn.get(layout.snapshot(seq)) or b"")
