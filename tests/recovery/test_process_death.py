"""What the death of one process does: nothing that anybody who waits would notice but time."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from holdfast.actors.operating_system import Process
from holdfast.actors.task_call import Returned
from holdfast.storage.payload import Payload
from tests.recovery.audit import Audit, runs
from tests.recovery.gates import gate_then_after, hear_and_tell
from tests.recovery.processes import replaced, the_one, until
from tests.recovery.workloads import listening

ANSWER_S = 60.0


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def start_gated(audit: Audit, gate: Path, workflow_id: str = "gated") -> Any:
    """A workflow whose first task is running and will be until the gate is opened; the reference of its value."""
    reference = workflow.run_async(gate_then_after(audit.path, gate), workflow_id=workflow_id)
    until(lambda: any(key[0] == workflow_id for key in runs(audit.path)), "the first task runs")
    return reference


def attempts(audit: Audit) -> list[int]:
    """How often each task ran, in order of their first run."""
    return [len(times) for times in runs(audit.path).values()]


class TestManagementActor:
    def test_its_death_disturbs_no_task_that_runs(self, storage: Path, audit: Audit, gate: Path) -> None:
        reference = start_gated(audit, gate)
        executor, management = the_one("executor"), the_one("management")
        management.kill()
        replaced("management", [management])
        until(lambda: workflow.get_status("gated") == workflow.RUNNING, "it answers again")
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        assert attempts(audit) == [1, 1]
        assert the_one("executor") == executor

    def test_a_sleeper_is_woken_though_it_died_before_and_at_the_time(self, storage: Path) -> None:
        reference = workflow.run_async(workflow.sleep(2.0), workflow_id="sleeper")
        first = the_one("management")
        first.kill()
        second = replaced("management", [first])
        second.kill()
        assert ray.get(reference, timeout=ANSWER_S) is None
        stats = workflow.get_metadata("sleeper")["stats"]
        assert stats["end_time"] - stats["start_time"] >= 2.0

    def test_workflows_are_accepted_while_it_is_dead(self, storage: Path, audit: Audit, gate: Path) -> None:
        gate.touch()
        the_one("management").kill()
        reference = workflow.run_async(gate_then_after(audit.path, gate), workflow_id="meanwhile")
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        assert workflow.get_status("meanwhile") == workflow.SUCCESSFUL


class TestExecutor:
    def test_waiting_references_resolve_and_workflows_go_on_after_its_death(
        self, storage: Path, audit: Audit, gate: Path
    ) -> None:
        reference = start_gated(audit, gate)
        executor = the_one("executor")
        executor.kill()
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        assert workflow.get_output("gated") == "after through"
        audit.check(least_tasks=2)

    def test_a_caller_in_run_gets_the_value_and_the_workflow_is_submitted_once(
        self, storage: Path, audit: Audit, gate: Path
    ) -> None:
        @ray.remote(num_cpus=0)
        def call() -> Any:
            return workflow.run(gate_then_after(audit.path, gate), workflow_id="called")

        reference = call.remote()
        until(lambda: runs(audit.path), "the first task runs")
        the_one("executor").kill()
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        assert workflow.list_all() == [("called", workflow.SUCCESSFUL)]
        audit.check(least_tasks=2)

    def test_two_deaths_in_a_row_and_one_during_recovery_lose_nothing(
        self, storage: Path, audit: Audit, gate: Path
    ) -> None:
        references = [start_gated(audit, gate, f"gated-{number}") for number in range(2)]
        dead: list[Process] = []
        for _ in range(3):
            # Each new one is killed as soon as it can be seen: it is reading the store just then.
            dead.append(replaced("executor", dead))
            dead[-1].kill()
        gate.touch()
        assert ray.get(references, timeout=ANSWER_S) == ["after through"] * 2
        audit.check(least_tasks=4)

    def test_it_and_the_management_actor_may_die_together(self, storage: Path, audit: Audit, gate: Path) -> None:
        reference = start_gated(audit, gate)
        for role in ("management", "executor"):
            the_one(role).kill()
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        audit.check(least_tasks=2)

    def test_what_an_attempt_of_a_dead_executor_says_late_is_not_taken(
        self, storage: Path, audit: Audit, gate: Path
    ) -> None:
        reference = start_gated(audit, gate)
        pickled = ray.cloudpickle.dumps("from the dead")
        # The executor that died had numbered its attempts from 1, as this one does.
        late = Returned(seq=1, task=0, attempt=1, base=Payload(pickled))
        executor = ray.get_actor(names.executor_name(0), namespace=names.NAMESPACE)
        assert ray.get(executor.report.remote("a Ray task of the dead", late)) == []
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"

    def test_an_event_that_was_taken_is_not_lost_and_not_taken_twice(self, storage: Path, audit: Audit) -> None:
        reference = workflow.run_async(hear_and_tell(str(audit.path)), workflow_id="hearing")
        executor = the_one("executor")
        workflow.send_event("hearing", "other", 1)
        executor.kill()
        assert workflow.send_event("hearing", "news", 2, idempotency_key="a")
        assert not workflow.send_event("hearing", "news", 3, idempotency_key="a")
        assert ray.get(reference, timeout=ANSWER_S) == "after ('news', 2)"


def test_the_audit_notices_a_logged_task_that_runs_again(storage: Path, audit: Audit, gate: Path) -> None:
    gate.touch()
    assert ray.get(start_gated(audit, gate), timeout=ANSWER_S) == "after through"
    audit.remember_logged()
    audit.check(least_tasks=2)
    (first, *_), again_unix_s = runs(audit.path), time.time()
    with audit.path.open("a") as file:
        file.write(f"{again_unix_s!r}\t{first[0]}\t{first[1]}\t1\n")
    with pytest.raises(AssertionError, match="1 logged tasks ran again"):
        audit.check(least_tasks=2)


class TestListenerHost:
    def test_a_listener_is_asked_again_after_its_death(self, storage: Path, audit: Audit) -> None:
        node, value = listening(str(audit.path), Random(1))
        reference = workflow.run_async(node)
        host = replaced("listener host", [])
        host.kill()
        assert ray.get(reference, timeout=ANSWER_S) == value
        assert Path(value[0]).read_text().splitlines().count(str(value[1])) >= 1
