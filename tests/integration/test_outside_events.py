"""Events of an outside source, from the log in the store to workflows: whatever the source is.

The test is the source, as `outside` says.
"""

from __future__ import annotations

from typing import Any

import pytest
import ray

from holdfast import workflow
from tests.integration.outside import listener
from tests.integration.traces import wait_for


@ray.remote
def both(first, second):
    return first, second


def test_events_that_came_before_and_after_their_waiter_are_read_in_order(source, wid) -> None:
    topic = wid
    order = both.bind(
        workflow.wait_for_event(listener(), topic, key="a"), workflow.wait_for_event(listener(), topic, n=2)
    )
    value = workflow.run_async(order, workflow_id=wid)
    wait_for(lambda: source.is_wanted(topic))
    source.take_in(topic, ("b", b'{"n": 1}'), ("a", b"{}"))
    source.take_in(topic, ("c", b'{"n": 2}'))
    assert ray.get(value) == ((b"a", b"{}"), (b"c", b'{"n": 2}'))


def test_an_event_starts_a_workflow_named_by_a_function_of_the_users(source, wid) -> None:
    prefix = wid

    def name_of(message: tuple[bytes, bytes]) -> str:
        if message[0] == b"bad":
            raise LookupError("no name")
        return f"{prefix}-{message[0].decode()}"

    def start(message: tuple[bytes, bytes]) -> Any:
        return both.bind(message[0].decode(), len(message[1]))

    rule = workflow.on_event(listener(), wid, start=start, workflow_id=name_of, metadata={"by": "event"}, name=wid)
    source.take_in(wid, ("x", b"12"), ("bad", b""), ("y", b"123"), ("x", b"again"))
    assert source.start_all()
    assert workflow.get_output(f"{wid}-x") == ("x", 2)
    assert workflow.get_output(f"{wid}-y") == ("y", 3)
    assert workflow.get_metadata(f"{wid}-x")["user_metadata"] == {"by": "event"}
    (found,) = [s for s in workflow.list_event_subscriptions() if s.name == rule]
    assert (found.started, found.repeated) == (2, 1)
    (letter,) = source.dead_letters(wid)
    assert (letter.reason, "LookupError: no name" in letter.error) == ("start-failed", True)
    workflow.delete_event_subscription(rule)
    source.take_in(wid, ("z", b""))
    assert source.start_all()
    assert f"{wid}-z" not in dict(workflow.list_all())


def test_an_event_starts_a_workflow_named_by_a_template(source, wid) -> None:
    workflow.on_event(listener(), wid, start=lambda message: message[0].decode(), workflow_id=wid + "-{value[id]}")
    workflow.on_event(listener(), wid, start=lambda message: "all", name=wid)
    source.take_in(wid, ("k", b'{"id": 7}'), ("k", b"{}"))
    assert source.start_all()
    assert workflow.get_output(f"{wid}-7") == "k"
    started = {s.name: s.started for s in workflow.list_event_subscriptions()}
    assert started[wid] == 2
    (letter,) = source.dead_letters(wid)
    assert "KeyError" in letter.error


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"start": 3}, TypeError, "not 3"),
        ({"start": len}, TypeError, "built-in function len"),
        ({"start": lambda message: 1, "workflow_id": "a{"}, ValueError, "no template"),
        ({"start": lambda message: 1, "workflow_id": 7}, TypeError, "not 7"),
        ({"start": lambda: 1}, TypeError, "argument"),
        ({"start": lambda message: 1, "name": ""}, ValueError, "empty"),
        ({"start": lambda message: 1, "metadata": [1]}, ValueError, "metadata"),
    ],
)
def test_a_rule_that_could_not_work_is_refused(platform, given, error, says) -> None:
    with pytest.raises(error, match=says):
        workflow.on_event(listener(), "refused", **given)
    assert not [rule for rule in workflow.list_event_subscriptions() if "refused" in rule.source]


def test_a_listener_of_one_workflows_own_events_starts_no_workflows(platform) -> None:
    from holdfast.listeners import HTTPListener

    with pytest.raises(TypeError, match="HTTPListener"):
        workflow.on_event(HTTPListener, "key", start=lambda message: 1)
    with pytest.raises(ValueError, match="there is no event subscription 'nothing'"):
        workflow.delete_event_subscription("nothing")
