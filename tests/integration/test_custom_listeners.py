"""Listeners that users write: what they may do, and what happens when they misbehave."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks, put, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote(num_cpus=0)
def give(*values):
    return list(values)


class FileListener(workflow.EventListener):
    """Waits for a file and gives its text."""

    async def poll_for_event(self, path, *notes):
        while not os.path.exists(path):
            await asyncio.sleep(0.02)
        return Path(path).read_text()


def test_the_event_is_what_poll_returns(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("hello")
    assert workflow.run(workflow.wait_for_event(FileListener, str(tmp_path / "f"))) == "hello"


def test_arguments_may_be_nodes_and_the_consumers_others_are_computed_meanwhile(tmp_path: Path, wid: str) -> None:
    @ray.remote(num_cpus=0)
    def where():
        return str(tmp_path / "f")

    @ray.remote(num_cpus=0)
    def other():
        mark(tmp_path / "computed")
        return "computed"

    waiting = workflow.wait_for_event(FileListener, where.bind())
    reference = workflow.run_async(give.bind(waiting, other.bind()), workflow_id=wid)
    wait_for_file(tmp_path / "computed")
    put(tmp_path / "f", "late")
    assert ray.get(reference, timeout=30) == ["late", "computed"]


def test_a_poll_goes_on_after_the_platform_ended(tmp_path: Path, platform: Path, wid: str) -> None:
    workflow.run_async(give.bind(workflow.wait_for_event(FileListener, str(tmp_path / "f"))), workflow_id=wid)
    workflow.shutdown()
    workflow.init(str(platform))
    resumed = workflow.resume_async(wid)
    put(tmp_path / "f", "later")
    assert ray.get(resumed, timeout=30) == ["later"]


def test_an_error_of_poll_fails_the_workflow_with_it_as_cause(wid: str) -> None:
    class Raises(workflow.EventListener):
        async def poll_for_event(self):
            raise ValueError("no such topic")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(give.bind(workflow.wait_for_event(Raises)), workflow_id=wid)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "no such topic" in str(caught.value.__cause__)
    assert workflow.get_status(wid) == workflow.FAILED


def test_an_error_of_poll_is_caught_by_whoever_catches_around_it() -> None:
    class Raises(workflow.EventListener):
        async def poll_for_event(self):
            raise ValueError("no such topic")

    @ray.remote(num_cpus=0)
    def around():
        return workflow.continuation(give.bind(workflow.wait_for_event(Raises)))

    value, error = workflow.run(around.options(**workflow.options(catch_exceptions=True)).bind())
    assert value is None
    assert isinstance(error, ValueError)


def test_an_event_that_cannot_be_pickled_is_refused_by_name(wid: str) -> None:
    class Unpicklable(workflow.EventListener):
        async def poll_for_event(self):
            return {"held": threading.Lock()}

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Unpicklable), workflow_id=wid)
    assert isinstance(caught.value.__cause__, TypeError)
    assert "Unpicklable" in str(caught.value.__cause__)
    assert "held" in str(caught.value.__cause__)


def test_a_listener_that_says_nothing_is_told_so() -> None:
    class Silent(workflow.EventListener):
        pass

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Silent))
    assert "write poll_for_event" in str(caught.value.__cause__)


def test_many_polls_share_a_process(tmp_path: Path) -> None:
    class Pid(FileListener):
        async def poll_for_event(self, path):
            await super().poll_for_event(path)
            return os.getpid()

    @ray.remote(num_cpus=0)
    def distinct(*pids):
        return len(set(pids))

    reference = workflow.run_async(
        distinct.bind(*[workflow.wait_for_event(Pid, str(tmp_path / "f")) for _ in range(300)])
    )
    (tmp_path / "f").write_text("")
    assert ray.get(reference, timeout=60) == 1


def test_a_poll_that_blocks_does_not_keep_others_from_their_events(tmp_path: Path, wid: str) -> None:
    class Blocks(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "blocking")
            while not os.path.exists(tmp_path / "release"):
                time.sleep(0.05)
            return "unblocked"

    (early, late) = (tmp_path / "early", tmp_path / "late")
    before = workflow.run_async(workflow.wait_for_event(FileListener, str(early)), workflow_id=f"{wid}-before")
    blocked = workflow.run_async(workflow.wait_for_event(Blocks), workflow_id=f"{wid}-blocks")
    wait_for_file(tmp_path / "blocking")
    after = workflow.run_async(workflow.wait_for_event(FileListener, str(late)), workflow_id=f"{wid}-after")
    put(early, "before")
    put(late, "after")
    assert ray.get([before, after], timeout=60) == ["before", "after"]
    mark(tmp_path / "release")
    # To block is slow, not wrong.
    assert ray.get(blocked, timeout=60) == "unblocked"


def test_a_poll_that_ended_its_process_once_is_polled_again(tmp_path: Path) -> None:
    class ExitsOnce(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "polls")
            if len(marks(tmp_path / "polls")) == 1:
                os._exit(3)
            return "second"

    assert workflow.run(workflow.wait_for_event(ExitsOnce)) == "second"


class Acknowledging(workflow.EventListener):
    """Notes in a folder what is asked of it."""

    async def poll_for_event(self, folder):
        mark(f"{folder}/polled")
        return folder

    async def event_checkpointed(self, event):
        # The workflow's folder tells whether the event is there: durable before it is acknowledged.
        mark(f"{event}/acknowledged", event)


def test_the_event_is_acknowledged_once_before_its_consumer_starts(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def seen(folder):
        return marks(f"{folder}/acknowledged")

    assert workflow.run(seen.bind(workflow.wait_for_event(Acknowledging, str(tmp_path)))) == [str(tmp_path)]
    assert len(marks(tmp_path / "polled")) == 1


def test_a_crash_of_the_host_while_acknowledging_brings_no_new_poll(tmp_path: Path) -> None:
    class ExitsOnce(Acknowledging):
        async def event_checkpointed(self, event):
            mark(f"{event}/acknowledging")
            if len(marks(f"{event}/acknowledging")) == 1:
                os._exit(3)
            await super().event_checkpointed(event)

    assert workflow.run(give.bind(workflow.wait_for_event(ExitsOnce, str(tmp_path)))) == [str(tmp_path)]
    assert len(marks(tmp_path / "polled")) == 1
    assert len(marks(tmp_path / "acknowledging")) == 2
    assert len(marks(tmp_path / "acknowledged")) == 1


def test_an_end_of_the_platform_while_acknowledging_brings_no_new_poll(
    tmp_path: Path, platform: Path, wid: str
) -> None:
    class Slow(Acknowledging):
        async def event_checkpointed(self, event):
            mark(f"{event}/acknowledging")
            while not os.path.exists(f"{event}/release"):
                await asyncio.sleep(0.02)
            await super().event_checkpointed(event)

    workflow.run_async(workflow.wait_for_event(Slow, str(tmp_path)), workflow_id=wid)
    wait_for_file(tmp_path / "acknowledging")
    workflow.shutdown()
    workflow.init(str(platform))
    resumed = workflow.resume_async(wid)
    wait_for(lambda: len(marks(tmp_path / "acknowledging")) == 2, "the second acknowledgement")
    mark(tmp_path / "release")
    assert ray.get(resumed, timeout=30) == str(tmp_path)
    assert len(marks(tmp_path / "polled")) == 1
    assert len(marks(tmp_path / "acknowledged")) == 1


def test_an_error_while_acknowledging_fails_the_workflow_and_a_resume_does_not_poll_again(
    tmp_path: Path, wid: str
) -> None:
    class Fails(Acknowledging):
        async def event_checkpointed(self, event):
            if not os.path.exists(f"{event}/repaired"):
                raise ValueError("source is gone")
            await super().event_checkpointed(event)

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Fails, str(tmp_path)), workflow_id=wid)
    assert "source is gone" in str(caught.value.__cause__)
    mark(tmp_path / "repaired")
    assert workflow.resume(wid) == str(tmp_path)
    assert len(marks(tmp_path / "polled")) == 1
    assert len(marks(tmp_path / "acknowledged")) == 1


def test_a_poll_is_ended_by_cancel(tmp_path: Path, wid: str) -> None:
    class Tells(workflow.EventListener):
        async def poll_for_event(self, folder):
            mark(f"{folder}/polling")
            try:
                await asyncio.sleep(600)
            finally:
                mark(f"{folder}/ended")

    reference = workflow.run_async(workflow.wait_for_event(Tells, str(tmp_path)), workflow_id=wid)
    wait_for_file(tmp_path / "polling")
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    wait_for_file(tmp_path / "ended")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference, timeout=30)


def test_a_blocked_poll_does_not_keep_its_workflow_from_being_cancelled(tmp_path: Path, wid: str) -> None:
    class Blocks(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "blocking")
            wait_for_file(tmp_path / "release")

    workflow.run_async(workflow.wait_for_event(Blocks), workflow_id=wid)
    wait_for_file(tmp_path / "blocking")
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    mark(tmp_path / "release")


def test_a_listener_that_cannot_be_built_fails_with_its_error() -> None:
    class NeedsMore(workflow.EventListener):
        def __init__(self, more):
            pass

        async def poll_for_event(self):
            return 1

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(NeedsMore))
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_large_event_comes_whole() -> None:
    class Large(workflow.EventListener):
        async def poll_for_event(self):
            return b"x" * 1_000_000

    assert len(workflow.run(give.bind(workflow.wait_for_event(Large)))[0]) == 1_000_000
