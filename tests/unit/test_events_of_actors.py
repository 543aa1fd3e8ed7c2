"""Rules that call virtual actors: their events go to whoever calls actors, in order, and never to an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors.event_starter import EventStarter
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


def starter(folder: StorageFolder, **about: Any) -> EventStarter:
    """One that has no executor and needs no process of the user's: ids come from a template."""
    launcher: Any = None
    return EventStarter(folder, launcher, ["nobody"], **about)


def test_events_of_a_rule_go_to_its_actors_in_order(folder: StorageFolder) -> None:
    calls: list[tuple[str, list[tuple[int, str]]]] = []

    async def call(rule: Subscription, events: Sequence[tuple[int, str]]) -> bool:
        calls.append((rule.graph.nodes[0].task_id, list(events)))
        with folder.kv.write() as txn:
            for number, _ in events:
                subscriptions.note_started(txn, rule, number, repeated=False)
        return True

    assert asyncio.run(starter(folder, call_actors=call).start_all())
    assert calls == [("measured", [(1, "device-one"), (2, "device-two"), (3, "device-one")])]
    with folder.kv.read() as txn:
        assert subscriptions.to_start(txn, 1, limit=9) == []
        (letter,) = dead_letters.list_dead_letters(txn, limit=9)
    assert letter.event_number == 4, "an id that is too long is no actor's"


def test_events_wait_while_their_actors_take_no_calls(folder: StorageFolder) -> None:
    async def refuse(rule: Subscription, events: Sequence[tuple[int, str]]) -> bool:
        return False

    assert not asyncio.run(starter(folder, call_actors=refuse).start_all())
    with folder.kv.read() as txn:
        assert [one.event.number for one in subscriptions.to_start(txn, 1, limit=9)] == [1, 2, 3]


def test_nobody_starts_a_workflow_by_a_rule_of_actors(folder: StorageFolder) -> None:
    assert asyncio.run(starter(folder).start_all())
    core = ExecutorCore(folder.kv, "executor")
    (outcome,) = core.perform([StartFrom(subscription=1, event=1, workflow_id="device-one")], NOW).outcomes
    assert isinstance(outcome, Accepted)
    assert not outcome.fresh
    with folder.kv.read() as txn:
        assert not workflow_store.knows(txn, "device-one")
        assert len(subscriptions.to_start(txn, 1, limit=9)) == 4
