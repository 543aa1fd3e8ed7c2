"""Requests that Ray sends again when the executor died before it could answer."""

from __future__ import annotations

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import Accepted, Delete, Submit
from holdfast.engine.errors import WorkflowNotFoundError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.storage.memory import MemoryStore


def _submit() -> Submit:
    return Submit(
        workflow_id="w",
        nonce="nonce",
        graph=Graph(nodes=(NodeSpec(task_id="s", kind=NodeKind.SLEEP, duration_s=0.0),), sink=0),
    )


def test_a_submission_repeated_after_its_workflow_was_deleted_runs_nothing() -> None:
    kv = MemoryStore()
    core = ExecutorCore(kv, "executor-0")
    submit = _submit()
    (accepted,) = core.perform([submit], 1.0).outcomes
    assert isinstance(accepted, Accepted)
    assert _end_and_delete(core) == []
    (refused,) = core.perform([submit], 3.0).outcomes
    assert isinstance(refused, WorkflowNotFoundError)


def test_what_was_deleted_is_forgotten_with_the_platform_whose_calls_could_be_repeated() -> None:
    kv = MemoryStore()
    core = ExecutorCore(kv, "executor-0")
    core.perform([_submit()], 1.0)
    _end_and_delete(core)
    lose_cluster(kv, ["executor-0"])
    with kv.read() as txn:
        assert [key for key, _ in txn.scan(b"j")] == []


def _end_and_delete(core: ExecutorCore) -> list[object]:
    from holdfast.actors.operations import FireTimer

    fired = core.perform([FireTimer(seq=1, task=0, due_unix_s=1.0)], 2.0)
    assert [row.workflow_id for row in fired.ended] == ["w"]
    outcomes = core.perform([Delete(workflow_id="w")], 2.0).outcomes
    return [outcome for outcome in outcomes if not isinstance(outcome, Accepted)]
