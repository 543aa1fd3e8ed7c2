"""How many workflows may run and wait, and in which order those that wait get their turn."""

from __future__ import annotations

import queue
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import WorkflowStillActiveError
from tests.integration.leftovers import nothing_left, until
from tests.integration.traces import mark, marks

Start = Callable[..., Path]


@pytest.fixture
def start(local_ray: None, tmp_path: Path) -> Iterator[Start]:
    """Starts a platform on the test's folder, after ending the one before."""

    def begin(**limits: Any) -> Path:
        workflow.shutdown()
        workflow.init(str(tmp_path / "storage"), **limits)
        return tmp_path / "storage"

    yield begin
    workflow.shutdown()


@ray.remote(num_cpus=0, max_retries=0)
def wait_in(folder: str, name: str, outcome: str = "value") -> str:
    """Note that it runs, and end when the test says so."""
    mark(f"{folder}/started", name)
    until(Path(folder, f"go-{name}").exists, 60.0)
    if outcome == "error":
        raise ValueError(name)
    return name


@ray.remote(num_cpus=0)
def note(folder: str, name: str) -> str:
    mark(f"{folder}/started", name)
    return name


def submit(folder: Path, *names: str, outcome: str = "value") -> list[Any]:
    return [workflow.run_async(wait_in.bind(str(folder), name, outcome), workflow_id=name) for name in names]


def go(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"go-{name}").touch()


def statuses() -> dict[str, str]:
    return {workflow_id: status.value for workflow_id, status in workflow.list_all()}


def started(folder: Path) -> list[str]:
    return marks(folder / "started")


# -- what may be asked for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_running_workflows", "max_pending_workflows"])
@pytest.mark.parametrize(
    ("value", "error"), [(True, TypeError), (1.0, TypeError), ("3", TypeError), (-2, ValueError)], ids=repr
)
def test_a_limit_that_cannot_be_is_refused_by_name_and_value(
    local_ray: None, tmp_path: Path, limit: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{limit}.*{re.escape(str(value))}"):
        workflow.init(str(tmp_path / "storage"), **{limit: value})
    assert ray.util.list_named_actors(all_namespaces=True) == []
    assert not (tmp_path / "storage").exists()


def test_no_workflow_at_all_may_not_be_the_limit_but_no_queue_may(start: Start) -> None:
    with pytest.raises(ValueError, match="max_running_workflows must be 1 or more, or -1 for no limit, not 0"):
        start(max_running_workflows=0)
    start(max_pending_workflows=0)


def test_limits_are_given_by_name_only(local_ray: None, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="positional"):
        workflow.init(str(tmp_path), 1, 1)  # type: ignore[misc]


def test_the_same_limits_again_and_none_are_fine_and_others_are_refused(start: Start, tmp_path: Path) -> None:
    folder = start(max_running_workflows=2, max_pending_workflows=-1)
    with nothing_left(folder):
        workflow.init()
        workflow.init(str(folder), max_running_workflows=2, max_pending_workflows=-1)
        workflow.init(f"file://{folder}", max_pending_workflows=-1)
        for limits, said in (
            ({"max_running_workflows": 3}, "max_running_workflows=2 already, and not 3"),
            ({"max_running_workflows": -1}, "max_running_workflows=2 already, and not -1"),
            ({"max_pending_workflows": 5}, "max_pending_workflows=-1 already, and not 5"),
        ):
            with pytest.raises(ValueError, match=f"{said}.*workflow.shutdown()"):
                workflow.init(**limits)
        with pytest.raises(ValueError, match=f"{folder} already, and not in {tmp_path}/other"):
            workflow.init(str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


# -- order -------------------------------------------------------------------------------------------------------------


def test_workflows_wait_and_start_in_the_order_of_their_submission(start: Start, tmp_path: Path) -> None:
    start(max_running_workflows=1, executors=2)
    names = [f"w{number}" for number in range(5)]
    references = submit(tmp_path, *names)
    assert statuses() == dict.fromkeys(names, "PENDING") | {"w0": "RUNNING"}
    assert "start_time" not in workflow.get_metadata("w1")["stats"]
    assert ray.wait([workflow.get_output_async("w4")], timeout=0.2)[0] == []
    go(tmp_path, *names)
    assert ray.get(references) == names
    assert started(tmp_path) == names
    assert set(statuses().values()) == {"SUCCESSFUL"}
    assert workflow.list_all("PENDING") == []


def test_as_many_run_as_may_and_a_wait_for_the_output_of_a_pending_one_ends_with_it(
    start: Start, tmp_path: Path
) -> None:
    start(max_running_workflows=2)
    submit(tmp_path, "a", "b", "c")
    waiting = workflow.get_output_async("c")
    until(lambda: set(started(tmp_path)) == {"a", "b"})
    assert statuses() == {"a": "RUNNING", "b": "RUNNING", "c": "PENDING"}
    go(tmp_path, "b", "c")
    assert ray.get(waiting) == "c"
    assert statuses() == {"a": "RUNNING", "b": "SUCCESSFUL", "c": "SUCCESSFUL"}
    go(tmp_path, "a")
    assert workflow.get_output("a") == "a"


@pytest.mark.parametrize("how", ["success", "failure", "cancel"])
def test_a_place_is_free_again_after(start: Start, tmp_path: Path, how: str) -> None:
    start(max_running_workflows=1)
    (first,) = submit(tmp_path, "first", outcome="error" if how == "failure" else "value")
    (second,) = submit(tmp_path, "second")
    until(lambda: started(tmp_path) == ["first"])
    if how == "cancel":
        workflow.cancel("first")
        with pytest.raises(workflow.WorkflowCancellationError):
            ray.get(first)
    else:
        go(tmp_path, "first")
        ray.wait([first])
    go(tmp_path, "second")
    assert ray.get(second) == "second"


def test_a_pending_workflow_can_be_cancelled_never_runs_and_lets_the_next_one_on(start: Start, tmp_path: Path) -> None:
    start(max_running_workflows=1, max_pending_workflows=2, executors=2)
    submit(tmp_path, "first")
    second, third = submit(tmp_path, "second", "third")
    workflow.cancel("second")
    with pytest.raises(workflow.WorkflowCancellationError, match="second"):
        ray.get(second, timeout=30)
    # Its place in the queue is free at once.
    (fourth,) = submit(tmp_path, "fourth")
    go(tmp_path, "first", "second", "third", "fourth")
    assert ray.get([third, fourth]) == ["third", "fourth"]
    assert started(tmp_path) == ["first", "third", "fourth"]
    assert workflow.get_status("second") == "CANCELED"
    workflow.delete("second")


def test_a_workflow_that_only_sleeps_has_its_place_all_the_same(start: Start, tmp_path: Path) -> None:
    start(max_running_workflows=1)
    sleeping = workflow.run_async(workflow.sleep(3600), workflow_id="sleeper")
    (waiting,) = submit(tmp_path, "next")
    assert statuses() == {"sleeper": "RUNNING", "next": "PENDING"}
    assert ray.wait([waiting, sleeping], timeout=0.3)[0] == []
    assert statuses() == {"sleeper": "RUNNING", "next": "PENDING"}
    workflow.cancel("sleeper")
    go(tmp_path, "next")
    assert ray.get(waiting) == "next"


def test_a_pending_id_refuses_what_a_running_one_does(start: Start, tmp_path: Path) -> None:
    folder = start(max_running_workflows=1)
    submit(tmp_path, "first", "second")
    until(lambda: started(tmp_path) == ["first"])
    again = wait_in.bind(str(tmp_path), "second")
    with nothing_left(folder):
        for call in (
            lambda: workflow.run(again, workflow_id="second"),
            lambda: workflow.run_async(again, workflow_id="second"),
            lambda: workflow.resume("second"),
            lambda: workflow.resume_async("second"),
        ):
            with pytest.raises(RuntimeError, match=r"'?second'?.*already pending"):
                call()
        with pytest.raises(WorkflowStillActiveError, match="second"):
            workflow.delete("second")
        assert workflow.get_metadata("second")["status"] == workflow.get_status("second") == "PENDING"
    assert workflow.send_event("second", "key") is True
    go(tmp_path, "first", "second")
    assert workflow.get_output("second") == "second"


# -- a full queue ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [0, 1])
def test_a_full_queue_refuses_at_the_call_and_keeps_nothing(start: Start, tmp_path: Path, pending: int) -> None:
    folder = start(max_running_workflows=1, max_pending_workflows=pending)
    submit(tmp_path, "first", *["second"][:pending])
    until(lambda: started(tmp_path) == ["first"])
    # With a value large enough to be written to a file of its own.
    one_more = note.bind(str(tmp_path), np.ones(50_000))
    with nothing_left(folder):
        for call in (workflow.run, workflow.run_async):
            with pytest.raises(queue.Full, match=r"^Workflow queue has been full$"):
                call(one_more, workflow_id="third")
    go(tmp_path, "first", "second")
    for name in ["first", "second"][: pending + 1]:
        assert workflow.get_output(name) == name
    assert workflow.run(note.bind(str(tmp_path), "third"), workflow_id="third") == "third"


def test_a_resume_queues_when_no_place_is_free_and_is_refused_when_the_queue_is_full(
    start: Start, tmp_path: Path
) -> None:
    start(max_running_workflows=1, max_pending_workflows=1)
    go(tmp_path, "failed")
    with pytest.raises(workflow.WorkflowExecutionError):
        ray.get(submit(tmp_path, "failed", outcome="error"))
    submit(tmp_path, "running")
    resumed = workflow.resume_async("failed")
    assert statuses() == {"failed": "PENDING", "running": "RUNNING"}
    workflow.cancel("failed")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(resumed)
    workflow.delete("failed")
    go(tmp_path, "running")
    workflow.get_output("running")
    with pytest.raises(workflow.WorkflowExecutionError):
        ray.get(submit(tmp_path, "failed", outcome="error"))
    submit(tmp_path, "second", "third")
    for call in (workflow.resume, workflow.resume_async):
        with pytest.raises(queue.Full, match=r"^Workflow queue has been full$"):
            call("failed")
    assert workflow.get_status("failed") == "FAILED"
    with pytest.raises(ValueError, match="failed") as unavailable:
        workflow.get_output("failed")
    assert isinstance(unavailable.value.__cause__, ValueError)
    go(tmp_path, "second", "third")
    workflow.get_output("third")


# -- when the cluster is lost ------------------------------------------------------------------------------------------


def test_what_was_queued_stays_so_without_a_cluster_and_what_ran_goes_before_it(start: Start, tmp_path: Path) -> None:
    limits = {"max_running_workflows": 1, "max_pending_workflows": 3}
    start(**limits, executors=2)
    names = ["w0", "w1", "w2", "w3"]
    submit(tmp_path, *names)
    until(lambda: started(tmp_path) == ["w0"])
    # Fewer executors than before: what was queued with one that is no more has another now.
    start(**limits, executors=1)
    assert statuses() == dict.fromkeys(names, "PENDING") | {"w0": "RESUMABLE"}
    (tmp_path / "started").unlink()
    resumed = workflow.resume_all()
    assert [workflow_id for workflow_id, _ in resumed] == names
    assert statuses() == dict.fromkeys(names, "PENDING") | {"w0": "RUNNING"}
    go(tmp_path, *names)
    assert ray.get([reference for _, reference in resumed]) == names
    assert started(tmp_path) == names


def test_a_new_workflow_does_not_overtake_what_was_queued_before_the_cluster_was_lost(
    start: Start, tmp_path: Path
) -> None:
    start(max_running_workflows=1)
    submit(tmp_path, "first", "second", "third")
    until(lambda: started(tmp_path) == ["first"])
    start(max_running_workflows=1)
    (tmp_path / "started").unlink()
    (new,) = submit(tmp_path, "new")
    assert statuses() == {"first": "RESUMABLE", "second": "RUNNING", "third": "PENDING", "new": "PENDING"}
    go(tmp_path, "second", "third", "new")
    assert ray.get(new) == "new"
    assert started(tmp_path) == ["second", "third", "new"]


def test_the_next_platform_may_have_other_limits(start: Start, tmp_path: Path) -> None:
    start(max_running_workflows=1)
    submit(tmp_path, "first", "second", "third")
    start(max_running_workflows=2)
    resumed = workflow.resume_all()
    assert statuses() == {"first": "RUNNING", "second": "RUNNING", "third": "PENDING"}
    go(tmp_path, "first", "second", "third")
    assert ray.get([reference for _, reference in resumed]) == ["first", "second", "third"]
