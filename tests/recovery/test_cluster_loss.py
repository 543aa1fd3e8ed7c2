"""What is left of a platform when its driver, or its whole cluster, is gone: everything that was acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.recovery.audit import Audit, runs
from tests.recovery.drivers import Driver
from tests.recovery.processes import descendants, until

ANSWER_S = 60.0


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


class TestDriver:
    """It joined the cluster of this test."""

    @pytest.mark.parametrize("end", ["exit", "kill"])
    def test_its_end_changes_nothing_for_what_runs(
        self, end: str, storage: Path, start_driver: Callable[..., Driver], audit: Audit, gate: Path
    ) -> None:
        address = ray.get_runtime_context().gcs_address
        then = "exit" if end == "exit" else "stay"
        driver = start_driver(address=address, gated=["left"], gate=gate, then=then)
        driver.hear("DONE")
        until(lambda: runs(audit.path), "the task runs")
        if end == "kill":
            driver.kill()
        else:
            driver.process.wait(ANSWER_S)
        assert workflow.get_status("left") == workflow.RUNNING
        gate.touch()
        assert workflow.get_output("left") == "through"
        assert [len(times) for times in runs(audit.path).values()] == [1]

    def test_a_platform_outlives_the_driver_that_started_it(
        self, local_ray: None, tmp_path: Path, start_driver: Callable[..., Driver], audit: Audit, gate: Path
    ) -> None:
        address = ray.get_runtime_context().gcs_address
        driver = start_driver(address=address, gated=["left"], gate=gate, then="stay")
        driver.hear("DONE")
        driver.kill()
        # Found, not started: it is the driver's.
        workflow.init(str(audit.storage))
        try:
            gate.touch()
            assert workflow.get_output("left") == "through"
            assert workflow.run(workflow.sleep(0.0), workflow_id="new") is None
        finally:
            workflow.shutdown()


class TestCluster:
    """The driver started a Ray of its own, and all of it is killed at once."""

    def test_what_ran_is_resumable_and_what_was_queued_stays_queued(
        self, local_ray: None, start_driver: Callable[..., Driver], audit: Audit, gate: Path
    ) -> None:
        ids = ["first", "second", "third", "fourth"]
        driver = start_driver(gated=ids, gate=gate, max_running=2)
        driver.hear("DONE")
        driver.kill_all()

        workflow.init(str(audit.storage), max_running_workflows=2)
        try:
            assert workflow.list_all() == [
                ("first", workflow.RESUMABLE),
                ("second", workflow.RESUMABLE),
                ("third", workflow.PENDING),
                ("fourth", workflow.PENDING),
            ]
            with pytest.raises(ValueError, match="RESUMABLE"):
                workflow.get_output("first")
            resumed = workflow.resume_all()
            assert [workflow_id for workflow_id, _ in resumed] == ids
            assert dict(workflow.list_all(workflow.RUNNING)).keys() == {"first", "second"}
            gate.touch()
            assert ray.get([reference for _, reference in resumed], timeout=ANSWER_S) == ["through"] * 4
        finally:
            workflow.shutdown()
        audit.check(least_tasks=4)

    def test_what_was_acknowledged_survives_the_kill_right_after_it(
        self, local_ray: None, start_driver: Callable[..., Driver], audit: Audit
    ) -> None:
        # The driver starts a workflow and sends it an event, then says so, and dies with everything at that word.
        driver = start_driver(events=["early", "late"])
        assert driver.hear("ACK") == "early"
        driver.kill_all()

        workflow.init(str(audit.storage), resume="auto")
        try:
            assert workflow.get_output("early") == "after ('news', 'for early')"
        finally:
            workflow.shutdown()
        audit.check()

    @pytest.mark.slow
    def test_a_second_loss_while_the_first_is_being_recovered_from_loses_nothing(
        self, local_ray: None, start_driver: Callable[..., Driver], audit: Audit, gate: Path
    ) -> None:
        ids = ["first", "second"]
        driver = start_driver(gated=ids, gate=gate)
        driver.hear("DONE")
        driver.kill_all()
        again = start_driver(gate=gate, resume="auto")
        # `init` has come back: what ran is being set going just now.
        again.hear("DONE")
        again.kill_all()

        gate.touch()
        workflow.init(str(audit.storage), resume="auto")
        try:
            assert [workflow.get_output(workflow_id) for workflow_id in ids] == ["through"] * 2
        finally:
            workflow.shutdown()
        audit.check(least_tasks=2)

    def test_ctrl_c_of_the_driver_leaves_no_process_and_a_folder_that_can_be_used_at_once(
        self, local_ray: None, start_driver: Callable[..., Driver], audit: Audit, gate: Path
    ) -> None:
        driver = start_driver(gated=["interrupted"], gate=gate)
        driver.hear("DONE")
        until(lambda: runs(audit.path), "the task runs")
        driver.interrupt()
        driver.process.wait(ANSWER_S)
        driver.wait_until_alone()
        assert descendants(driver.process.pid) == []

        gate.touch()
        workflow.init(str(audit.storage), resume="auto")
        try:
            assert workflow.get_output("interrupted") == "through"
        finally:
            workflow.shutdown()
