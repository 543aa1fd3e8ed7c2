"""Waits that a workflow has given up, through the API: they take no event from those that it has now."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import HTTPListener
from tests.integration.traces import mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


def event(key: str, **limit: float) -> Any:
    return workflow.wait_for_event(HTTPListener, event_key=key, **limit)


@ray.remote(num_cpus=0)
def payload(one):
    return one[1]


@ray.remote(num_cpus=0)
def ask_afresh(dropped, begun=None):
    if begun is not None:
        mark(begun)
    return workflow.continuation(payload.bind(event("approve")))


@ray.remote(num_cpus=0)
def poll(split, rounds, seen):
    """Wait half a second for news, over and over, until there were four."""
    mark(rounds)
    seen = seen + [news[1] for news in split[0]]
    if len(seen) == 4:
        return seen
    return workflow.continuation(poll.bind(workflow.wait([event("news")], timeout=0.5), rounds, seen))


@workflow.options(catch_exceptions=True)
@ray.remote(num_cpus=0)
def ask():
    return workflow.continuation(event("news", timeout_s=0.5))


@ray.remote(num_cpus=0)
def poll_by_limit(result, rounds, seen):
    """The same by the time limit of the event itself, caught."""
    mark(rounds)
    value, error = result
    seen = seen + ([value[1]] if error is None else [])
    if len(seen) == 4:
        return seen
    return workflow.continuation(poll_by_limit.bind(ask.bind(), rounds, seen))


def send_four(wid: str, rounds: Path) -> None:
    """Send four events, each after waits that have come to nothing."""
    for number in range(4):
        before = len(marks(rounds))
        wait_for(lambda before=before: len(marks(rounds)) > before + 1)
        workflow.send_event(wid, "news", number)


def test_a_loop_that_waits_with_a_time_limit_gets_every_event_in_order(tmp_path: Path, wid: str) -> None:
    rounds = tmp_path / "rounds"
    reference = workflow.run_async(poll.bind(workflow.wait([event("news")], timeout=0.5), rounds, []), workflow_id=wid)
    send_four(wid, rounds)
    assert ray.get(reference, timeout=60) == [0, 1, 2, 3]


def test_a_loop_over_events_with_limits_of_their_own_gets_every_event_in_order(tmp_path: Path, wid: str) -> None:
    rounds = tmp_path / "rounds"
    reference = workflow.run_async(poll_by_limit.bind(ask.bind(), rounds, []), workflow_id=wid)
    send_four(wid, rounds)
    assert ray.get(reference, timeout=60) == [0, 1, 2, 3]


def test_what_a_time_limit_left_over_takes_no_event(tmp_path: Path, wid: str) -> None:
    split = workflow.wait([event("approve")], timeout=0.2)
    reference = workflow.run_async(ask_afresh.bind(split, tmp_path / "begun"), workflow_id=wid)
    wait_for_file(tmp_path / "begun")
    workflow.send_event(wid, "approve", "yes")
    assert ray.get(reference, timeout=30) == "yes"


def test_what_lost_a_wait_takes_no_event(wid: str) -> None:
    both = workflow.wait([event("other"), event("approve")], num_returns=1)
    reference = workflow.run_async(ask_afresh.bind(both), workflow_id=wid)
    workflow.send_event(wid, "other", 1)
    workflow.send_event(wid, "approve", "yes")
    assert ray.get(reference, timeout=30) == "yes"


@ray.remote(num_cpus=0)
def wait_again(split):
    ready, rest = split
    return workflow.continuation(gathered.bind([one[1] for one in ready], workflow.wait(rest)))


@ray.remote(num_cpus=0)
def gathered(before, split):
    return before, [one[1] for one in split[0]]


@ray.remote(num_cpus=0)
def give_rest(split, begun=None):
    if begun is not None:
        mark(begun)
    return {"rest": split[1]}


@ray.remote(num_cpus=0)
def pickle_rest(split, begun):
    mark(begun)
    return pickle.dumps(split[1])


@ray.remote(num_cpus=0)
def copy_rest(split, begun):
    mark(begun)
    return {"rest": copy.deepcopy(split[1])}


@ray.remote(num_cpus=0)
def use_rest(given):
    rest = pickle.loads(given) if isinstance(given, bytes) else given["rest"]
    return workflow.continuation(gathered.bind([], workflow.wait(rest)))


@ray.remote(num_cpus=0)
def drop_rest(given):
    return workflow.continuation(payload.bind(event("approve")))


@pytest.mark.parametrize("keep", [give_rest, pickle_rest, copy_rest], ids=["returned", "pickled", "copied"])
def test_what_remains_is_in_use_wherever_a_task_has_put_it(tmp_path: Path, wid: str, keep: Any) -> None:
    kept = keep.bind(workflow.wait([event("approve")], timeout=0.2), tmp_path / "begun")
    reference = workflow.run_async(use_rest.bind(kept), workflow_id=wid)
    wait_for_file(tmp_path / "begun")
    workflow.send_event(wid, "approve", "yes")
    assert ray.get(reference, timeout=30) == ([], ["yes"])


def test_what_remains_can_be_waited_for_again(wid: str) -> None:
    split = workflow.wait([event("approve"), event("other")], num_returns=1)
    reference = workflow.run_async(wait_again.bind(split), workflow_id=wid)
    workflow.send_event(wid, "other", 1)
    workflow.send_event(wid, "approve", "yes")
    assert ray.get(reference, timeout=30) == ([1], ["yes"])


def test_what_was_returned_and_then_dropped_takes_no_event(wid: str) -> None:
    split = workflow.wait([event("approve"), event("other")], num_returns=1)
    reference = workflow.run_async(drop_rest.bind(give_rest.bind(split)), workflow_id=wid)
    workflow.send_event(wid, "other", 1)
    workflow.send_event(wid, "approve", "yes")
    assert ray.get(reference, timeout=30) == "yes"
