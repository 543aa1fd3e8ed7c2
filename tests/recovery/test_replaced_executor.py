"""An executor that was replaced while it was stopped goes on where it was: none of it gets into the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.names import process_setting
from holdfast.actors.operations import Accepted, Cancel, Deliver, FireTimer, Operation, Recover, Submit
from holdfast.engine.commands import StartTask
from holdfast.engine.errors import ExecutorReplacedError, StaleLeaseError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.signals import CancelRequested, TaskContinued, TaskLost, TaskRaised, TaskReturned
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload

NOW_UNIX_S = 1_700_000_000.0
VALUE = Payload(b"a value")
GRAPH = Graph(nodes=(NodeSpec(task_id="a"), NodeSpec(task_id="b", inputs=(0,))), sink=1)


@pytest.fixture
def kv(tmp_path: Path) -> Iterator[KeyValueStore]:
    folder = StorageFolder.open(tmp_path / "storage")
    yield folder.kv
    folder.close()


def content(kv: KeyValueStore) -> dict[bytes, bytes]:
    with kv.read() as txn:
        return dict(txn.scan(b""))


def submitted(kv: KeyValueStore) -> tuple[ExecutorCore, int]:
    """An executor that drives a workflow, whose first task it has started; and the workflow's number."""
    core = ExecutorCore(kv, "executor")
    batch = core.perform([Submit(workflow_id="w", graph=GRAPH, nonce="n")], NOW_UNIX_S)
    (outcome,) = batch.outcomes
    assert isinstance(outcome, Accepted)
    assert [command.node.task_id for _, command in batch.commands if isinstance(command, StartTask)] == ["a"]
    return core, outcome.seq


def late(seq: int) -> dict[str, Operation]:
    about = {"task": 0, "attempt": 1}
    signals = {
        "returned": TaskReturned(**about, value=VALUE),
        "continued": TaskContinued(**about, graph=GRAPH),
        "raised": TaskRaised(**about, error=VALUE),
        "lost": TaskLost(**about, error=VALUE),
        "cancel": CancelRequested(),
    }
    return {name: Deliver(seq=seq, signal=signal) for name, signal in signals.items()}


@pytest.mark.parametrize("what", late(0))
def test_a_late_write_is_refused_and_starts_nothing(what: str, kv: KeyValueStore) -> None:
    stopped, seq = submitted(kv)
    successor = ExecutorCore(kv, "executor")
    successor.perform([Recover(seq=seq)], NOW_UNIX_S + 1)

    before = content(kv)
    batch = stopped.perform([late(seq)[what]], NOW_UNIX_S + 2)
    assert content(kv) == before
    assert batch.lost == [seq]
    assert batch.commands == []
    assert batch.logged == []
    assert seq not in stopped.held

    # The successor is not disturbed by it.
    batch = successor.perform([late(seq)["returned"]], NOW_UNIX_S + 3)
    assert [command.node.task_id for _, command in batch.commands if isinstance(command, StartTask)] == ["b"]


def test_an_old_epoch_is_refused_inside_the_transaction(kv: KeyValueStore) -> None:
    stopped, seq = submitted(kv)
    epoch = stopped.held[seq].epoch
    ExecutorCore(kv, "executor").perform([Recover(seq=seq)], NOW_UNIX_S + 1)
    with kv.write() as txn, pytest.raises(StaleLeaseError):
        store.check_lease(txn, seq, epoch, "w")


def test_a_process_that_no_longer_bears_the_name_takes_no_lease_back(kv: KeyValueStore) -> None:
    def bear(process: tuple[int, int]) -> ExecutorCore:
        with kv.write() as txn:
            store.save_setting(txn, process_setting("executor"), list(process))
        return ExecutorCore(kv, "executor", process)

    stopped = bear((10, 1))
    stopped.perform([Submit(workflow_id="w", graph=GRAPH, nonce="n")], NOW_UNIX_S)
    replacement = bear((11, 2))
    with kv.read() as txn:
        (seq,) = store.held_by(txn, "executor")
    replacement.perform([Recover(seq=seq)], NOW_UNIX_S)
    before = content(kv)
    # Each of these would load the workflow, and take its lease by that.
    for operation in (Recover(seq=seq), Cancel(workflow_id="w"), FireTimer(seq=seq, task=0, due_unix_s=0.0)):
        with pytest.raises(ExecutorReplacedError, match="executor"):
            stopped.perform([operation], NOW_UNIX_S)
    assert content(kv) == before


def test_a_new_platform_knows_no_process_of_the_old_one_and_none_of_those_writes(kv: KeyValueStore) -> None:
    with kv.write() as txn:
        for name in ("executor", "executor-of-w"):
            store.save_setting(txn, process_setting(name), [10, 1])
    old = ExecutorCore(kv, "executor", (10, 1))
    old.perform([Submit(workflow_id="w", graph=GRAPH, nonce="n")], NOW_UNIX_S)
    lose_cluster(kv, ["executor"])
    with kv.read() as txn:
        assert store.settings_beginning(txn, process_setting("")) == {}
    with pytest.raises(ExecutorReplacedError):
        old.perform([Cancel(workflow_id="w")], NOW_UNIX_S)
