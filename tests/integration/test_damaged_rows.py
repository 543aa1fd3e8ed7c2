"""A row of one workflow is damaged in LMDB: that workflow is in trouble, and no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import Accepted, AdmitQueued, Cancel, FireTimer, Recover, Submit
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.memory import MemoryStore

GRAPH = Graph(nodes=(NodeSpec(task_id="a"),), sink=0)
NOW_UNIX_S = 1_700_000_000.0

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "overwritten": lambda raw: b"\xff" * len(raw),
    "truncated": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "of another form": lambda raw: b"\x06\x00\x00\x00[{},[]]"[:4] + b"[{},[]]",
    "of no known status": lambda raw: raw.replace(b'"status":"', b'"status":"x', 1),
}


def damage(kv: KeyValueStore, workflow_id: str, how: str = "overwritten") -> int:
    """Damage the row of a workflow; its number."""
    with kv.write() as txn:
        row = store.find(txn, workflow_id)
        assert row is not None
        raw = txn.get(layout.workflow(row.seq))
        assert raw is not None
        txn.put(layout.workflow(row.seq), DAMAGES[how](raw))
    return row.seq


@pytest.fixture
def opened(platform: Path) -> Iterator[KeyValueStore]:
    """The store of the running platform, as a second process sees it."""
    folder = StorageFolder.open(platform, create=False)
    yield folder.kv
    folder.close()


@ray.remote
def identity(value: int) -> int:
    return value


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_workflow_is_left_out_of_the_list_refused_by_name_and_can_be_deleted(
    platform: Path, opened: KeyValueStore, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"{how} {number}" for number in range(3)]
    for number, workflow_id in enumerate(ids):
        assert workflow.run(identity.bind(number), workflow_id=workflow_id) == number
    seq = damage(opened, ids[1], how)

    with caplog.at_level(logging.ERROR, logger="holdfast"):
        listed = [workflow_id for workflow_id, _ in workflow.list_all(workflow.SUCCESSFUL)]
    assert [workflow_id for workflow_id in listed if workflow_id in ids] == [ids[0], ids[2]]
    assert f"workflow number {seq} is not listed" in caplog.text

    for ask in (workflow.get_status, workflow.get_metadata, workflow.get_output, workflow.resume, workflow.cancel):
        with pytest.raises(StorageCorruptError, match=f"workflow '{ids[1]}' is damaged"):
            ask(ids[1])
    with pytest.raises(StorageCorruptError, match=ids[1]):
        workflow.run(identity.bind(7), workflow_id=ids[1])
    with pytest.raises(StorageCorruptError, match=ids[1]):
        workflow.send_event(ids[1], "key")
    assert workflow.get_output(ids[0]) == 0

    workflow.delete(ids[1])
    caplog.clear()
    assert len(workflow.list_all(workflow.SUCCESSFUL)) == len(listed)
    assert caplog.text == ""
    assert workflow.run(identity.bind(7), workflow_id=ids[1]) == 7


# -- what the executors do about it, without Ray -----------------------------------------------------------------------


def submitted(*workflow_ids: str, max_running: int | None = None) -> tuple[MemoryStore, ExecutorCore]:
    kv = MemoryStore()
    with kv.write() as txn:
        store.save_setting(txn, "limits", {"max_running": max_running})
    core = ExecutorCore(kv, "executor")
    core.perform([Submit(workflow_id=name, graph=GRAPH, nonce=name) for name in workflow_ids], NOW_UNIX_S)
    return kv, core


def test_an_executor_that_starts_anew_takes_the_others_up() -> None:
    kv, _ = submitted("w1", "w2", "w3")
    damage(kv, "w2")
    successor = ExecutorCore(kv, "executor")
    outcomes = successor.perform([Recover(seq=seq) for seq in (1, 2, 3)], NOW_UNIX_S).outcomes
    assert [type(outcome) for outcome in outcomes] == [Accepted, StorageCorruptError, Accepted]
    assert sorted(successor.held) == [1, 3]
    with kv.read() as txn:
        assert store.held_by(txn, "executor") == [1, 3]


def test_a_timer_of_it_is_dropped() -> None:
    kv, core = submitted("w")
    with kv.write() as txn:
        txn.put(layout.timer(NOW_UNIX_S, 1, 0), b"")
    damage(kv, "w")
    (outcome,) = core.perform([FireTimer(seq=1, task=0, due_unix_s=NOW_UNIX_S)], NOW_UNIX_S).outcomes
    assert isinstance(outcome, StorageCorruptError)
    with kv.read() as txn:
        assert store.next_due(txn) is None


def test_the_queue_goes_on_past_it() -> None:
    kv, core = submitted("runs", "damaged", "next", max_running=1)
    damage(kv, "damaged")
    core.perform([Cancel(workflow_id="runs"), AdmitQueued()], NOW_UNIX_S)
    with kv.read() as txn:
        row = store.find(txn, "next")
        assert row is not None
        assert row.status is WorkflowStatus.RUNNING


def test_a_platform_that_starts_marks_the_others_resumable() -> None:
    kv, _ = submitted("w1", "w2", "w3")
    damage(kv, "w2")
    lose_cluster(kv, ["executor"])
    with kv.read() as txn:
        assert store.list_seqs(txn, WorkflowStatus.RESUMABLE) == [1, 3]
        assert store.held_by(txn, "executor") == []


def test_a_running_one_that_is_deleted_is_gone_whoever_holds_it() -> None:
    kv, core = submitted("w")
    damage(kv, "w")
    with kv.write() as txn:
        assert store.delete_damaged(txn, "w") == 1
        assert store.count(txn, WorkflowStatus.RUNNING) == 0
        assert [key for key, _ in txn.scan(b"") if not key.startswith((b"c", b"m", b"b"))] == []
        assert not store.owns_blobs(txn, "w")
    assert core.perform([Recover(seq=1)], NOW_UNIX_S).outcomes == [
        Accepted(seq=1, status=WorkflowStatus.NONE, fresh=False)
    ]
