"""Rules that call virtual actors: their events go to whoever calls actors, in order, and never to an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors import event_starter
from holdfast.actors.event_starter import Called, EventStarter
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Accepted, StartFrom
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.storage import dead_letters, event_store, subscriptions, workflow_store
from holdfast.storage.actor_row import ActorSpec
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.folder import StorageFolder
from holdfast.storage.subscriptions import Subscription

NOW = 1_800_000_000.0
SOURCE = "kafka/c/t"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StorageFolder]:
    opened = StorageFolder.open(tmp_path / "storage")
    rule = Subscription(
        name="rule",
        source=SOURCE,
        selector="all",
        graph=Graph(nodes=(NodeSpec(task_id="measured"),), sink=0),
        actor=ActorSpec(class_name="m.Device", code="c0de"),
        id_template="device-{key}",
    )
    keys = (b"one", b"two", b"one", b"x" * 2000)
    events = [IncomingEvent(key=k, value=b"{}", time_unix_s=NOW, dedupe_id=f"{n}") for n, k in enumerate(keys)]
    with opened.kv.write() as txn:
        subscriptions.subscribe(txn, rule, NOW)
        event_store.ingest(txn, SOURCE, events, moves={"0": (None, 4)}, now_unix_s=NOW)
    yield opened
    opened.close()


def take(folder: StorageFolder, rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
    """What hosts do that take all."""
    with folder.kv.write() as txn:
        for number, _ in events:
            subscriptions.note_started(txn, rule, number, repeated=False)
    return Called()


def waiting(folder: StorageFolder) -> list[int]:
    with folder.kv.read() as txn:
        return [one.event.number for one in subscriptions.to_start(txn, 1, limit=9)]


def starter(folder: StorageFolder, **about: Any) -> EventStarter:
    """One that has no executor and needs no process of the user's: ids come from a template."""
    launcher: Any = None
    return EventStarter(folder, launcher, ["nobody"], **about)


def test_events_of_a_rule_go_to_its_actors_in_order(folder: StorageFolder) -> None:
    calls: list[tuple[str, list[tuple[int, str]]]] = []

    async def call(rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
        calls.append((rule.graph.nodes[0].task_id, list(events)))
        return take(folder, rule, events)

    assert asyncio.run(starter(folder, call_actors=call).start_all())
    assert calls == [("measured", [(1, "device-one"), (2, "device-two"), (3, "device-one")])]
    with folder.kv.read() as txn:
        assert subscriptions.to_start(txn, 1, limit=9) == []
        (letter,) = dead_letters.list_dead_letters(txn, limit=9)
    assert (letter.event_number, letter.reason) == (4, "call-refused"), "an id that is too long is no actor's"
    assert "actor_id= must give a string" in letter.error


def test_events_wait_while_their_actor_takes_no_calls_and_those_of_others_do_not(
    folder: StorageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_starter, "AT_ONCE", 1)
    asked: list[str] = []

    async def call(rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
        asked.extend(actor_id for _, actor_id in events)
        taken = [event for event in events if event[1] != "device-one"]
        return replace(take(folder, rule, taken), held=frozenset({"device-one"} & {one for _, one in events}))

    assert not asyncio.run(starter(folder, call_actors=call).start_all())
    assert asked == ["device-one", "device-two"], "who takes none is asked once in a pass"
    assert waiting(folder) == [1, 3]


def test_an_event_that_an_actor_will_not_take_is_a_dead_letter(folder: StorageFolder) -> None:
    async def call(rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
        return Called(refused={number: f"{one} is quarantined" for number, one in events})

    assert asyncio.run(starter(folder, call_actors=call).start_all())
    with folder.kv.read() as txn:
        letters = dead_letters.list_dead_letters(txn, limit=9)
    assert [(one.event_number, one.error) for one in letters if one.event_number != 4] == [
        (1, "device-one is quarantined"),
        (2, "device-two is quarantined"),
        (3, "device-one is quarantined"),
    ]
    assert waiting(folder) == []


def test_nobody_starts_a_workflow_by_a_rule_of_actors(folder: StorageFolder) -> None:
    assert asyncio.run(starter(folder).start_all())
    core = ExecutorCore(folder.kv, "executor")
    (outcome,) = core.perform([StartFrom(subscription=1, event=1, workflow_id="device-one")], NOW).outcomes
    assert isinstance(outcome, Accepted)
    assert not outcome.fresh
    with folder.kv.read() as txn:
        assert not workflow_store.knows(txn, "device-one")
        assert len(subscriptions.to_start(txn, 1, limit=9)) == 4
