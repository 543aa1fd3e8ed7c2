"""A workflow that cannot be worked on is tried a few times and then given up; the others go on.

The fault is real: the row of a lease is overwritten, so every signal to its workflow fails inside the transaction.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Accepted, Deliver, GiveUp, Recover, Submit
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.signals import TaskReturned
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.memory import MemoryStore
from holdfast.storage.payload import Payload
from holdfast.workflow.exceptions import WorkflowDefectError
from tests.recovery.audit import Audit
from tests.recovery.gates import gate_then_after
from tests.recovery.processes import until

NOW_UNIX_S = 1_700_000_000.0
GRAPH = Graph(nodes=(NodeSpec(task_id="a"),), sink=0)
POISON = b"no lease"


def overwrite_lease(kv: KeyValueStore, seq: int, raw: bytes = POISON) -> bytes:
    """Put something else in the place of a lease; what was there."""
    with kv.write() as txn:
        before = txn.get(layout.lease(seq))
        assert before is not None
        txn.put(layout.lease(seq), raw)
    return before


def ended(seq: int) -> Deliver:
    return Deliver(seq=seq, signal=TaskReturned(task=0, attempt=1, value=Payload(b"a value")))


def status(kv: KeyValueStore, seq: int) -> WorkflowStatus:
    with kv.read() as txn:
        row = store.get(txn, seq)
    assert row is not None
    return row.status


@pytest.fixture
def kv() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def core(kv: MemoryStore) -> ExecutorCore:
    """It drives workflows 1 and 2; the first is poisoned."""
    core = ExecutorCore(kv, "executor")
    core.perform([Submit(workflow_id=f"w{number}", graph=GRAPH, nonce=f"n{number}") for number in (1, 2)], NOW_UNIX_S)
    overwrite_lease(kv, 1)
    return core


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_core_names_the_workflow_that_a_batch_failed_on(
    core: ExecutorCore, kv: MemoryStore, order: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        core.perform([ended(seq) for seq in order], NOW_UNIX_S)
    assert core.working_on == 1
    assert 1 not in core.held
    # One that had been worked on is ahead of the store, and is loaded anew; one that had not been is as it was.
    assert (2 in core.held) == (order == (1, 2))
    assert status(kv, 2) is WorkflowStatus.RUNNING


def test_the_core_is_well_after_it(core: ExecutorCore, kv: MemoryStore) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        core.perform([ended(1), ended(2)], NOW_UNIX_S)
    core.perform([ended(2)], NOW_UNIX_S)
    assert core.working_on is None
    assert status(kv, 2) is WorkflowStatus.SUCCESSFUL


def test_a_workflow_that_is_given_up_is_failed_with_what_was_wrong(core: ExecutorCore, kv: MemoryStore) -> None:
    batch = core.perform([GiveUp(seq=1, problem="ValueError: it is so"), ended(2)], NOW_UNIX_S)
    assert [row.workflow_id for row in batch.ended] == ["w1", "w2"]
    with kv.read() as txn:
        row = store.get(txn, 1)
        assert store.held_by(txn, "executor") == []
    assert row is not None
    assert row.status is WorkflowStatus.FAILED
    assert isinstance(row.error, WorkflowDefectError)
    assert "ValueError: it is so" in str(row.error)


def test_giving_up_what_has_ended_or_is_gone_changes_nothing(core: ExecutorCore, kv: MemoryStore) -> None:
    core.perform([ended(2)], NOW_UNIX_S)
    outcomes = core.perform([GiveUp(seq=2, problem="late"), GiveUp(seq=99, problem="late")], NOW_UNIX_S).outcomes
    assert [outcome.fresh for outcome in outcomes if isinstance(outcome, Accepted)] == [False, False]
    assert status(kv, 2) is WorkflowStatus.SUCCESSFUL


def test_what_is_taken_up_together_with_it_is_named_too(core: ExecutorCore, kv: MemoryStore) -> None:
    successor = ExecutorCore(kv, "executor")
    with pytest.raises(ValueError, match="invalid literal"):
        successor.perform([Recover(seq=2), Recover(seq=1)], NOW_UNIX_S)
    assert successor.working_on == 1
    assert successor.held == {}


def test_an_executor_gives_it_up_and_drives_the_others(storage: Path, audit: Audit, tmp_path: Path) -> None:
    @ray.remote
    def identity(value: int) -> int:
        return value

    gates = {name: tmp_path / name for name in ("poisoned", "well")}
    references = {
        name: workflow.run_async(gate_then_after(audit.path, gate), workflow_id=name) for name, gate in gates.items()
    }
    folder = StorageFolder.open(storage, create=False)
    try:
        with folder.kv.read() as txn:
            row = store.find(txn, "poisoned")
        assert row is not None
        lease = overwrite_lease(folder.kv, row.seq)
        for gate in gates.values():
            gate.touch()
        assert ray.get(references["well"], timeout=60) == "after through"
        with pytest.raises(workflow.WorkflowExecutionError) as caught:
            ray.get(references["poisoned"], timeout=60)
        assert isinstance(caught.value.__cause__, WorkflowDefectError)
        assert workflow.get_status("poisoned") == workflow.FAILED
        assert workflow.run(identity.bind(7), workflow_id="later") == 7
        overwrite_lease(folder.kv, row.seq, lease)
    finally:
        folder.close()
    assert workflow.resume("poisoned") == "after through"


def test_a_time_that_no_calendar_holds_keeps_no_platform_from_starting(storage: Path) -> None:
    workflow.run_async(workflow.sleep(1e15), workflow_id="for ever")
    workflow.run_async(workflow.sleep(1e300), workflow_id="longer still")
    workflow.shutdown()
    workflow.init(str(storage), resume="auto")
    began = time.time()
    assert workflow.run(workflow.sleep(0.2), workflow_id="a while") is None
    assert time.time() - began >= 0.2
    until(lambda: workflow.get_status("for ever") == workflow.RUNNING, "it is taken up")
