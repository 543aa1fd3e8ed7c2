"""Cancelling and deleting."""

from __future__ import annotations

import fcntl
import os

import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import WorkflowNotFoundError, WorkflowStillActiveError
from tests.integration.traces import mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def gated(gate, value=None, started=None):
    if started is not None:
        mark(started, str(os.getpid()))
    wait_for_file(gate)
    return value


@ray.remote
def needs_file(path):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return "found"


@ray.remote
def holds_lock(path, started, gate):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mark(started)
        wait_for_file(gate)


@ray.remote
def into_lock(path, started, gate):
    inside = holds_lock.options(**workflow.options(allow_inplace=True))
    return workflow.continuation(inside.bind(path, started, gate))


def lock_is_free(path) -> bool:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- cancel ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [holds_lock, into_lock], ids=["task", "in-place task"])
def test_a_file_lock_of_a_running_task_is_free_when_cancel_returns(wid, tmp_path, task) -> None:
    lock, started = tmp_path / "lock", tmp_path / "started"
    ref = workflow.run_async(task.bind(lock, started, tmp_path / "gate"), workflow_id=wid)
    wait_for_file(started)
    assert not lock_is_free(lock)
    workflow.cancel(wid)
    assert lock_is_free(lock)
    assert workflow.get_status(wid) == "CANCELED"
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(ref)


def test_cancel_stops_every_running_task(wid, tmp_path) -> None:
    locks = [tmp_path / f"lock-{n}" for n in range(2)]
    starts = [tmp_path / f"started-{n}" for n in range(2)]
    parts = [holds_lock.bind(lock, start, tmp_path / "gate") for lock, start in zip(locks, starts, strict=True)]
    workflow.run_async(add.bind(*parts), workflow_id=wid)
    for start in starts:
        wait_for_file(start)
    workflow.cancel(wid)
    assert [lock_is_free(lock) for lock in locks] == [True, True]


def test_all_who_wait_for_a_cancelled_workflow_hear_of_it(wid, tmp_path) -> None:
    task_id = "waited-for"
    dag = gated.options(**workflow.options(task_id=task_id)).bind(tmp_path / "gate")
    refs = [workflow.run_async(dag, workflow_id=wid), workflow.get_output_async(wid)]
    of_task = workflow.get_output_async(wid, task_id=task_id)

    @ray.remote(num_cpus=0)
    def elsewhere():
        try:
            workflow.get_output(wid)
        except workflow.WorkflowCancellationError as error:
            return str(error)

    other = elsewhere.remote()
    workflow.cancel(wid)
    for ref in refs:
        with pytest.raises(workflow.WorkflowCancellationError, match=wid):
            ray.get(ref)
    with pytest.raises((workflow.WorkflowCancellationError, ValueError)):
        ray.get(of_task)
    assert wid in ray.get(other)
    with pytest.raises(workflow.WorkflowCancellationError):
        workflow.get_output(wid)


def test_cancel_of_what_is_over_or_unknown(wid, tmp_path) -> None:
    workflow.run(add.bind(1, 2), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == "SUCCESSFUL"
    assert workflow.get_output(wid) == 3
    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        workflow.cancel("nobody")
    workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=f"{wid}-2")
    workflow.cancel(f"{wid}-2")
    workflow.cancel(f"{wid}-2")
    assert workflow.get_status(f"{wid}-2") == "CANCELED"


def test_cancel_of_a_workflow_that_only_waits(wid) -> None:
    ref = workflow.run_async(workflow.sleep(3600), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == "CANCELED"
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(ref)


def test_cancel_of_a_task_that_has_no_worker_yet(wid, tmp_path) -> None:
    workflow.run_async(gated.options(num_cpus=64).bind(tmp_path / "gate"), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == "CANCELED"


# -- delete ------------------------------------------------------------------------------------------------------------


def test_a_deleted_id_is_gone_and_may_be_run_afresh(wid, tmp_path) -> None:
    traces = tmp_path / "traces"

    @ray.remote
    def trace(value):
        mark(traces, value)
        return value

    named = trace.options(**workflow.options(task_id="old"))
    assert workflow.run(named.bind("one"), workflow_id=wid, metadata={"k": 1}) == "one"
    workflow.delete(wid)
    with pytest.raises(WorkflowNotFoundError):
        workflow.get_status(wid)
    with pytest.raises(ValueError, match=wid):
        workflow.get_output(wid)
    with pytest.raises(ValueError, match=wid):
        workflow.get_metadata(wid)
    with pytest.raises(workflow.exceptions.WorkflowNotResumableError):
        workflow.resume(wid)
    with pytest.raises(WorkflowNotFoundError):
        workflow.delete(wid)
    assert wid not in dict(workflow.list_all())
    assert workflow.run(trace.bind("two"), workflow_id=wid) == "two"
    assert marks(traces) == ["one", "two"]
    assert workflow.get_metadata(wid)["user_metadata"] == {}
    with pytest.raises(ValueError, match="old"):
        workflow.get_metadata(wid, "old")


def test_delete_of_an_unknown_or_active_workflow_is_refused(wid, tmp_path) -> None:
    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        workflow.delete("nobody")
    ref = workflow.run_async(gated.bind(tmp_path / "gate", 1), workflow_id=wid)
    with pytest.raises(WorkflowStillActiveError, match=wid):
        workflow.delete(wid)
    (tmp_path / "gate").touch()
    assert ray.get(ref) == 1
    workflow.delete(wid)


def test_failed_and_cancelled_workflows_can_be_deleted_and_run_afresh(wid, tmp_path) -> None:
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(tmp_path / "none"), workflow_id=wid)
    workflow.delete(wid)
    workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=wid)
    workflow.cancel(wid)
    workflow.delete(wid)
    assert workflow.run(add.bind(1, 2), workflow_id=wid) == 3


def test_large_values_go_with_their_workflow(platform, wid) -> None:
    def files() -> int:
        return sum(len(names) for _, _, names in os.walk(platform / "blobs"))

    @ray.remote
    def large():
        return [b"x" * 1_000_000, ray.put(b"y" * 1_000_000)]

    before = files()
    workflow.run(large.bind(), workflow_id=wid)
    assert files() > before
    workflow.delete(wid)
    wait_for(lambda: files() == before, "the removal of the files")
