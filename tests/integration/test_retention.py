"""`init(keep_finished_s=, keep_finished=)`: finished workflows go, and nobody who uses them is surprised."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import WorkflowNotFoundError
from tests.integration.traces import wait_for_file

pytestmark = pytest.mark.usefixtures("local_ray")

BLOB = 1_000_000


@ray.remote
def large(value: int) -> Any:
    return numpy.full(BLOB, value, dtype=numpy.uint8)


@ray.remote
def gated(gate: Path, value: Any) -> Any:
    wait_for_file(gate)
    return value


@ray.remote(max_retries=0)
def fail() -> None:
    raise ValueError("on purpose")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    def initialize(**limits: Any) -> Path:
        folder = tmp_path / "storage"
        workflow.init(str(folder), **limits)
        return folder

    yield initialize
    workflow.shutdown()


def wait_for(condition: Callable[[], Any], deadline_s: float = 60.0) -> Any:
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
    return found


def ids() -> list[str]:
    return [workflow_id for workflow_id, _ in workflow.list_all()]


@pytest.mark.parametrize(
    ("limit", "value", "error"),
    [
        ("keep_finished", True, TypeError),
        ("keep_finished", 1.0, TypeError),
        ("keep_finished", "3", TypeError),
        ("keep_finished", -2, ValueError),
        ("keep_finished_s", True, TypeError),
        ("keep_finished_s", "3", TypeError),
        ("keep_finished_s", -2, ValueError),
        ("keep_finished_s", float("nan"), ValueError),
        ("keep_finished_s", float("inf"), ValueError),
    ],
    ids=repr,
)
def test_what_cannot_be_kept_so_is_refused_by_name_and_value(
    tmp_path: Path, limit: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"{limit}.*{re.escape(str(value))}"):
        workflow.init(str(tmp_path / "storage"), **{limit: value})
    assert not (tmp_path / "storage").exists()


def test_the_same_again_and_none_are_fine_and_others_are_refused(start: Callable[..., Path]) -> None:
    start(keep_finished=3, keep_finished_s=60)
    workflow.init()
    workflow.init(keep_finished=3, keep_finished_s=60.0)
    with pytest.raises(ValueError, match=r"keep_finished=3 already, and not -1.*workflow.shutdown()"):
        workflow.init(keep_finished=-1)
    with pytest.raises(ValueError, match=r"keep_finished_s=60.0 already, and not 61.0.*workflow.shutdown()"):
        workflow.init(keep_finished_s=61)


def test_finished_workflows_go_with_their_blobs_and_all_others_stay(start: Callable[..., Path], tmp_path: Path) -> None:
    folder = start(keep_finished=1)
    gate = tmp_path / "gate"
    running = workflow.run_async(gated.bind(gate, 7), workflow_id="running")
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(fail.bind(), workflow_id="failed")
    references = {name: workflow.run_async(large.bind(len(name)), workflow_id=name) for name in ("a", "bb", "ccc")}
    early = workflow.get_output("a")
    for reference in references.values():
        ray.wait([reference])
    wait_for(lambda: len(ids()) == 3)
    assert "running" in ids()
    assert "failed" in ids()
    (kept,) = set(ids()) & set(references)
    assert workflow.get_metadata(kept)["stats"]["end_time"] >= 0
    wait_for(lambda: len(list((folder / "blobs").iterdir())) == 1)

    # What was given out is good; what is asked anew is not there.
    assert early[0] == 1
    for name, reference in references.items():
        assert ray.get(reference)[BLOB - 1] == len(name)
    gone = next(name for name in references if name != kept)
    with pytest.raises(ValueError, match=f"No such workflow_id '{gone}'"):
        workflow.get_output(gone)
    with pytest.raises(WorkflowNotFoundError):
        workflow.get_status(gone)
    assert workflow.run(large.bind(9), workflow_id=gone)[0] == 9

    status = workflow.platform_status()
    assert status["retention"]["keep_finished"] == 1
    assert status["retention"]["removed"] >= 2
    assert status["workflows"]["RUNNING"] == 1
    assert status["workflows"]["FAILED"] == 1
    gate.touch()
    assert ray.get(running) == 7


def test_a_backlog_of_a_platform_that_kept_all_goes_beside_the_work_of_the_next(
    start: Callable[..., Path], tmp_path: Path
) -> None:
    start()
    for number in range(30):
        workflow.run_async(workflow.sleep(0.0), workflow_id=f"old {number}")
    wait_for(lambda: len(workflow.list_all("SUCCESSFUL")) == 30)
    assert workflow.platform_status()["workflows"]["SUCCESSFUL"] == 30
    workflow.shutdown()
    start(keep_finished_s=0)
    assert workflow.run(gated.bind(tmp_path, 7), workflow_id="new") == 7
    wait_for(lambda: ids() == [])
    assert workflow.platform_status()["retention"]["removed"] == 31
