"""Tasks that run in the worker process of the task before them."""

from __future__ import annotations

import inspect
import os
import threading
import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")

INPLACE = workflow.options(allow_inplace=True)


@ray.remote
def pid(*_):
    return os.getpid()


@ray.remote
def pids_with(own, *more):
    return [os.getpid(), own, *more]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_continuation_runs_in_the_process_of_its_parent_only_when_asked(in_place: bool) -> None:
    @ray.remote(num_cpus=0)
    def child(parent):
        return os.getpid() == parent, ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)

    @ray.remote
    def parent():
        wanted = child.options(num_cpus=0.25, **workflow.options(allow_inplace=in_place))
        return workflow.continuation(wanted.bind(os.getpid()))

    same, cpus = workflow.run(parent.bind())
    # In place Ray's options are ignored: the child has what its parent has.
    assert cpus == (1.0 if in_place else 0.25)
    if in_place:
        assert same


def test_options_that_could_not_be_met_do_not_matter_in_place() -> None:
    @ray.remote
    def child():
        return "ran"

    @ray.remote
    def parent():
        return workflow.continuation(child.options(num_cpus=10_000, **INPLACE).bind())

    assert workflow.run(parent.bind()) == "ran"


@pytest.mark.parametrize("api", ["dag", "step"])
def test_tail_recursion_in_place_does_not_grow_the_stack(api: str, wid: str) -> None:
    @ray.remote
    def down(n, depth):
        now = len(inspect.stack())
        return (
            (now - depth, os.getpid()) if n == 0 else workflow.continuation(down.options(**INPLACE).bind(n - 1, depth))
        )

    @workflow.step(allow_inplace=True)
    def down_step(n, depth):
        now = len(inspect.stack())
        return (now - depth, os.getpid()) if n == 0 else down_step.step(n - 1, depth)

    @ray.remote
    def begin():
        here = len(inspect.stack())
        if api == "dag":
            return workflow.continuation(down.options(**INPLACE).bind(1000, here))
        return down_step.step(1000, here)

    grown, _ = workflow.run(begin.bind(), workflow_id=wid)
    assert grown == 0
    last = "down" if api == "dag" else "down_step"
    # Each of the thousand is a task of its own, and logged.
    name = f"{__name__}.test_tail_recursion_in_place_does_not_grow_the_stack.locals.{last}_1000"
    assert workflow.get_metadata(wid, name)["task_id"] == name


def test_a_value_of_the_process_can_be_passed_in_place(tmp_path: Path) -> None:
    @ray.remote
    def child(lock, held, file):
        with lock:
            file.write("in place\n")
        file.close()
        return type(held["lock"]) is type(lock) and held["lock"] is lock

    @ray.remote
    def parent():
        lock = threading.Lock()
        return workflow.continuation(child.options(**INPLACE).bind(lock, {"lock": lock}, open(tmp_path / "f", "w")))

    assert workflow.run(parent.bind()) is True
    assert marks(tmp_path / "f") == ["in place"]


def test_a_value_of_the_process_can_be_passed_on_and_on() -> None:
    @workflow.step(allow_inplace=True)
    def pass_on(lock, n, owner):
        assert lock.locked()
        return (owner, os.getpid()) if n == 0 else pass_on.step(lock, n - 1, owner)

    @workflow.step
    def begin():
        lock = threading.Lock()
        lock.acquire()
        return pass_on.step(lock, 5, os.getpid())

    owner, last = begin.step().run()
    assert owner == last


def test_a_value_of_the_process_cannot_be_passed_elsewhere() -> None:
    @ray.remote
    def child(lock):
        return lock

    @ray.remote
    def parent():
        return workflow.continuation(child.bind(threading.Lock()))

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(parent.bind())
    assert isinstance(caught.value.__cause__, TypeError)
    assert "lock" in str(caught.value.__cause__)


def test_in_a_static_graph_it_runs_in_the_worker_that_made_its_last_input() -> None:
    assert len(set(workflow.run(pids_with.options(**INPLACE).bind(pid.bind())))) == 1
    made = pid.bind()
    second = pids_with.options(**INPLACE).bind(made)
    third = pids_with.options(**INPLACE).bind(made, second)
    own, first, (same, _) = workflow.run(third)
    assert own == first == same


def test_in_place_with_two_inputs_runs_in_one_of_their_workers() -> None:
    own, *makers = workflow.run(pids_with.options(**INPLACE).bind(pid.bind(), pid.bind()))
    assert own in makers


def test_each_in_place_task_is_logged_and_none_runs_again_when_the_worker_dies(tmp_path: Path, wid: str) -> None:
    audit, died = tmp_path / "audit", tmp_path / "died"

    @ray.remote
    def down(n):
        mark(audit, str(n))
        if n == 5 and not died.exists():
            mark(died)
            os._exit(1)
        return os.getpid() if n == 0 else workflow.continuation(down.options(**INPLACE).bind(n - 1))

    workflow.run(down.bind(10), workflow_id=wid)
    # The one that died had not been logged; everything before had.
    assert marks(audit) == ["10", "9", "8", "7", "6", "5", "5", "4", "3", "2", "1", "0"]


def test_a_parent_whose_value_lived_in_the_process_runs_again_when_the_worker_dies(tmp_path: Path) -> None:
    audit, died = tmp_path / "audit", tmp_path / "died"

    @ray.remote
    def child(lock):
        mark(audit, "child")
        if not died.exists():
            mark(died)
            os._exit(1)
        return lock.locked()

    @ray.remote
    def parent(before):
        mark(audit, "parent")
        return workflow.continuation(child.options(**INPLACE).bind(threading.Lock()))

    @ray.remote
    def before():
        mark(audit, "before")

    assert workflow.run(parent.bind(before.bind())) is False
    assert marks(audit) == ["before", "parent", "child", "parent", "child"]


def test_an_error_in_place_is_retried_and_caught_as_elsewhere(tmp_path: Path) -> None:
    audit = tmp_path / "audit"

    @workflow.step(allow_inplace=True, max_retries=2)
    def child():
        mark(audit)
        raise ValueError("boom")

    @workflow.step(catch_exceptions=True)
    def parent():
        return child.step()

    value, error = parent.step().run()
    assert value is None
    assert isinstance(error, ValueError)
    assert len(marks(audit)) == 3


def test_a_crash_in_the_middle_resumes_with_what_was_logged(tmp_path: Path, platform: Path, wid: str) -> None:
    audit, gate = tmp_path / "audit", tmp_path / "gate"

    @ray.remote
    def down(n):
        mark(audit, str(n))
        if n == 2 and not gate.exists():
            mark(gate)
            time.sleep(600)
        return "done" if n == 0 else workflow.continuation(down.options(**INPLACE).bind(n - 1))

    workflow.run_async(down.bind(5), workflow_id=wid)
    wait_for_file(gate)
    workflow.shutdown()
    workflow.init(str(platform))
    assert workflow.get_status(wid) == workflow.RESUMABLE
    assert workflow.resume(wid) == "done"
    assert marks(audit) == ["5", "4", "3", "2", "2", "1", "0"]
