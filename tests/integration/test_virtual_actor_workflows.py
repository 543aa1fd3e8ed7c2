"""Methods of virtual actors that go on with steps, and that start workflows of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.workflow.exceptions import IdTakenError, VirtualActorNotFoundError, WorkflowExecutionError

pytestmark = pytest.mark.usefixtures("platform")


@workflow.step
def double(number: int) -> int:
    return 2 * number


@workflow.step
def wait_and_give(path: str, value: Any) -> Any:
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


@workflow.step
def break_unless(path: str) -> str:
    if not Path(path).exists():
        raise OSError("it is not there")
    return "mended"


@ray.remote(num_cpus=0)
def add_three(number: int) -> int:
    return number + 3


@workflow.virtual_actor
class Worker:
    def __init__(self) -> None:
        self.total = 0

    def add(self, by: int) -> int:
        self.total += by
        return self.total

    def double_later(self, number: int) -> Any:
        self.total += 1
        return double.step(number)

    def add_three_later(self, number: int) -> Any:
        return add_three.bind(number)

    def double_of_own(self, by: int) -> Any:
        return double.step(self.add.step(by))

    def add_six_later(self, number: int) -> Any:
        return workflow.continuation(add_three.bind(add_three.bind(number)))

    def count_down(self, number: int) -> Any:
        self.total += 1
        return self.count_down.step(number - 1) if number > 1 else self.total

    def wait_for_it(self, path: str) -> Any:
        self.total = 50
        return wait_and_give.step(path, "came")

    def break_later(self, path: str) -> Any:
        self.total += 1
        return break_unless.step(path)

    def start_workflow(self, workflow_id: str) -> Any:
        workflow.run_async(workflow.sleep(0.01), workflow_id=workflow_id)
        self.total += 1
        return workflow.get_output(workflow_id)

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        return self.total


@workflow.virtual_actor(on_error="suspend")
class Strict(Worker):  # type: ignore[misc]
    def stumble(self, path: str) -> str:
        if not Path(path).exists():
            raise OSError("it is not there")
        return "mended"


def made(cls: Any, wid: str) -> Any:
    actor = cls.get_or_create(wid)
    ray.get(actor.ready())
    return actor


def test_a_step_that_a_method_returns_gives_its_value(wid: str) -> None:
    worker = made(Worker, wid)
    assert worker.double_later.run(21) == 42
    assert worker.value.run() == 1
    assert workflow.get_status(f"{wid}/double_later") == workflow.SUCCESSFUL


def test_a_node_that_a_method_returns_gives_its_value(wid: str) -> None:
    assert made(Worker, wid).add_three_later.run(4) == 7


def test_a_continuation_that_a_method_returns_gives_its_value(wid: str) -> None:
    assert made(Worker, wid).add_six_later.run(4) == 10


def test_a_method_of_its_own_is_a_step(wid: str) -> None:
    worker = made(Worker, wid)
    assert worker.double_of_own.run(4) == 8
    assert worker.add.run(1) == 5


def test_a_method_that_goes_on_with_itself(wid: str) -> None:
    assert made(Worker, wid).count_down.run(3) == 3


def test_the_next_writer_waits_and_readers_see_what_was_set(wid: str, tmp_path: Path) -> None:
    worker = made(Worker, wid)
    gate = tmp_path / "gate"
    first = worker.wait_for_it.run_async(str(gate))
    second = worker.add.run_async(1)
    deadline = time.monotonic() + 30
    while worker.value.run() != 50:
        assert time.monotonic() < deadline
    done, _ = ray.wait([second], timeout=0.3)
    assert done == []
    assert workflow.get_status(wid) == workflow.RUNNING
    gate.touch()
    assert ray.get([first, second]) == ["came", 51]


def test_a_workflow_that_fails_is_the_callers_error(wid: str, tmp_path: Path) -> None:
    worker = made(Worker, wid)
    with pytest.raises(WorkflowExecutionError) as raised:
        worker.break_later.run(str(tmp_path / "no"))
    assert isinstance(raised.value.__cause__, OSError)
    # What it did before it went on has taken effect.
    assert worker.add.run(0) == 1


def test_a_workflow_of_its_own_is_started(wid: str) -> None:
    worker = made(Worker, wid)
    assert worker.start_workflow.run(f"{wid}-w") is None
    assert workflow.get_status(f"{wid}-w") == workflow.SUCCESSFUL


def test_a_new_actor_of_an_old_id_runs_its_workflows_anew(wid: str) -> None:
    assert made(Worker, wid).double_later.run(1) == 2
    workflow.delete(wid)
    assert made(Worker, wid).double_later.run(2) == 4


def test_a_workflow_of_the_users_own_is_not_taken_for_one_of_an_actor(wid: str) -> None:
    workflow.run(double.step(1), workflow_id=f"{wid}/double_later")
    worker = made(Worker, wid)
    with pytest.raises(IdTakenError):
        worker.double_later.run(2)
    assert workflow.get_output(f"{wid}/double_later") == 2


class TestSuspending:
    def test_an_error_holds_the_mailbox_until_it_is_resumed(self, wid: str, tmp_path: Path) -> None:
        strict = made(Strict, wid)
        thing = tmp_path / "thing"
        with pytest.raises(OSError, match="not there"):
            strict.stumble.run(str(thing))
        assert workflow.get_status(wid) == workflow.RESUMABLE
        waiting = [strict.add.run_async(number) for number in (1, 2)]
        done, _ = ray.wait(waiting, timeout=0.3)
        assert done == []
        assert workflow.describe(wid).mailbox_length == 3
        assert strict.value.run() == 0
        thing.touch()
        workflow.resume(wid)
        assert ray.get(waiting) == [1, 3]
        assert workflow.get_output(wid, task_id="stumble") == "mended"

    def test_a_workflow_that_failed_is_resumed(self, wid: str, tmp_path: Path) -> None:
        strict = made(Strict, wid)
        thing = tmp_path / "thing"
        with pytest.raises(WorkflowExecutionError):
            strict.break_later.run(str(thing))
        assert workflow.get_status(wid) == workflow.RESUMABLE
        thing.touch()
        workflow.resume(wid)
        assert workflow.get_output(wid, task_id="break_later") == "mended"
        assert strict.add.run(1) == 2

    def test_who_waits_for_one_that_is_deleted_is_told(self, wid: str, tmp_path: Path) -> None:
        strict = made(Strict, wid)
        with pytest.raises(OSError, match="not there"):
            strict.stumble.run(str(tmp_path / "thing"))
        waiting = [strict.add.run_async(number) for number in (1, 2)]
        workflow.delete(wid)
        for one in waiting:
            with pytest.raises(VirtualActorNotFoundError, match=wid):
                ray.get(one)
        # The calls are not made by another of its id.
        assert made(Strict, wid).value.run() == 0

    def test_a_sound_one_is_not_resumable(self, wid: str) -> None:
        made(Strict, wid)
        with pytest.raises(ValueError, match="not resumable"):
            workflow.resume(wid)
