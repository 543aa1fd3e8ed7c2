"""`workflow.Retry` and `timeout_s`: attempts, durable back-off, and what becomes of an attempt that takes too long."""

from __future__ import annotations

import itertools
import math
import os
import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import TaskTimeoutError
from tests.integration.traces import in_memory, mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")

AT_ONCE = workflow.Retry(max_attempts=3, initial_s=0, max_s=0)


def alive(pid: str) -> bool:
    # A killed worker may stay as a zombie of its raylet for a moment.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("api", ["dag", "step"])
def test_a_task_is_tried_as_often_as_retry_says(api: str, tmp_path: Path) -> None:
    def fails():
        mark(tmp_path / "tries")
        raise ValueError("boom")

    if api == "dag":
        node = ray.remote(fails).options(**workflow.options(retry=AT_ONCE)).bind()
    else:
        node = workflow.step(fails).options(retry=AT_ONCE).step()
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(node)
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(marks(tmp_path / "tries")) == 3


def test_delays_grow_and_are_bounded(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def fails():
        mark(tmp_path / "tries", repr(time.time()))
        raise ValueError("boom")

    retry = workflow.Retry(max_attempts=4, initial_s=0.2, factor=10, max_s=0.6, jitter=0)
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(fails.options(**workflow.options(retry=retry)).bind())
    tries = [float(one) for one in marks(tmp_path / "tries")]
    waited = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(waited) == 3
    assert waited[0] >= 0.2
    assert waited[1] >= 0.6
    # Without the bound it would be twenty.
    assert 0.6 <= waited[2] < 15


def test_a_service_that_is_down_for_long_comes_up_whatever_the_factor(tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def poll(file, until):
        mark(file)
        if len(marks(file)) < until:
            raise ConnectionError("down")
        return "up"

    cases = {"f10": (10.0, 340), "f1e200": (1e200, 5), "f1.7e308": (1.7e308, 5)}
    references = {}
    for name, (factor, until) in cases.items():
        retry = workflow.Retry(max_attempts=-1, initial_s=0.001, factor=factor, max_s=0.001)
        node = poll.options(**workflow.options(retry=retry)).bind(tmp_path / name, until)
        references[name] = workflow.run_async(node, workflow_id=f"{wid}-{name}")
    assert ray.get(list(references.values()), timeout=120) == ["up"] * len(cases)
    assert [len(marks(tmp_path / name)) for name in cases] == [until for _, until in cases.values()]


def test_a_back_off_without_a_bound_survives_the_end_of_the_platform(platform: Path, tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def poll():
        mark(tmp_path / "tries")
        if len(marks(tmp_path / "tries")) < 3:
            raise ConnectionError("down")
        return "up"

    retry = workflow.Retry(max_attempts=-1, initial_s=0.3, max_s=math.inf)
    workflow.run_async(poll.options(**workflow.options(retry=retry)).bind(), workflow_id=wid)
    wait_for(lambda: marks(tmp_path / "tries"), "the first attempt")
    workflow.shutdown()
    workflow.init(str(platform))
    output = workflow.resume(wid) if workflow.get_status(wid) == workflow.RESUMABLE else workflow.get_output(wid)
    assert output == "up"


def test_a_type_that_is_not_to_be_retried_fails_at_once(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def fails(kind):
        mark(tmp_path / kind.__name__)
        raise kind("boom")

    retry = workflow.Retry(max_attempts=3, initial_s=0, non_retryable=(LookupError,))
    for kind, tries in ((KeyError, 1), (ValueError, 3)):
        with pytest.raises(workflow.WorkflowExecutionError) as caught:
            workflow.run(fails.options(**workflow.options(retry=retry)).bind(kind))
        assert isinstance(caught.value.__cause__, kind)
        assert len(marks(tmp_path / kind.__name__)) == tries


def test_a_worker_that_dies_is_retried_by_retry_too(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def dies_once():
        mark(tmp_path / "tries")
        if len(marks(tmp_path / "tries")) == 1:
            os._exit(1)
        return "ok"

    assert workflow.run(dies_once.options(**workflow.options(retry=AT_ONCE)).bind()) == "ok"


def test_a_back_off_holds_no_worker_and_no_memory(tmp_path: Path, wid: str) -> None:
    # It asks for both CPUs of the cluster, so that nothing else could run beside it.
    @ray.remote(num_cpus=2)
    def fails():
        mark(tmp_path / "tries")
        raise ValueError("boom")

    @ray.remote(num_cpus=2)
    def other():
        return "ran"

    retry = workflow.Retry(max_attempts=2, initial_s=600)
    workflow.run_async(fails.options(**workflow.options(retry=retry)).bind(), workflow_id=wid)
    wait_for(lambda: marks(tmp_path / "tries") and in_memory() == 0, "the workflow being put away")
    assert workflow.run(other.bind()) == "ran"
    assert workflow.get_status(wid) == workflow.RUNNING
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED


def test_a_back_off_survives_the_end_of_the_platform(tmp_path: Path, platform: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def fails():
        mark(tmp_path / "tries", repr(time.time()))
        raise ValueError("boom")

    retry = workflow.Retry(max_attempts=3, initial_s=3, factor=1, jitter=0)
    workflow.run_async(fails.options(**workflow.options(retry=retry)).bind(), workflow_id=wid)
    wait_for(lambda: marks(tmp_path / "tries") and in_memory() == 0, "the workflow being put away")
    workflow.shutdown()
    workflow.init(str(platform))
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.resume(wid)
    # Neither the time waited nor the attempts made are forgotten.
    tries = [float(one) for one in marks(tmp_path / "tries")]
    assert len(tries) == 3
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(tries))


def test_an_attempt_that_takes_too_long_is_killed(tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def slow():
        mark(tmp_path / "pids", str(os.getpid()))
        time.sleep(600)

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(slow.options(**workflow.options(timeout_s=0.5)).bind(), workflow_id=wid)
    cause = caught.value.__cause__
    assert isinstance(cause, TaskTimeoutError)
    assert isinstance(cause, TimeoutError)
    assert "slow" in str(cause)
    assert "0.5" in str(cause)
    # An error of the task, which is not retried without being asked for; and nothing of it goes on.
    (pid,) = marks(tmp_path / "pids")
    wait_for(lambda: not alive(pid), "the end of the process")


def test_a_time_limit_that_is_kept_changes_nothing() -> None:
    @workflow.step(timeout_s=60)
    def quick():
        return "done"

    assert quick.step().run() == "done"


def test_a_time_limit_is_caught_as_an_error() -> None:
    @workflow.step(timeout_s=0.3, catch_exceptions=True)
    def slow():
        time.sleep(600)

    value, error = slow.step().run()
    assert value is None
    assert isinstance(error, TaskTimeoutError)


@pytest.mark.parametrize("how", ["retry", "max_retries"])
def test_an_attempt_that_took_too_long_is_retried(how: str, tmp_path: Path) -> None:
    asked = {"retry": AT_ONCE} if how == "retry" else {"max_retries": 2}

    @workflow.step(timeout_s=0.5, **asked)
    def slow_once():
        mark(tmp_path / "tries")
        if len(marks(tmp_path / "tries")) == 1:
            time.sleep(600)
        return "second"

    assert slow_once.step().run() == "second"
    assert len(marks(tmp_path / "tries")) == 2


def test_a_time_limit_can_be_not_retryable(tmp_path: Path) -> None:
    retry = workflow.Retry(max_attempts=3, initial_s=0, non_retryable=(TimeoutError,))

    @workflow.step(timeout_s=0.3, retry=retry)
    def slow():
        mark(tmp_path / "tries")
        time.sleep(600)

    with pytest.raises(workflow.WorkflowExecutionError):
        slow.step().run()
    assert len(marks(tmp_path / "tries")) == 1


def test_an_in_place_task_has_a_time_limit_of_its_own(tmp_path: Path) -> None:
    @workflow.step(allow_inplace=True, timeout_s=0.3, catch_exceptions=True)
    def slow():
        mark(tmp_path / "slow")
        time.sleep(600)

    @workflow.step
    def parent():
        mark(tmp_path / "parent")
        return slow.step()

    value, error = parent.step().run()
    assert value is None
    assert isinstance(error, TaskTimeoutError)
    assert len(marks(tmp_path / "parent")) == len(marks(tmp_path / "slow")) == 1


def test_a_failed_task_may_be_resumed_with_all_its_attempts(tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def fails_five_times():
        mark(tmp_path / "tries")
        if len(marks(tmp_path / "tries")) <= 5:
            raise ValueError("boom")
        return "ok"

    node = fails_five_times.options(**workflow.options(retry=AT_ONCE)).bind()
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(node, workflow_id=wid)
    assert workflow.resume(wid) == "ok"
    assert len(marks(tmp_path / "tries")) == 6


def test_a_running_attempt_ends_with_its_workflow(tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def slow():
        mark(tmp_path / "pid", str(os.getpid()))
        time.sleep(600)

    workflow.run_async(slow.options(**workflow.options(timeout_s=500)).bind(), workflow_id=wid)
    wait_for_file(tmp_path / "pid")
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    (pid,) = marks(tmp_path / "pid")
    wait_for(lambda: not alive(pid), "the end of the process")
