"""A process that is stopped does not die and gives nothing back: it is ended, and what it did goes on."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from holdfast.actors.operating_system import Process
from holdfast.engine.errors import WorkflowEndedError
from holdfast.listeners import TimerListener
from tests.recovery.audit import Audit, runs
from tests.recovery.gates import behind_a_gate, gate_then_after, hear_and_tell
from tests.recovery.processes import of_role, replaced, the_one, until
from tests.recovery.stopping import LockProbe, stop

ANSWER_S = 90.0
LEASE_S = 2.0
LONG_LEASE_S = 8.0


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def lease_s() -> float:
    return LEASE_S


@pytest.fixture
def folder(local_ray: None, tmp_path: Path, lease_s: float) -> Iterator[Path]:
    folder = tmp_path / "storage"
    workflow.init(str(folder), executors=2, lease_s=lease_s)
    yield folder
    workflow.shutdown()


def driven_by(number: int, nth: int = 0) -> str:
    """An id that the executor of this number drives; the first, or the nth after that."""
    pool = [names.executor_name(each) for each in range(2)]
    ids = (f"workflow-{serial}" for serial in itertools.count())
    mine = (each for each in ids if names.executor_for(each, pool) == pool[number])
    return next(itertools.islice(mine, nth, None))


def executor(number: int) -> Process:
    entry = workflow.platform_status()["executors"][number]
    return next(each for each in of_role("executor") if each.pid == entry["pid"])


def stopped_executor(number: int) -> Process:
    process = executor(number)
    stop(process)
    return process


def start_gated(audit: Audit, gate: Path, workflow_id: str) -> Any:
    """A workflow whose first task is running and will be until the gate is opened; the reference of its value."""
    reference = workflow.run_async(gate_then_after(audit.path, gate), workflow_id=workflow_id)
    until(lambda: any(key[0] == workflow_id for key in runs(audit.path)), "the first task runs")
    return reference


def attempts(audit: Audit, workflow_id: str) -> list[int]:
    """How often each task of a workflow ran, in order of their first run."""
    return [len(times) for key, times in runs(audit.path).items() if key[0] == workflow_id]


class TestStoppedExecutor:
    def test_it_is_ended_and_its_workflows_go_on(self, folder: Path, audit: Audit, gate: Path) -> None:
        reference = start_gated(audit, gate, driven_by(0))
        stopped = stopped_executor(0)
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        until(lambda: not stopped.alive, "the stopped one has ended")
        audit.check(least_tasks=2)

    def test_it_is_ended_also_when_the_management_actor_was_started_after_it_stopped(
        self, folder: Path, audit: Audit, gate: Path
    ) -> None:
        reference = start_gated(audit, gate, driven_by(1))
        stopped = stopped_executor(1)
        the_one("management").kill()
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "after through"
        until(lambda: not stopped.alive, "the stopped one has ended")

    def test_a_task_that_runs_for_the_other_one_is_not_disturbed(self, folder: Path, audit: Audit, gate: Path) -> None:
        reference = workflow.run_async(behind_a_gate.bind(str(audit.path), str(gate)), workflow_id=driven_by(0))
        until(lambda: runs(audit.path), "it runs")
        stopped = stopped_executor(1)
        until(lambda: not stopped.alive, "the stopped one is ended")
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "through"
        assert attempts(audit, driven_by(0)) == [1]


class TestStoppedForAWhile:
    @pytest.fixture
    def lease_s(self) -> float:
        """Longer than all the rest may take: nobody ends it here."""
        return 2 * ANSWER_S

    def test_the_timers_of_others_go_off_meanwhile(self, folder: Path) -> None:
        process = executor(1)
        for nth in itertools.count():
            due_unix_s = time.time() + 0.5 * 2**nth
            stopped_id = driven_by(1, nth)
            of_the_stopped = workflow.run_async(
                workflow.wait_for_event(TimerListener, due_unix_s), workflow_id=stopped_id
            )
            stop(process)
            if workflow.get_status(stopped_id) == workflow.RUNNING:
                break
            # The machine is so busy that it was awake before it was stopped.
            os.kill(process.pid, signal.SIGCONT)
        after = workflow.wait_for_event(TimerListener, due_unix_s + 0.2)
        assert ray.get(workflow.run_async(after, workflow_id=driven_by(0)), timeout=ANSWER_S) is None
        assert process.stopped
        os.kill(process.pid, signal.SIGCONT)
        assert ray.get(of_the_stopped, timeout=ANSWER_S) is None


def heard(busy: Any, writing: int = 0) -> bool:
    """Whether the workflow that waits goes on."""
    workflow.send_event(driven_by(writing), "news", 1)
    return bool(ray.get(busy, timeout=ANSWER_S) == "after ('news', 1)")


class Posting:
    """Threads that send events to one workflow, until it or the block ends: its executor writes all the time."""

    THREADS = 4

    def __init__(self, workflow_id: str) -> None:
        self._workflow_id, self._over, self._sent = workflow_id, threading.Event(), itertools.count()
        self._pool = ThreadPoolExecutor(self.THREADS)

    def __enter__(self) -> None:
        self._threads = [self._pool.submit(self._send) for _ in range(self.THREADS)]

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            # One that met the death of the executor was repeated.
            thread.result(ANSWER_S)
        self._pool.shutdown()

    def _send(self) -> None:
        with suppress(WorkflowEndedError):
            while not self._over.is_set():
                workflow.send_event(self._workflow_id, "other", next(self._sent))


@pytest.mark.slow
class TestStoppedWriter:
    """An executor that is stopped inside the store's write lock: nobody can write until it is ended."""

    @pytest.fixture
    def lease_s(self) -> float:
        # Longer than it takes to catch one.
        return LONG_LEASE_S

    @pytest.fixture
    def writing(self) -> int:
        return 0

    @pytest.fixture
    def busy(self, folder: Path, audit: Audit, writing: int) -> Iterator[Any]:
        """A workflow that has its executor write all the time, and waits for "news"; the reference of its value."""
        reference = workflow.run_async(hear_and_tell(str(audit.path)), workflow_id=driven_by(writing))
        with Posting(driven_by(writing)):
            yield reference

    def test_it_alone_is_ended_though_the_other_one_waits_for_the_lock(
        self, folder: Path, audit: Audit, gate: Path, busy: Any
    ) -> None:
        other = start_gated(audit, gate, driven_by(1))
        writer, waiter = executor(0), executor(1)
        with LockProbe(folder) as probe:
            probe.stop_inside(writer)
            # The other one has something to write, and does not answer either from now on.
            gate.touch()
            assert ray.get(other, timeout=ANSWER_S) == "after through"
            until(lambda: not writer.alive, "the stopped one has ended")
            assert probe.gets_it(ANSWER_S)
        assert waiter.alive
        assert attempts(audit, driven_by(1)) == [1, 1]
        assert heard(busy)

    def test_it_is_ended_also_when_the_management_actor_starts_meanwhile(self, folder: Path, busy: Any) -> None:
        writer = executor(0)
        with LockProbe(folder) as probe:
            probe.stop_inside(writer)
            management = the_one("management")
            management.kill()
            replaced("management", [management])
            until(lambda: not writer.alive, "the stopped one is ended")
            assert probe.gets_it(ANSWER_S)

    # The new management actor asks both at once, in this order.
    @pytest.mark.parametrize("writing", [0, 1])
    def test_it_alone_is_ended_also_when_the_management_actor_was_stopped_too(
        self, folder: Path, audit: Audit, gate: Path, busy: Any, writing: int
    ) -> None:
        other = start_gated(audit, gate, driven_by(1 - writing))
        writer, waiter, management = executor(writing), executor(1 - writing), the_one("management")
        with LockProbe(folder) as probe:
            probe.stop_inside(writer)
            stop(management)
            gate.touch()
            assert ray.get(other, timeout=ANSWER_S) == "after through"
            until(lambda: not writer.alive, "the stopped one has ended")
            until(lambda: not management.alive, "the stopped management actor has ended")
        assert waiter.alive
        assert heard(busy, writing)


class TestStoppedManagementActor:
    def test_it_is_ended_and_timers_ring(self, folder: Path, audit: Audit, gate: Path) -> None:
        running = start_gated(audit, gate, driven_by(0))
        executors, stopped = [executor(0), executor(1)], the_one("management")
        stop(stopped)
        sleeping = workflow.run_async(workflow.sleep(0.5), workflow_id=driven_by(1))
        assert ray.get(sleeping, timeout=ANSWER_S) is None
        until(lambda: not stopped.alive, "the stopped one has ended")
        gate.touch()
        assert ray.get(running, timeout=ANSWER_S) == "after through"
        assert attempts(audit, driven_by(0)) == [1, 1]
        assert all(each.alive for each in executors)

    def test_one_that_answers_is_left_alone(self, folder: Path) -> None:
        management = the_one("management")
        assert workflow.run(workflow.sleep(2 * LEASE_S)) is None
        assert the_one("management") == management
