"""Listeners that raise: when they are asked again, how often, and what is never asked twice. And their arguments."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks, wait_for

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote(num_cpus=0)
def give(*values):
    return list(values)


def test_one_that_always_raises_is_tried_four_times_with_time_between(tmp_path: Path, wid: str) -> None:
    class Raises(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "tries", str(time.time()))
            raise ConnectionError("the broker is away")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Raises), workflow_id=wid)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "the broker is away" in str(caught.value.__cause__)
    tries = [float(text) for text in marks(tmp_path / "tries")]
    assert len(tries) == 4
    # 0.5 s, 1 s, 2 s; a tenth of it, at most, is left to chance.
    for before, after, least_s in zip(tries, tries[1:], (0.45, 0.9, 1.8), strict=False):
        assert after - before >= least_s


def test_one_that_raised_twice_and_then_works_gives_its_event(tmp_path: Path) -> None:
    class Recovers(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "tries")
            if len(marks(tmp_path / "tries")) < 3:
                raise ConnectionError("not yet")
            return "third"

    assert workflow.run(workflow.wait_for_event(Recovers)) == "third"


def test_the_back_off_survives_the_end_of_the_platform(platform: Path, tmp_path: Path, wid: str) -> None:
    class Recovers(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "tries")
            if len(marks(tmp_path / "tries")) < 3:
                raise ConnectionError("not yet")
            return "third"

    workflow.run_async(workflow.wait_for_event(Recovers), workflow_id=wid)
    wait_for(lambda: len(marks(tmp_path / "tries")) == 2, "two tries")
    workflow.shutdown()
    workflow.init(str(platform))
    assert workflow.resume(wid) == "third"
    assert len(marks(tmp_path / "tries")) == 3


def test_code_that_is_wrong_is_not_tried_again(tmp_path: Path) -> None:
    class Wrong(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "tries")
            return len(3)  # type: ignore[arg-type]

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Wrong))
    assert isinstance(caught.value.__cause__, TypeError)
    assert len(marks(tmp_path / "tries")) == 1


def test_an_acknowledgement_that_raises_is_tried_again_without_a_new_poll(tmp_path: Path) -> None:
    class Slow(workflow.EventListener):
        async def poll_for_event(self):
            mark(tmp_path / "polled")
            return "event"

        async def event_checkpointed(self, event):
            mark(tmp_path / "told", event)
            if len(marks(tmp_path / "told")) < 3:
                raise ConnectionError("not yet")

    assert workflow.run(give.bind(workflow.wait_for_event(Slow))) == ["event"]
    assert marks(tmp_path / "told") == ["event"] * 3
    assert len(marks(tmp_path / "polled")) == 1


class Echo(workflow.EventListener):
    """Gives what it was called with, once it is the third call."""

    async def poll_for_event(self, folder, *args, **kwargs):
        mark(f"{folder}/tries")
        if len(marks(f"{folder}/tries")) < 3:
            raise ConnectionError("not yet")
        return args, kwargs


def test_arguments_that_are_nodes_arrive_as_in_any_task_and_are_computed_once_for_all_tries(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def compute(name):
        mark(tmp_path / "computed", name)
        return name

    waiting = workflow.wait_for_event(Echo, str(tmp_path), compute.bind("a"), 3, key=compute.bind("b"))
    assert workflow.run(waiting) == (("a", 3), {"key": "b"})
    assert sorted(marks(tmp_path / "computed")) == ["a", "b"]


def test_an_event_can_be_the_argument_of_a_listener(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = workflow.wait_for_event(Echo, str(tmp_path / "first"), 1)
    assert workflow.run(workflow.wait_for_event(Echo, str(tmp_path / "second"), first)) == ((((1,), {}),), {})


def test_a_listener_whose_argument_fails_is_not_asked(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0, max_retries=0)
    def fails():
        raise LookupError("no such order")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(workflow.wait_for_event(Echo, str(tmp_path), fails.bind()))
    assert isinstance(caught.value.__cause__, LookupError)
    assert not marks(tmp_path / "tries")
