"""`workflow.shutdown()`: the platform's processes have ended and the folder is free when it returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from holdfast.actors.client import forget_platform
from holdfast.actors.management import PlatformConfig
from holdfast.actors.operating_system import Process
from holdfast.actors.platform_start import start_management
from holdfast.engine.errors import StorageError
from tests.recovery.audit import Audit, runs
from tests.recovery.gates import behind_a_gate
from tests.recovery.processes import ROLES, of_role, until


@pytest.fixture(autouse=True)
def nothing_left_open(local_ray: None) -> Iterator[None]:
    yield
    workflow.shutdown()


def platform_processes() -> list[Process]:
    # Asked first, because it answers when all of them are up.
    workflow.platform_status()
    return [process for role in ROLES for process in of_role(role)]


def test_a_folder_can_be_opened_again_at_once_again_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "storage"
    for round_ in range(4):
        workflow.init(str(folder), executors=2)
        assert workflow.run(workflow.sleep(0.0), workflow_id=f"round-{round_}") is None
        before = platform_processes()
        assert len(before) >= 3
        workflow.shutdown()
        assert not [process for process in before if process.alive]
    workflow.init(str(folder))
    assert [status for _, status in workflow.list_all()] == [workflow.SUCCESSFUL] * 4


def test_what_runs_is_ended_and_can_be_resumed_in_the_next_platform(tmp_path: Path, audit: Audit) -> None:
    gate = tmp_path / "gate"
    workflow.init(str(audit.storage))
    workflow.run_async(behind_a_gate.bind(str(audit.path), str(gate)), workflow_id="gated")
    until(lambda: runs(audit.path), "the task runs")
    (worker,) = of_role("worker")
    workflow.shutdown()
    assert not worker.alive

    workflow.init(str(audit.storage))
    assert workflow.get_status("gated") == workflow.RESUMABLE
    gate.touch()
    assert workflow.resume("gated") == "through"
    audit.check()


def test_another_folder_may_follow_and_the_first_one_again(tmp_path: Path) -> None:
    for name in ("one", "two", "one"):
        workflow.init(str(tmp_path / name))
        workflow.run(workflow.sleep(0.0), workflow_id=name)
        workflow.shutdown()
    workflow.init(str(tmp_path / "one"))
    assert workflow.list_all() == [("one", workflow.SUCCESSFUL)]


@ray.remote(num_cpus=0)
class Visitor:
    """A process that outlives platforms, as a Serve replica does."""

    def output(self, workflow_id: str) -> Any:
        return workflow.get_output(workflow_id)

    def run(self, workflow_id: str) -> Any:
        return ray.get(workflow.run_async(workflow.sleep(0.0), workflow_id=workflow_id))

    async def submit(self, workflow_id: str) -> str:
        return await workflow.aio.submit(workflow.sleep(0.0), workflow_id=workflow_id)


def test_who_knew_the_one_before_asks_the_one_that_is_there(tmp_path: Path) -> None:
    visitor: Any = Visitor.remote()  # type: ignore[attr-defined]
    for name in ("one", "two"):
        workflow.init(str(tmp_path / name))
        workflow.run(workflow.sleep(0.0), workflow_id=name)
        assert ray.get(visitor.output.remote(name)) is None
        assert ray.get(visitor.run.remote(f"{name} too")) is None
        assert ray.get(visitor.submit.remote(f"{name} at last")) == f"{name} at last"
        assert sorted(workflow_id for workflow_id, _ in workflow.list_all()) == [name, f"{name} at last", f"{name} too"]
        workflow.shutdown()


class TestDriverThatDiesBetweenTwoCalls:
    """What it began is completed by the next one."""

    def test_a_platform_that_was_made_and_not_opened_is_opened(self, tmp_path: Path) -> None:
        folder = tmp_path / "storage"
        start_management(PlatformConfig(storage=str(folder), executors=1))
        workflow.init(str(folder))
        assert workflow.run(workflow.sleep(0.0)) is None

    def test_one_that_cannot_be_opened_is_no_obstacle_for_another_storage(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        start_management(PlatformConfig(storage=str(tmp_path / "file"), executors=1))
        with pytest.raises(StorageError, match="file"):
            workflow.init(str(tmp_path / "storage"))
        workflow.init(str(tmp_path / "storage"))
        assert workflow.run(workflow.sleep(0.0)) is None

    def test_a_platform_that_was_closed_and_not_ended_is_ended(self, tmp_path: Path) -> None:
        folder = tmp_path / "storage"
        workflow.init(str(folder))
        workflow.run(workflow.sleep(0.0), workflow_id="before")
        ray.get(ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE).close.remote())
        forget_platform()
        workflow.init(str(folder))
        assert workflow.list_all() == [("before", workflow.SUCCESSFUL)]
        assert workflow.run(workflow.sleep(0.0)) is None


@pytest.mark.parametrize("lease_s", [0, -1.0, float("nan"), "30", True])
def test_a_lease_that_is_no_time_is_refused(lease_s: object) -> None:
    with pytest.raises(ValueError, match="lease_s must be a number of seconds above 0"):
        workflow.init(lease_s=lease_s)  # type: ignore[arg-type]
