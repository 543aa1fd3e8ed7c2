"""Listing, status, and taking up again what lost its platform: tests that need a platform of their own."""

from __future__ import annotations

import logging
import os
import queue

import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import WorkflowNotFoundError, WorkflowStillActiveError
from tests.integration.traces import mark, marks, wait_for, wait_for_file


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


# -- list_all, get_status ----------------------------------------------------------------------------------------------


def test_workflows_are_listed_in_order_of_submission_and_filtered(storage, tmp_path) -> None:
    gate = tmp_path / "gate"
    ids = [f"{name}" for name in ("z", "a", "m")]
    for workflow_id in ids:
        workflow.run(add.bind(1), workflow_id=workflow_id)
    running = workflow.run_async(gated.bind(gate), workflow_id="b-running")
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(tmp_path / "never"), workflow_id="c-failed")
    expected = [*((one, "SUCCESSFUL") for one in ids), ("b-running", "RUNNING"), ("c-failed", "FAILED")]
    assert workflow.list_all() == expected
    assert workflow.list_all() == expected
    assert workflow.list_all(workflow.WorkflowStatus.FAILED) == [("c-failed", "FAILED")]
    assert workflow.list_all("RUNNING") == [("b-running", workflow.RUNNING)]
    assert workflow.list_all({"RUNNING", workflow.FAILED}) == expected[3:]
    assert workflow.list_all([workflow.SUCCESSFUL]) == expected[:3]
    assert workflow.list_all(set()) == []
    assert workflow.list_all("CANCELED") == []
    with pytest.raises(ValueError, match="NO SUCH"):
        workflow.list_all("NO SUCH")
    with pytest.raises((TypeError, ValueError)):
        workflow.list_all(5)
    gate.touch()
    ray.get(running)
    assert workflow.list_all("RUNNING") == []


def test_a_status_equals_its_plain_string(storage) -> None:
    workflow.run(add.bind(1), workflow_id="w")
    status = workflow.get_status("w")
    assert status == "SUCCESSFUL"
    assert status is workflow.WorkflowStatus.SUCCESSFUL
    assert {status: 1}["SUCCESSFUL"] == 1
    with pytest.raises(WorkflowNotFoundError, match="nobody"):
        workflow.get_status("nobody")
    assert workflow.list_all() == [("w", "SUCCESSFUL")]


# -- taking up again ---------------------------------------------------------------------------------------------------


def test_what_lost_its_platform_is_resumable_and_resume_all_takes_it_up(storage, tmp_path) -> None:
    gate, traces = tmp_path / "gate", tmp_path / "traces"

    @ray.remote
    def trace(value):
        mark(traces, value)
        return value

    @ray.remote
    def after(value, gate):
        mark(traces, f"after {value}")
        wait_for_file(gate)
        return value

    workflow.run(add.bind(1), workflow_id="done")
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(gate), workflow_id="failed")
    workflow.run_async(gated.bind(gate), workflow_id="cancelled")
    workflow.cancel("cancelled")
    refs = [workflow.run_async(after.bind(trace.bind(one), gate), workflow_id=one) for one in ("first", "second")]
    wait_for(lambda: {"after first", "after second"} <= set(marks(traces)), "both workflows under way")

    workflow.shutdown()
    workflow.init(str(storage))
    assert len(refs) == 2
    assert dict(workflow.list_all()) == {
        "done": "SUCCESSFUL",
        "failed": "FAILED",
        "cancelled": "CANCELED",
        "first": "RESUMABLE",
        "second": "RESUMABLE",
    }
    # Nothing is awaited that nobody works on.
    with pytest.raises(ValueError, match="RESUMABLE"):
        workflow.get_output("first")
    gate.touch()
    resumed = workflow.resume_all()
    assert [one for one, _ in resumed] == ["first", "second"]
    assert ray.get([ref for _, ref in resumed]) == ["first", "second"]
    assert sorted(one for one in marks(traces) if not one.startswith("after")) == ["first", "second"]
    assert workflow.get_status("failed") == "FAILED"
    assert [(one, ray.get(ref)) for one, ref in workflow.resume_all(include_failed=True)] == [("failed", "found")]
    assert workflow.resume_all(include_failed=True) == []
    assert workflow.get_status("cancelled") == "CANCELED"


def test_a_resumable_id_is_resumed_by_run(storage, tmp_path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    workflow.run_async(gated.bind(gate, "value", started), workflow_id="w")
    wait_for_file(started)
    workflow.shutdown()
    workflow.init(str(storage))
    assert workflow.get_status("w") == "RESUMABLE"
    gate.touch()
    assert workflow.run(add.bind("another", " graph"), workflow_id="w") == "value"


def test_a_full_queue_refuses_at_the_call_and_leaves_nothing(local_ray, tmp_path) -> None:
    gate = tmp_path / "gate"
    workflow.init(str(tmp_path / "storage"), max_running_workflows=1, max_pending_workflows=1)
    try:
        first = workflow.run_async(gated.bind(gate, 1), workflow_id="first")
        second = workflow.run_async(gated.bind(gate, 2), workflow_id="second")
        for call in (workflow.run, workflow.run_async):
            with pytest.raises(queue.Full, match="Workflow queue has been full"):
                call(add.bind(1), workflow_id="third")
        assert workflow.list_all() == [("first", "RUNNING"), ("second", "PENDING")]
        with pytest.raises(RuntimeError, match="second"):
            workflow.run_async(add.bind(1), workflow_id="second")
        with pytest.raises(WorkflowStillActiveError):
            workflow.delete("second")
        output = workflow.get_output_async("second")
        assert ray.wait([output], timeout=0.1)[0] == []
        gate.touch()
        assert ray.get([first, second, output]) == [1, 2, 2]
        assert workflow.run(add.bind(1), workflow_id="third") == 1
    finally:
        workflow.shutdown()


def test_what_ran_comes_before_what_was_queued_and_what_was_queued_stays_queued(local_ray, tmp_path) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    limits = {"max_running_workflows": 1, "max_pending_workflows": 5}
    workflow.init(str(tmp_path / "storage"), **limits)
    try:
        workflow.run_async(gated.bind(gate, "ran", started), workflow_id="b-ran")
        workflow.run_async(gated.bind(gate, "queued"), workflow_id="a-queued")
        wait_for_file(started)
        workflow.shutdown()
        workflow.init(str(tmp_path / "storage"), **limits)
        assert workflow.list_all() == [("b-ran", "RESUMABLE"), ("a-queued", "PENDING")]
        resumed = workflow.resume_all()
        assert [workflow_id for workflow_id, _ in resumed] == ["b-ran", "a-queued"]
        assert workflow.list_all() == [("b-ran", "RUNNING"), ("a-queued", "PENDING")]
        gate.touch()
        assert ray.get([ref for _, ref in resumed]) == ["ran", "queued"]
    finally:
        workflow.shutdown()


def test_the_driver_starts_ray_and_the_platform_when_there_is_none(tmp_path, monkeypatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("HOLDFAST_STORAGE", str(tmp_path / "storage"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    assert workflow.run(add.bind(1, 2)) == 3
    assert (tmp_path / "storage").is_dir()
    workflow.shutdown()
