"""Events sent with `workflow.send_event`: who gets them, in what order, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import HTTPListener
from tests.integration.traces import in_memory, mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote(num_cpus=0)
def give(*values):
    return list(values)


def event(key):
    return workflow.wait_for_event(HTTPListener, event_key=key)


def test_an_event_wakes_the_task_that_waits(wid: str) -> None:
    reference = workflow.run_async(give.bind(event("k"), "other"), workflow_id=wid)
    assert in_memory() == 0
    assert workflow.send_event(wid, "k", {"paid": True}) is True
    assert ray.get(reference, timeout=30) == [("k", {"paid": True}), "other"]


def test_an_event_can_be_the_whole_workflow(wid: str) -> None:
    reference = workflow.run_async(event("k"), workflow_id=wid)
    workflow.send_event(wid, "k")
    assert ray.get(reference, timeout=30) == ("k", None)


def test_an_event_that_comes_before_its_waiter_is_kept(tmp_path: Path, wid: str) -> None:
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=0)
    def begin():
        wait_for_file(gate)
        return workflow.continuation(give.bind(event("k")))

    reference = workflow.run_async(begin.bind(), workflow_id=wid)
    assert workflow.send_event(wid, "k", "early")
    mark(gate)
    assert ray.get(reference, timeout=30) == [("k", "early")]


def test_two_events_of_one_key_come_in_their_order(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def then(first):
        return workflow.continuation(give.bind(first, event("k")))

    reference = workflow.run_async(then.bind(event("k")), workflow_id=wid)
    workflow.send_event(wid, "k", 1)
    workflow.send_event(wid, "other", 0)
    workflow.send_event(wid, "k", 2)
    assert ray.get(reference, timeout=30) == [("k", 1), ("k", 2)]


def test_two_that_wait_for_one_key_get_one_event_each(wid: str) -> None:
    reference = workflow.run_async(give.bind(event("k"), event("k")), workflow_id=wid)
    workflow.send_event(wid, "k", 1)
    workflow.send_event(wid, "k", 2)
    assert sorted(ray.get(reference, timeout=30)) == [("k", 1), ("k", 2)]


def test_an_event_sent_twice_with_one_idempotency_key_is_taken_once(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def then(first):
        return workflow.continuation(give.bind(first, event("k")))

    reference = workflow.run_async(then.bind(event("k")), workflow_id=wid)
    assert workflow.send_event(wid, "k", 1, idempotency_key="a") is True
    assert workflow.send_event(wid, "k", 1, idempotency_key="a") is False
    assert workflow.send_event(wid, "k", 2, idempotency_key="b") is True
    assert ray.get(reference, timeout=30) == [("k", 1), ("k", 2)]


def test_idempotency_survives_the_end_of_the_platform(platform: Path, wid: str) -> None:
    workflow.run_async(give.bind(event("k"), event("end")), workflow_id=wid)
    assert workflow.send_event(wid, "k", 1, idempotency_key="a")
    workflow.shutdown()
    workflow.init(str(platform))
    resumed = workflow.resume_async(wid)
    assert workflow.send_event(wid, "k", 2, idempotency_key="a") is False
    assert workflow.send_event(wid, "end", 0, idempotency_key="c")
    assert ray.get(resumed, timeout=30) == [("k", 1), ("end", 0)]


def test_an_event_for_an_unknown_workflow_is_refused() -> None:
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError, match="nobody"):
        workflow.send_event("nobody", "k", 1)
    assert "nobody" not in dict(workflow.list_all())


def test_an_event_for_a_workflow_that_has_ended_is_refused(wid: str) -> None:
    workflow.run(give.bind(1), workflow_id=wid)
    with pytest.raises(workflow.WorkflowError, match=wid):
        workflow.send_event(wid, "k", 1)
    workflow.run_async(event("k"), workflow_id=f"{wid}-2")
    workflow.cancel(f"{wid}-2")
    with pytest.raises(workflow.WorkflowError, match="CANCELED"):
        workflow.send_event(f"{wid}-2", "k", 1)


def test_a_failed_or_resumable_workflow_still_takes_events(platform: Path, tmp_path: Path, wid: str) -> None:
    repaired = tmp_path / "repaired"

    @ray.remote(num_cpus=0, max_retries=0)
    def fails_first():
        if not repaired.exists():
            raise ValueError("boom")

    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(give.bind(event("k"), fails_first.bind()), workflow_id=wid)
    workflow.send_event(wid, "k", "while failed")
    mark(repaired)
    assert workflow.resume(wid) == [("k", "while failed"), None]

    other = f"{wid}-2"
    workflow.run_async(give.bind(event("k")), workflow_id=other)
    workflow.shutdown()
    workflow.init(str(platform))
    assert workflow.get_status(other) == workflow.RESUMABLE
    workflow.send_event(other, "k", "while nobody drives it")
    assert workflow.resume(other) == [("k", "while nobody drives it")]


def test_an_event_while_the_workflow_waits_in_the_queue_is_kept(platform: Path, wid: str) -> None:
    workflow.shutdown()
    workflow.init(str(platform), max_running_workflows=1)
    try:
        first = workflow.run_async(event("go"), workflow_id=f"{wid}-1")
        second = workflow.run_async(give.bind(event("k")), workflow_id=f"{wid}-2")
        assert workflow.get_status(f"{wid}-2") == workflow.PENDING
        workflow.send_event(f"{wid}-2", "k", "early")
        workflow.send_event(f"{wid}-1", "go")
        assert ray.get([first, second], timeout=30) == [("go", None), [("k", "early")]]
    finally:
        workflow.shutdown()
        workflow.init(str(platform))


def test_the_other_arguments_are_computed_while_the_event_is_awaited(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "file"

    @ray.remote(num_cpus=0)
    def other():
        mark(file)
        return "computed"

    reference = workflow.run_async(give.bind(event("k"), other.bind()), workflow_id=wid)
    wait_for_file(file)
    workflow.send_event(wid, "k", 1)
    assert ray.get(reference, timeout=30) == [("k", 1), "computed"]


def test_the_key_may_be_computed_by_a_task(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def key():
        return "made"

    waiting = workflow.wait_for_event(HTTPListener, event_key=key.bind())
    reference = workflow.run_async(give.bind(waiting), workflow_id=wid)
    workflow.send_event(wid, "made", 1)
    assert ray.get(reference, timeout=60) == [("made", 1)]


def test_a_payload_may_be_large_and_of_any_kind(wid: str) -> None:
    reference = workflow.run_async(give.bind(event("k"), event("l")), workflow_id=wid)
    workflow.send_event(wid, "k", b"x" * 1_000_000)
    workflow.send_event(wid, "l", {"set": {1, 2}, "none": None})
    (_, large), (_, mixed) = ray.get(reference, timeout=30)
    assert len(large) == 1_000_000
    assert mixed == {"set": {1, 2}, "none": None}


def test_what_cannot_be_an_event_is_refused(wid: str) -> None:
    workflow.run_async(event("k"), workflow_id=wid)
    with pytest.raises(TypeError, match="key"):
        workflow.send_event(wid, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator"):
        workflow.send_event(wid, "k", (n for n in range(3)))
    with pytest.raises(TypeError, match="ObjectRef"):
        workflow.send_event(wid, "k", ray.put(1))
    workflow.cancel(wid)


def test_only_listener_classes_can_be_waited_for() -> None:
    for wrong in (int, HTTPListener(), "HTTPListener", None):
        with pytest.raises(TypeError, match="EventListener"):
            workflow.wait_for_event(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        workflow.run(workflow.wait_for_event(HTTPListener))


def test_an_event_that_is_not_taken_costs_nothing_later(wid: str) -> None:
    reference = workflow.run_async(event("end"), workflow_id=wid)
    workflow.send_event(wid, "nobody waits", 1)
    workflow.send_event(wid, "end", 1)
    assert ray.get(reference, timeout=30) == ("end", 1)
    workflow.delete(wid)
    # The id used again starts with an empty inbox.
    again = workflow.run_async(event("nobody waits"), workflow_id=wid)
    assert not ray.wait([again], timeout=0.5)[0]
    workflow.cancel(wid)


def test_a_workflow_that_waits_for_an_event_can_be_cancelled(wid: str) -> None:
    reference = workflow.run_async(give.bind(event("k")), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference, timeout=30)


def test_an_event_among_others_can_be_waited_for_with_a_time_limit(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def decide(split):
        ready = split[0]
        return ready[0] if ready else "gave up"

    late = workflow.run_async(decide.bind(workflow.wait([event("k")], timeout=0.5)), workflow_id=f"{wid}-1")
    soon = workflow.run_async(decide.bind(workflow.wait([event("k")], timeout=600)), workflow_id=f"{wid}-2")
    workflow.send_event(f"{wid}-2", "k", 1)
    assert ray.get([late, soon], timeout=30) == ["gave up", ("k", 1)]


def test_an_event_reaches_what_was_put_away_before_the_platform_ended(platform: Path, tmp_path: Path, wid: str) -> None:
    audit = tmp_path / "audit"

    @ray.remote(num_cpus=0)
    def before():
        mark(audit)

    workflow.run_async(give.bind(event("k"), before.bind()), workflow_id=wid)
    wait_for(lambda: marks(audit) and in_memory() == 0, "the workflow being put away")
    workflow.shutdown()
    workflow.init(str(platform))
    resumed = workflow.resume_async(wid)
    workflow.send_event(wid, "k", 1)
    assert ray.get(resumed, timeout=30) == [("k", 1), None]
    assert len(marks(audit)) == 1
