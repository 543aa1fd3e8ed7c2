"""Ray may begin a task again by itself; nothing of the user's runs in that."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors.ray_repeats import RAY_RETRIES, RepeatedByRayError, refuse_repetition
from tests.integration.leftovers import until


def begun(notes: Path) -> int:
    return len(notes.read_text().splitlines())


@ray.remote(**RAY_RETRIES)
def die(notes: Path, how: str) -> None:
    with notes.open("a") as file:
        file.write("begun\n")
    refuse_repetition()
    with notes.with_suffix(".through").open("a") as file:
        file.write("through\n")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_ray_begins_a_task_whose_worker_died_once_more_and_is_refused(
    local_ray: None, tmp_path: Path, how: str
) -> None:
    notes = tmp_path / "notes"
    with pytest.raises(ray.exceptions.RayTaskError) as lost:
        ray.get(die.remote(notes, how))
    assert isinstance(lost.value.cause, RepeatedByRayError)
    assert lost.value.cause.ray_attempt == 1
    assert "crashed or was killed" in lost.value.cause.reason
    assert begun(notes) == 2
    assert begun(notes.with_suffix(".through")) == 1


def test_a_death_that_ray_does_not_charge_is_told_as_want_of_memory() -> None:
    # That Ray comes a second time after such a death only, tests/recovery/test_out_of_memory.py shows.
    assert "out of memory" in RepeatedByRayError(2).reason
    assert "out of memory" not in RepeatedByRayError(1).reason


@ray.remote(max_retries=0)
def wait_to_be_killed(notes: str, pid: str) -> None:
    with Path(notes).open("a") as file:
        file.write("begun\n")
    Path(pid).write_text(str(os.getpid()))
    signal.pause()


def test_a_task_without_retries_of_its_own_runs_once(platform: Path, wid: str, tmp_path: Path) -> None:
    notes, pid = tmp_path / "notes", tmp_path / "pid"
    task = wait_to_be_killed.options(**workflow.options(task_id="mortal")).bind(str(notes), str(pid))
    reference = workflow.run_async(task, workflow_id=wid)
    until(lambda: pid.exists() and pid.read_text())
    os.kill(int(pid.read_text()), signal.SIGKILL)
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        ray.get(reference)
    assert str(failure.value.__cause__).startswith("the worker that ran task 'mortal' died: its process crashed")
    assert begun(notes) == 1


def test_a_task_whose_worker_died_is_cancelled_while_ray_has_no_room_to_begin_it_again(
    platform: Path, wid: str, tmp_path: Path
) -> None:
    notes, pid = tmp_path / "notes", tmp_path / "pid"
    reference = workflow.run_async(wait_to_be_killed.options(num_cpus=2).bind(str(notes), str(pid)), workflow_id=wid)
    until(lambda: pid.exists() and pid.read_text())
    gate = tmp_path / "gate"
    taken = take_a_cpu.remote(str(gate))
    os.kill(int(pid.read_text()), signal.SIGKILL)
    until(lambda: gate.with_suffix(".taken").exists())
    workflow.cancel(wid)
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)
    gate.touch()
    ray.get(taken)
    assert begun(notes) == 1


@ray.remote(num_cpus=1, max_retries=0)
def take_a_cpu(gate: str) -> None:
    Path(gate).with_suffix(".taken").touch()
    until(Path(gate).exists)
