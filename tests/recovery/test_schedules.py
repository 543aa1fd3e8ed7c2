"""What deaths and restarts do to schedules: no time is fired twice, and none is lost."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from tests.recovery.processes import replaced, the_one, until

pytestmark = pytest.mark.slow


@ray.remote(num_cpus=0)
def nothing() -> None:
    return None


@ray.remote(num_cpus=0)
def until_there(begun: str, gate: str) -> str:
    Path(begun).touch()
    until(lambda: Path(gate).exists(), "the gate is opened")
    return "through"


@ray.remote(num_cpus=0, max_retries=0)
def when_mended(mended: str, begun: str, gate: str) -> str:
    if not Path(mended).exists():
        raise RuntimeError("to be mended")
    written = Path(f"{begun}.new")
    written.write_text(str(os.getpid()))
    written.replace(begun)
    until(lambda: Path(gate).exists(), "the gate is opened")
    return "through"


def fired(name: str) -> list[datetime]:
    """The times that were fired, in order; an id that is no plain time is an error."""
    found = [workflow_id for workflow_id, _ in workflow.list_all() if workflow_id.startswith(f"{name}-")]
    return sorted(datetime.fromisoformat(one.removeprefix(f"{name}-").replace("Z", "+00:00")) for one in found)


def statuses() -> set[workflow.WorkflowStatus]:
    return {status for _, status in workflow.list_all()}


class TestDeaths:
    def test_each_time_is_fired_once_though_executor_and_management_actor_are_killed_around_it(
        self, storage: Path
    ) -> None:
        workflow.schedule("s", nothing.bind(), every_s=0.5, overlap="allow", coalesce=False)
        for role in ("management", "executor"):
            count = len(fired("s"))
            until(lambda count=count: len(fired("s")) > count, "it fires")  # type: ignore[misc]
            process = the_one(role)
            process.kill()
            replaced(role, [process])
        count = len(fired("s"))
        until(lambda: len(fired("s")) > count + 2, "it fires after the last death")
        workflow.pause_schedule("s")
        dues = fired("s")
        assert {later - earlier for earlier, later in pairwise(dues)} == {timedelta(seconds=0.5)}
        until(lambda: statuses() == {workflow.SUCCESSFUL}, "every run ends")

    def test_the_end_of_a_run_starts_the_next_though_the_executor_died_meanwhile(
        self, storage: Path, tmp_path: Path
    ) -> None:
        begun, gate = tmp_path / "begun", tmp_path / "gate"
        workflow.schedule("s", until_there.bind(str(begun), str(gate)), cron="0 0 1 1 *", overlap="queue")
        first, second = workflow.trigger_schedule("s"), workflow.trigger_schedule("s")
        until(begun.exists, "the first run runs")
        executor = the_one("executor")
        executor.kill()
        replaced("executor", [executor])
        assert len(workflow.describe_schedule("s")["waiting"]) == 1
        gate.touch()
        assert workflow.get_output(str(first)) == "through"
        until(lambda: len(workflow.list_all()) == 2, "the second run is there")
        assert workflow.get_output(str(second)) == "through"


class TestRestarts:
    def test_what_was_due_while_nothing_ran_is_caught_up_with(self, storage: Path) -> None:
        about: dict[str, Any] = {"every_s": 0.5, "overlap": "allow"}
        workflow.schedule("each", nothing.bind(), coalesce=False, **about)
        workflow.schedule("once", nothing.bind(), **about)
        until(lambda: fired("each") and fired("once"), "both fire")
        workflow.pause_schedule("once")
        workflow.resume_schedule("once")
        workflow.shutdown()
        ended = time.time()
        until(lambda: time.time() > ended + 2.0, "some times pass")
        workflow.init(str(storage))
        until(lambda: fired("once")[-1].timestamp() > ended + 2.0, "it goes on")
        for name in ("each", "once"):
            until(lambda name=name: fired(name)[-1].timestamp() > ended + 2.0, "it goes on")  # type: ignore[misc]
            workflow.pause_schedule(name)
        assert {later - earlier for earlier, later in pairwise(fired("each"))} == {timedelta(seconds=0.5)}
        # The last of the times that had passed, and none of those before it.
        assert max(later - earlier for earlier, later in pairwise(fired("once"))) >= timedelta(seconds=2.0)

    def test_a_run_that_lost_its_cluster_goes_on_when_the_next_is_due(self, storage: Path, tmp_path: Path) -> None:
        begun, gate = tmp_path / "begun", tmp_path / "gate"
        workflow.schedule("s", until_there.bind(str(begun), str(gate)), cron="0 0 1 1 *")
        run = str(workflow.trigger_schedule("s"))
        until(begun.exists, "it runs")
        workflow.shutdown()
        workflow.init(str(storage))
        assert workflow.get_status(run) == workflow.RESUMABLE
        assert workflow.trigger_schedule("s") is None
        gate.touch()
        assert workflow.get_output(run) == "through"

    def test_a_run_that_finds_no_place_starts_when_there_is_one(self, local_ray: None, tmp_path: Path) -> None:
        workflow.init(str(tmp_path / "storage"), max_running_workflows=1, max_pending_workflows=0)
        try:
            begun, gate = tmp_path / "begun", tmp_path / "gate"
            workflow.run_async(until_there.bind(str(begun), str(gate)), workflow_id="takes the place")
            workflow.schedule("s", nothing.bind(), cron="0 0 1 1 *")
            run = str(workflow.trigger_schedule("s"))
            assert len(workflow.describe_schedule("s")["waiting"]) == 1
            assert [one for one, _ in workflow.list_all()] == ["takes the place"]
            gate.touch()
            until(lambda: len(workflow.list_all()) == 2, "the run is there")
            assert workflow.get_output(run) is None
        finally:
            workflow.shutdown()


class TestSeveralExecutors:
    def test_a_run_that_another_executor_drives_is_replaced(self, local_ray: None, tmp_path: Path) -> None:
        workflow.init(str(tmp_path / "storage"), executors=2)
        try:
            mended, begun, gate = (str(tmp_path / name) for name in ("mended", "begun", "gate"))
            workflow.schedule("s", when_mended.bind(mended, begun, gate), cron="0 0 1 1 *", overlap="replace")
            pool = [names.executor_name(number) for number in range(2)]
            run = str(workflow.trigger_schedule("s"))
            while names.executor_for(run, pool) == names.executor_for("s", pool):
                until(lambda run=run: workflow.get_status(run) == workflow.FAILED, "it fails")  # type: ignore[misc]
                run = str(workflow.trigger_schedule("s"))
            until(lambda: workflow.get_status(run) == workflow.FAILED, "it fails")
            Path(mended).touch()
            # Whoever resumes asks the executor of the workflow's id: that one drives it from now on.
            workflow.run_async(nothing.bind(), workflow_id=run)
            until(Path(begun).exists, "it runs again")
            pid = int(Path(begun).read_text())
            last = str(workflow.trigger_schedule("s"))
            # It starts when the other executor has said that the one before has ended.
            until(lambda: last in dict(workflow.list_all()), "the next run is there")
            # A task that ends by itself while Ray ends its worker by force takes with it whatever comes next there.
            until(lambda: not Path(f"/proc/{pid}").exists(), "the one before is over")
            Path(gate).touch()
            assert workflow.get_output(last) == "through"
            assert workflow.get_status(run) == workflow.CANCELED
        finally:
            workflow.shutdown()


@pytest.mark.slow
def test_a_new_cluster_runs_the_code_that_was_scheduled(tmp_path: Path) -> None:
    storage, due = str(tmp_path / "storage"), time.time() + 30

    @ray.remote(num_cpus=0)
    def size(large: bytes) -> int:
        return len(large)

    def start() -> None:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        workflow.init(storage)

    # After the tests of this module that share a Ray: it has one of its own, twice.
    ray.shutdown()
    start()
    workflow.schedule("s", size.bind(b"x" * 200_000), at=due)
    workflow.shutdown()
    ray.shutdown()
    del size
    start()
    try:
        until(lambda: workflow.describe_schedule("s")["last_runs"], "it fires")
        (run,) = workflow.describe_schedule("s")["last_runs"]
        assert run["due"].timestamp() == pytest.approx(due, abs=1e-5)
        assert workflow.get_output(run["workflow_id"]) == 200_000
    finally:
        workflow.shutdown()
        ray.shutdown()
