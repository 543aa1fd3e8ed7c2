"""`get_output` and `get_output_async`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def gated(gate, value=None):
    wait_for_file(gate)
    return value


@ray.remote
def needs_file(path, traces=None):
    if traces is not None:
        mark(traces)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return "found"


def test_the_output_of_a_running_workflow_and_its_tasks_is_waited_for(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    named = add.options(**workflow.options(task_id="first")).bind(1, 1)
    dag = add.options(**workflow.options(name="last")).bind(named, gated.bind(gate, 5))
    ref = workflow.run_async(dag, workflow_id=wid)
    assert workflow.get_output(wid, task_id="first") == 2
    assert workflow.get_output(wid, name="first") == 2
    whole, last = workflow.get_output_async(wid), workflow.get_output_async(wid, task_id="last")
    assert isinstance(whole, ray.ObjectRef)
    assert ray.wait([ref, whole, last], num_returns=3, timeout=0.2)[0] == []
    gate.touch()
    assert ray.get([ref, whole, last]) == [7, 7, 7]
    assert workflow.get_output(wid) == 7


def test_the_output_after_a_failure_is_a_value_error_with_the_cause_and_runs_nothing(wid, tmp_path) -> None:
    traces = tmp_path / "traces"
    failing = needs_file.options(**workflow.options(task_id="bad")).bind(tmp_path / "none", traces)
    good = add.options(**workflow.options(task_id="good")).bind(1, 2)
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(add.bind(failing, good), workflow_id=wid)
    for call in (
        lambda: workflow.get_output(wid),
        lambda: workflow.get_output(wid, task_id="bad"),
        lambda: ray.get(workflow.get_output_async(wid)),
    ):
        with pytest.raises(ValueError, match=wid) as failure:
            call()
        assert isinstance(failure.value.__cause__, FileNotFoundError)
    assert len(marks(traces)) == 1


def test_an_unknown_task_id_is_named(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    running = workflow.run_async(gated.bind(gate, 1), workflow_id=wid)
    ref = workflow.get_output_async(wid, task_id="no-such-task")
    assert ray.wait([ref], timeout=0.2)[0] == []
    gate.touch()
    ray.get(running)
    with pytest.raises(ValueError, match="no-such-task"):
        ray.get(ref)
    with pytest.raises(ValueError, match="no-such-task"):
        workflow.get_output(wid, task_id="no-such-task")


def test_the_output_of_an_unknown_workflow_is_a_value_error(wid) -> None:
    with pytest.raises(ValueError, match=wid):
        workflow.get_output(wid)
    with pytest.raises(ValueError, match=wid):
        ray.get(workflow.get_output_async(wid))
    assert wid not in dict(workflow.list_all())


def test_an_in_place_task_has_no_output_before_it_finishes(wid, tmp_path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def parent():
        return workflow.continuation(
            gated.options(**workflow.options(task_id="inside", allow_inplace=True)).bind(gate, "value")
        )

    ref = workflow.run_async(parent.bind(), workflow_id=wid)
    inside = workflow.get_output_async(wid, task_id="inside")
    assert ray.wait([inside], timeout=0.3)[0] == []
    gate.touch()
    assert ray.get([ref, inside]) == ["value", "value"]


def test_a_checkpointed_task_of_a_failed_workflow_keeps_its_output(wid, tmp_path) -> None:
    @ray.remote
    def fails(x):
        raise RuntimeError("no")

    good = add.options(**workflow.options(task_id="good")).bind(1, 2)
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(fails.bind(good), workflow_id=wid)
    assert workflow.get_output(wid, task_id="good") == 3


def test_the_output_of_a_cancelled_workflow_is_a_cancellation_error(wid, tmp_path) -> None:
    ref = workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=wid)
    waiting = workflow.get_output_async(wid)
    workflow.cancel(wid)
    for call in (lambda: ray.get(ref), lambda: ray.get(waiting), lambda: workflow.get_output(wid)):
        with pytest.raises(workflow.WorkflowCancellationError, match=wid):
            call()


def test_a_repeated_task_id_gets_a_number_and_the_node_built_first_the_bare_name(wid) -> None:
    named = add.options(**workflow.options(task_id="same"))
    first = named.bind(1, 0)
    second = named.bind(2, 0)
    third = named.bind(second, first)
    assert workflow.run(third, workflow_id=wid) == 3
    assert [workflow.get_output(wid, task_id=name) for name in ("same", "same_1", "same_2")] == [1, 2, 3]


def test_a_task_without_a_name_has_that_of_its_function(wid) -> None:
    @ray.remote
    def local():
        return "local"

    assert workflow.run(add.bind(local.bind(), "!"), workflow_id=wid) == "local!"
    assert workflow.get_output(wid, task_id=f"{__name__}.add") == "local!"
    here = "test_a_task_without_a_name_has_that_of_its_function.locals.local"
    assert workflow.get_output(wid, task_id=f"{__name__}.{here}") == "local"


def test_the_id_of_a_task_that_continues_gives_the_final_value(wid, tmp_path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def goes_on(n):
        return workflow.continuation(goes_on.bind(n - 1) if n else gated.bind(gate, "final"))

    ref = workflow.run_async(goes_on.options(**workflow.options(task_id="top")).bind(2), workflow_id=wid)
    top = workflow.get_output_async(wid, task_id="top")
    assert ray.wait([top], timeout=0.2)[0] == []
    gate.touch()
    assert ray.get([top, ref]) == ["final", "final"]
    assert workflow.get_output(wid, task_id="top") == "final"


def test_a_driver_on_the_storage_machine_reads_a_large_value_from_its_file(platform, wid) -> None:
    @ray.remote
    def large():
        return np.arange(1_000_000)

    value = workflow.run(large.bind(), workflow_id=wid)
    address = value.__array_interface__["data"][0]
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [(*(int(end, 16) for end in line[0].split("-")), line[-1]) for line in maps]
    (mapped,) = (path for begin, end, path in spans if begin <= address < end)
    # The file itself, or its copy in memory, which is its reader's alone.
    assert str(platform) in mapped or mapped.startswith("/dev/shm/holdfast-")
    assert np.array_equal(value, np.arange(1_000_000))
    assert np.array_equal(ray.get(workflow.get_output_async(wid)), value)
    # One that is damaged is refused by name, this way too.
    (blob,) = (path for path in (platform / "blobs").rglob("*") if path.is_file())
    os.truncate(blob, 1_000_000)
    with pytest.raises(workflow.exceptions.StorageCorruptError, match="truncated"):
        workflow.run(large.bind(), workflow_id=wid)
