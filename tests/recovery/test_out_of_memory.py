"""A node that runs out of memory: Ray ends processes, the task that uses it up before those that drive workflows."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import WorkerLostError
from tests.recovery.audit import Audit, note, runs
from tests.recovery.gates import behind_a_gate, gate_then_after
from tests.recovery.processes import of_role, the_one, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ANSWER_S = 120.0
_KIB_OF_GIB = 1 << 20
# What is left to use up, so that a test does not have to fill the machine.
_LEFT_GIB = 3


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A local Ray that ends processes when the machine has 3 GiB less than now."""
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", f"{1 - (free - _LEFT_GIB * _KIB_OF_GIB) / total:.4f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "50")
        # It frees a reserve too. A part of this whole machine may be more than the tasks of the test hold together.
        patch.setenv("RAY_max_kill_memory_buffer_bytes", "0")
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@ray.remote
def greedy(audit: str, enough: str) -> str:
    """Use memory up, until the file `enough` is there."""
    note(audit)
    hoard = []
    while not Path(enough).exists():
        hoard.append(b"x" * (1 << 24))
    return "modest"


def platform_pids() -> list[int]:
    status = workflow.platform_status()
    return [status["management"]["pid"], *(each["pid"] for each in status["executors"])]


def test_the_task_that_uses_memory_up_is_ended_and_counted_and_nobody_else_is_disturbed(
    storage: Path, audit: Audit, gate: Path, tmp_path: Path
) -> None:
    other = workflow.run_async(behind_a_gate.bind(str(audit.path), str(gate)), workflow_id="other")
    until(lambda: runs(audit.path), "the other one runs")
    pids, enough = platform_pids(), tmp_path / "enough"

    task = greedy.options(max_retries=1, **workflow.options(task_id="greedy")).bind(str(audit.path), str(enough))
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(task, workflow_id="hungry")
    cause = failure.value.__cause__
    assert isinstance(cause, WorkerLostError)
    assert "'greedy'" in str(cause)
    assert "out of memory" in str(cause)
    assert "num_cpus=" in str(cause)
    assert workflow.get_status("hungry") == "FAILED"

    assert platform_pids() == pids
    gate.touch()
    assert ray.get(other, timeout=ANSWER_S) == "through"
    # The first attempt and the one retry it had; and the other task once.
    assert {key[0]: len(times) for key, times in runs(audit.path).items()} == {"other": 1, "hungry": 2}

    enough.touch()
    assert workflow.resume("hungry") == "modest"


HOARD = """
import sys
hoard = [b"x" * (1 << 24) for _ in range(int(sys.argv[1]))]
sys.stdin.read()
"""


def test_workflows_go_on_when_ray_ends_the_processes_that_drive_them(storage: Path, audit: Audit, gate: Path) -> None:
    reference = workflow.run_async(gate_then_after(audit.path, gate), workflow_id="gated")
    until(lambda: runs(audit.path), "it runs")
    driving: list[Any] = [the_one("management"), *of_role("executor")]
    # Memory that is not Ray's to take back: it ends what it has, again and again.
    hoard = subprocess.Popen([sys.executable, "-c", HOARD, str((_LEFT_GIB + 1) << 6)], stdin=subprocess.PIPE)
    try:
        until(lambda: not any(process.alive for process in driving), "all of them have been ended", ANSWER_S)
    finally:
        hoard.kill()
        hoard.communicate()
    gate.touch()
    assert ray.get(reference, timeout=ANSWER_S) == "after through"
    audit.check(least_tasks=2)
