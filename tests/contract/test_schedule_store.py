"""Schedules as rows: what is written is read, there is one row to be woken by, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.schedules import DueRun, Overlap, PastRun, Schedule
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import layout, schedule_store, workflow_store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.garbage import collect_garbage
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob
from holdfast.storage.schedule_store import ScheduleRow

NONCE = "aa" * 16
NOW = 1_700_000_000.0


def schedule_row(name: str = "s", nonce: str = NONCE, **about: Any) -> ScheduleRow:
    schedule = Schedule(
        name=name, overlap=Overlap.QUEUE, catch_up_s=60.0, coalesce=True, next_due_unix_s=1_800_000_000.25
    )
    return ScheduleRow(
        schedule=replace(schedule, **about),
        timing=Timing.of(every_s=5).anchored(100.5).to_json(),
        nonce=nonce,
        digest="d",
        has_blobs=True,
        user_metadata={"for": "night"},
        environment="e",
        created_unix_s=123.5,
    )


def keys(store: KeyValueStore) -> list[bytes]:
    with store.read() as txn:
        return [key for key, _ in txn.scan(b"")]


def test_a_schedule_comes_back_as_it_was_written(store: KeyValueStore) -> None:
    row = schedule_row(
        paused=True,
        waiting=(DueRun(due_unix_s=1.5), DueRun(due_unix_s=2.0, asked="me")),
        running=("w",),
        interrupted=True,
        past=(PastRun(due_unix_s=0.1, workflow_id="w", asked="me"),),
        skipped=3,
        missed_until_unix_s=7.25,
    )
    with store.write() as txn:
        schedule_store.save(txn, row, was=None, now_unix_s=NOW)
    with store.read() as txn:
        assert schedule_store.load(txn, "s") == row
        assert schedule_store.load(txn, "t") is None
        assert schedule_store.list_all(txn) == [row]


def test_there_is_one_row_to_be_woken_by(store: KeyValueStore) -> None:
    row = schedule_row()
    with store.write() as txn:
        schedule_store.save(txn, row, was=None, now_unix_s=NOW)
        assert schedule_store.next_due(txn) == 1_800_000_000.25
        assert schedule_store.due(txn, 1_800_000_000.0, 10) == []
        assert schedule_store.due(txn, 1_800_000_001.0, 10) == ["s"]
        moved = replace(row, schedule=replace(row.schedule, next_due_unix_s=1_800_000_005.0))
        schedule_store.save(txn, moved, was=row, now_unix_s=NOW)
        assert schedule_store.next_due(txn) == 1_800_000_005.0
        waits = replace(row, schedule=replace(moved.schedule, waiting=(DueRun(due_unix_s=9e9),)))
        schedule_store.save(txn, waits, was=moved, now_unix_s=NOW)
        assert schedule_store.next_due(txn) == 0.0
        ended = replace(row, schedule=replace(moved.schedule, next_due_unix_s=None))
        schedule_store.save(txn, ended, was=waits, now_unix_s=NOW)
        assert schedule_store.next_due(txn) is None


def test_those_are_due_first_that_are_due_longest(store: KeyValueStore) -> None:
    with store.write() as txn:
        for number in (3, 1, 2):
            row = schedule_row(f"s{number}", f"{number:032x}", next_due_unix_s=float(number))
            schedule_store.save(txn, row, was=None, now_unix_s=NOW)
    with store.read() as txn:
        assert schedule_store.due(txn, 2.5, 10) == ["s1", "s2"]
        assert schedule_store.due(txn, 9.0, 1) == ["s1"]


def test_after_a_restart_those_are_looked_at_in_which_a_run_waits(store: KeyValueStore) -> None:
    waits = schedule_row("waits", "1" * 32, waiting=(DueRun(due_unix_s=5.0),), running=("w",))
    with store.write() as txn:
        schedule_store.save(txn, waits, was=None, now_unix_s=NOW)
        schedule_store.save(txn, schedule_row("rests", "2" * 32), was=None, now_unix_s=NOW)
        assert schedule_store.next_due(txn) == 1_800_000_000.25
        schedule_store.wake_waiting(txn)
        assert schedule_store.due(txn, 1.0, 10) == ["waits"]
        schedule_store.save(txn, waits, was=waits, now_unix_s=NOW)
        assert schedule_store.next_due(txn) == 1_800_000_000.25


def test_what_it_runs_comes_back_with_its_large_arguments_in_the_group_of_the_run(store: KeyValueStore) -> None:
    nodes = (
        NodeSpec(task_id="a", arguments=Blob(f"{NONCE}/11", 5)),
        NodeSpec(task_id="b", arguments=Payload(b"small"), inputs=(0,)),
    )
    with store.write() as txn:
        schedule_store.save_graph(txn, "s", Graph(nodes=(NodeSpec(task_id="old"),) * 300, sink=0))
        schedule_store.save_graph(txn, "s", Graph(nodes=nodes, sink=1))
    with store.read() as txn:
        graph = schedule_store.load_graph(txn, "s", blob_group="bb")
    assert graph.sink == 1
    assert graph.nodes[0].arguments == Blob("bb/11", 5)
    assert (graph.nodes[1].arguments.inband, graph.nodes[1].inputs) == (b"small", (0,))


@pytest.mark.parametrize("waiting", [(), (DueRun(due_unix_s=5.0),)], ids=["rests", "waits"])
def test_nothing_is_left_of_a_schedule_that_was_deleted(store: KeyValueStore, waiting: tuple[DueRun, ...]) -> None:
    row = schedule_row(waiting=waiting)
    with store.write() as txn:
        schedule_store.save_graph(txn, "s", Graph(nodes=(NodeSpec(task_id="a"),), sink=0))
        schedule_store.save(txn, row, was=None, now_unix_s=NOW)
    with store.write() as txn:
        schedule_store.wake_waiting(txn)
        schedule_store.delete(txn, row, NOW)
        # What remains is that the request is known, until nobody can send it again.
        assert workflow_store.was_deleted(txn, row.nonce)
        workflow_store.forget_deleted(txn)
    assert keys(store) == []


def test_blobs_of_a_schedule_are_no_garbage_until_it_is_redefined_or_deleted(tmp_path: Path) -> None:
    folder = StorageFolder.open(tmp_path / "storage")
    try:
        first, second = schedule_row(), schedule_row(nonce="bb" * 16)
        folder.blobs.write(first.nonce, Payload(b"value"))
        with folder.kv.write() as txn:
            schedule_store.save(txn, first, was=None, now_unix_s=NOW)
        assert collect_garbage(folder, before_unix_s=1e12) == 0
        folder.blobs.write(second.nonce, Payload(b"value"))
        with folder.kv.write() as txn:
            schedule_store.save(txn, second, was=first, now_unix_s=NOW)
        assert collect_garbage(folder, before_unix_s=1e12) == 1
        assert folder.blobs.groups() == [second.nonce]
        with folder.kv.write() as txn:
            schedule_store.delete(txn, second, NOW)
        assert collect_garbage(folder, before_unix_s=1e12) == 1
    finally:
        folder.close()


def test_a_damaged_schedule_hides_no_other_and_can_be_deleted(store: KeyValueStore) -> None:
    with store.write() as txn:
        for number in (1, 2):
            row = schedule_row(f"s{number}", f"{number:032x}", next_due_unix_s=float(number))
            schedule_store.save(txn, row, was=None, now_unix_s=NOW)
        txn.put(layout.schedule("s1"), b"damaged")
    with store.write() as txn:
        assert [row.schedule.name for row in schedule_store.list_all(txn)] == ["s2"]
        assert schedule_store.due(txn, 9.0, 10) == ["s1", "s2"]
        with pytest.raises(StorageCorruptError):
            schedule_store.load(txn, "s1")
        schedule_store.let_go(txn, "s1")
        assert schedule_store.due(txn, 9.0, 10) == ["s2"]
        schedule_store.delete_damaged(txn, "s1")
        assert schedule_store.load(txn, "s1") is None
