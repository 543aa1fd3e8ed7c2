"""`workflow.sleep` and TimerListener: when the clock starts, what survives, and that waiting is free."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import TimerListener
from holdfast.workflow.http_event_provider import HTTPListener
from tests.integration.traces import in_memory, mark, marks, wait_for, wait_for_file, wait_until_begun

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote(num_cpus=0)
def now(*_):
    return time.time()


def test_a_sleep_gives_none_and_is_never_early() -> None:
    began = time.time()
    assert workflow.run(workflow.sleep(0.3)) is None
    assert time.time() - began >= 0.3


def test_no_time_at_all_is_a_sleep_too() -> None:
    assert workflow.run(now.bind(workflow.sleep(0))) > 0
    assert workflow.run(workflow.sleep(0)) is None


def test_what_takes_a_sleep_runs_after_it(wid: str) -> None:
    began = time.time()
    assert workflow.run(now.bind(workflow.sleep(0.5)), workflow_id=wid) - began >= 0.5
    stats = workflow.get_metadata(wid, "workflow.sleep")["stats"]
    assert stats["end_time"] - stats["start_time"] >= 0.5


def test_the_clock_starts_when_the_node_runs_and_not_when_it_is_made() -> None:
    made = workflow.sleep(0.4)

    @ray.remote(num_cpus=0)
    def then(began, woke):
        return woke - began

    @ray.remote(num_cpus=0)
    def begin():
        # Made by a task that runs later than the graph was submitted.
        return workflow.continuation(then.bind(time.time(), now.bind(workflow.sleep(0.4))))

    time.sleep(0.4)
    began = time.time()
    workflow.run(made)
    assert time.time() - began >= 0.4
    assert workflow.run(begin.bind()) >= 0.4


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None, True], ids=str)
def test_what_is_no_duration_is_refused_at_once(seconds) -> None:
    with pytest.raises((TypeError, ValueError), match="seconds"):
        workflow.sleep(seconds)


def test_many_sleeps_of_one_workflow_end_in_their_order() -> None:
    @ray.remote(num_cpus=0)
    def stamp(name, _):
        return name, time.time()

    @ray.remote(num_cpus=0)
    def collect(*stamps):
        return [name for name, _ in sorted(stamps, key=lambda one: one[1])]

    stamps = [stamp.bind(name, workflow.sleep(seconds)) for name, seconds in (("c", 1.2), ("a", 0.0), ("b", 0.6))]
    assert workflow.run(collect.bind(*stamps)) == ["a", "b", "c"]


def test_a_deadline_survives_the_end_of_the_platform(platform: Path, wid: str) -> None:
    workflow.run_async(workflow.sleep(2.0), workflow_id=wid)
    wait_until_begun(wid, "workflow.sleep")
    workflow.shutdown()
    workflow.init(str(platform))
    assert workflow.get_status(wid) == workflow.RESUMABLE
    workflow.resume(wid)
    stats = workflow.get_metadata(wid, "workflow.sleep")["stats"]
    # From when it began, before the end of the platform: not two seconds from the resume.
    assert stats["end_time"] - stats["start_time"] >= 2.0
    assert stats["start_time"] < workflow.get_metadata(wid)["stats"]["start_time"]


def test_a_deadline_that_passed_while_nothing_ran_does_not_begin_again(platform: Path, wid: str) -> None:
    began = time.time()
    workflow.run_async(now.bind(workflow.sleep(1.0)), workflow_id=wid)
    wait_until_begun(wid, "workflow.sleep")
    workflow.shutdown()
    workflow.init(str(platform))
    wait_for(lambda: time.time() > began + 1.0, "the deadline has passed")
    resumed = time.time()
    if workflow.get_status(wid) == workflow.RESUMABLE:
        assert workflow.resume(wid) >= resumed
        # Its clock is that of before, and what it was set to had passed.
        assert workflow.get_metadata(wid, "workflow.sleep")["stats"]["start_time"] < resumed
    # Else the machine was so slow that it was over before the platform was.
    assert workflow.get_status(wid) == workflow.SUCCESSFUL


def test_thousands_of_sleepers_are_put_away_and_all_wake(wid: str) -> None:
    many = 2000

    @workflow.step
    def done(*sleeps):
        return len(sleeps)

    reference = workflow.run_async(done.step(*[workflow.sleep(3) for _ in range(many)]), workflow_id=wid)
    assert in_memory() == 0
    assert workflow.get_status(wid) == workflow.RUNNING
    assert ray.get(reference, timeout=60) == many


def test_workflows_that_sleep_hold_nothing_in_memory(wid: str) -> None:
    count = 300
    references = [workflow.run_async(workflow.sleep(4), workflow_id=f"{wid}-{at}") for at in range(count)]
    assert len(workflow.list_all(workflow.RUNNING)) >= count
    assert in_memory() == 0
    ray.get(references, timeout=60)
    assert {workflow.get_status(f"{wid}-{at}") for at in range(count)} == {workflow.SUCCESSFUL}


def test_a_timer_of_the_past_fires_at_once() -> None:
    assert workflow.run(workflow.wait_for_event(TimerListener, time.time() - 100)) is None


def test_a_timer_of_the_future_fires_then_and_not_before() -> None:
    due = time.time() + 0.5
    assert workflow.run(now.bind(workflow.wait_for_event(TimerListener, due))) >= due


def test_a_timer_may_be_computed_by_a_task() -> None:
    @ray.remote(num_cpus=0)
    def soon():
        return time.time() + 0.5

    due = soon.bind()

    @ray.remote(num_cpus=0)
    def late(due, _):
        return time.time() - due

    assert workflow.run(late.bind(due, workflow.wait_for_event(TimerListener, due))) >= 0


def test_a_timer_survives_the_end_of_the_platform(platform: Path, wid: str) -> None:
    due = time.time() + 1.5
    workflow.run_async(now.bind(workflow.wait_for_event(workflow.event_listener.TimerListener, due)), workflow_id=wid)
    workflow.shutdown()
    workflow.init(str(platform))
    assert workflow.resume(wid) >= due


@pytest.mark.parametrize("what", ["sleep", "timer"])
def test_a_sleeper_can_be_cancelled(what: str, wid: str) -> None:
    node = workflow.sleep(600) if what == "sleep" else workflow.wait_for_event(TimerListener, time.time() + 600)
    reference = workflow.run_async(now.bind(node), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference, timeout=30)


@pytest.mark.parametrize("seconds", [1e11, 1e30, float("inf")], ids=str)
def test_a_time_that_never_comes_disturbs_nobody(seconds: float, wid: str) -> None:
    node = workflow.wait(
        [workflow.sleep(seconds), workflow.wait_for_event(TimerListener, seconds)], num_returns=2, timeout=seconds
    )
    workflow.run_async(node, workflow_id=wid)
    assert workflow.run(workflow.sleep(0.1)) is None
    assert workflow.get_status(wid) == workflow.RUNNING
    workflow.cancel(wid)


def test_infinity_is_to_wait_without_end_and_no_limit(platform: Path, wid: str) -> None:
    nodes = {
        "sleep": workflow.sleep(math.inf),
        "fed": now.bind(workflow.sleep(math.inf)),
        "timer": workflow.wait_for_event(TimerListener, math.inf),
        "event": workflow.wait_for_event(HTTPListener, event_key="k", timeout_s=math.inf),
    }
    for name, node in nodes.items():
        workflow.run_async(node, workflow_id=f"{wid}-{name}")
    assert workflow.run(workflow.wait([now.bind()], timeout=math.inf))[1] == []
    assert workflow.run(now.options(**workflow.options(timeout_s=math.inf)).bind())
    workflow.shutdown()
    workflow.init(str(platform))
    for name in nodes:
        assert workflow.get_status(f"{wid}-{name}") == workflow.RESUMABLE
        workflow.resume_async(f"{wid}-{name}")
    assert workflow.send_event(f"{wid}-event", "k", 7)
    assert workflow.get_output(f"{wid}-event") == ("k", 7)
    for name in ("sleep", "fed", "timer"):
        assert workflow.get_status(f"{wid}-{name}") == workflow.RUNNING
        workflow.cancel(f"{wid}-{name}")


def test_what_is_no_time_is_refused_for_a_timer() -> None:
    for wrong in (float("nan"), "noon", None):
        with pytest.raises((TypeError, ValueError)):
            workflow.run_async(workflow.wait_for_event(TimerListener, wrong))


def test_other_tasks_run_while_one_sleeps(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "file"

    @ray.remote(num_cpus=0)
    def noted():
        mark(file)

    @ray.remote(num_cpus=0)
    def both(*_):
        return True

    named = noted.options(**workflow.options(task_id="noted"))
    workflow.run_async(both.bind(workflow.sleep(600), named.bind()), workflow_id=wid)
    wait_for_file(file)
    wait_for(lambda: "end_time" in workflow.get_metadata(wid, "noted")["stats"], "the task that does not sleep")
    assert workflow.get_status(wid) == workflow.RUNNING
    workflow.cancel(wid)
    assert marks(file) == [""]


def test_a_loop_that_sleeps_often_goes_on_and_keeps_its_ids_apart(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def nap(left, woken, _):
        if left == 0:
            return woken
        return workflow.continuation(nap.options(**workflow.options(task_id="nap")).bind(left - 1, woken + 1, sleep()))

    def sleep():
        return workflow.sleep(0.005)

    rounds = 45  # Enough for the last ones to be loaded from a snapshot.
    first = nap.options(**workflow.options(task_id="nap")).bind(rounds, 0, sleep())
    assert workflow.run(first, workflow_id=wid) == rounds
    for task_id in ("nap", f"nap_{rounds}", f"workflow.sleep_{rounds}"):
        assert workflow.get_metadata(wid, task_id)["task_id"] == task_id
