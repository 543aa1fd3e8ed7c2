"""How calls of events are shared out among hosts, and what is made of what these say; hosts are plain objects here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from holdfast.actors import names
from holdfast.actors.event_starter import Called
from holdfast.actors.virtual.event_calls import EventCalls
from holdfast.actors.virtual.operations import ActorDone, CallAccepted, CallFrom, OtherHost
from holdfast.engine.errors import StorageFullError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.virtual_actor_errors import (
    MailboxFullError,
    OutOfTurnError,
    VirtualActorNotFoundError,
    VirtualActorQuarantinedError,
)
from holdfast.storage.actor_row import ActorSpec
from holdfast.storage.subscriptions import Subscription

RULE = Subscription(
    name="rule",
    source="kafka/c/t",
    selector="all",
    graph=Graph(nodes=(NodeSpec(task_id="measured"),), sink=0),
    actor=ActorSpec(class_name="m.Device"),
    number=7,
)
HOSTS = 3

Answer = Callable[[str, CallFrom], Any]


class Town:
    """Hosts that note what they are asked, and say what the test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, list[CallFrom]]] = []

    async def said_by(self, host: str, calls: Sequence[CallFrom]) -> list[Any]:
        self.asked.append((host, list(calls)))
        return [self.answer(host, call) for call in calls]


def call(answer: Answer, events: Sequence[tuple[int, str]], rule: Subscription = RULE) -> tuple[Called, Town]:
    town = Town(answer)
    return asyncio.run(EventCalls(HOSTS, town.said_by).call(rule, events)), town


def taken(host: str, call: CallFrom) -> Any:
    return CallAccepted(seq=1, number=call.event, name="measured")


def home(actor_id: str) -> str:
    return names.virtual_host_for(actor_id, "", HOSTS)


def test_the_events_of_an_actor_go_to_its_host_together_each_after_the_one_before() -> None:
    called, town = call(taken, [(1, "a"), (2, "b"), (5, "a"), (9, "a")])
    assert called == Called()
    asked = dict(town.asked)
    chains = {
        actor_id: [(call.event, call.after) for call in asked[home(actor_id)] if call.actor_id == actor_id]
        for actor_id in ("a", "b")
    }
    assert chains == {"a": [(1, 0), (5, 1), (9, 5)], "b": [(2, 0)]}
    assert all(call.subscription == 7 for _, calls in town.asked for call in calls)


def test_what_is_not_taken_now_waits_with_all_that_comes_after_it() -> None:
    def answer(host: str, asked: CallFrom) -> Any:
        if asked.actor_id == "b" or asked.event == 1:
            return taken(host, asked)
        return MailboxFullError("a", 1) if asked.event == 2 else OutOfTurnError("a", asked.event, asked.after)

    called, town = call(answer, [(1, "a"), (2, "a"), (3, "a"), (4, "b")])
    assert (called.held, called.refused) == ({"a"}, {})
    assert len(town.asked) == len({home("a"), home("b")}), "who takes none is not asked again at once"


def test_an_event_whose_rule_is_gone_is_over() -> None:
    called, _ = call(lambda host, asked: ActorDone(seq=-1, fresh=False), [(1, "a")])
    assert called == Called()


@pytest.mark.parametrize("error", [StorageFullError("full", "no room", "Make some"), ValueError("no such actor")])
def test_a_host_that_cannot_take_calls_holds_up_its_own_actors(error: Exception) -> None:
    other = next(one for one in map(str, range(99)) if home(one) != home("a"))

    def answer(host: str, asked: CallFrom) -> Any:
        return error if host == home("a") else taken(host, asked)

    called, _ = call(answer, [(1, "a"), (2, other)])
    assert (called.held, called.refused) == ({"a"}, {})


def test_who_has_moved_is_asked_where_it_is() -> None:
    def answer(host: str, asked: CallFrom) -> Any:
        if asked.actor_id == "b" or host == "elsewhere":
            return taken(host, asked)
        return OtherHost(host="elsewhere")

    called, town = call(answer, [(1, "a"), (2, "a"), (3, "b")])
    assert called == Called()
    assert town.asked[-1][0] == "elsewhere"
    assert [call.event for call in town.asked[-1][1]] == [1, 2]


def test_hosts_that_send_on_in_a_circle_are_left_in_peace() -> None:
    called, town = call(lambda host, asked: OtherHost(host=f"{host}+"), [(1, "a")])
    assert called.held == {"a"}
    assert len(town.asked) < 10


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (VirtualActorQuarantinedError("a", "m.Device", "measured", 3), RULE),
        (VirtualActorNotFoundError("a", "here"), replace(RULE, creates=False)),
    ],
)
def test_what_an_actor_will_not_take_is_refused_and_said(error: Exception, rule: Subscription) -> None:
    def answer(host: str, asked: CallFrom) -> Any:
        return taken(host, asked) if asked.event == 1 or asked.actor_id == "b" else error

    called, _ = call(answer, [(1, "a"), (2, "a"), (3, "a"), (4, "b")], rule)
    assert called.held == frozenset()
    assert called.refused == {2: str(error), 3: str(error)}


def test_an_actor_that_is_deleted_meanwhile_is_asked_for_again() -> None:
    called, _ = call(lambda host, asked: VirtualActorNotFoundError("a", "here"), [(1, "a")])
    assert (called.held, called.refused) == ({"a"}, {})
