"""Rules that call virtual actors: their events go to whoever calls actors, in order, and never to an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from holdfast.actors import event_names, event_starter
from holdfast.actors.event_starter import Called, EventStarter
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Accepted, StartFrom
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.selectors import Selector
from holdfast.storage import dead_letters, event_store, layout, start_rows, subscriptions, workflow_store
from holdfast.storage.actor_row import ActorSpec
from holdfast.storage.event_store import Addresses, IncomingEvent
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


def actor_rule(name: str, **about: Any) -> Subscription:
    given: dict[str, Any] = {
        "source": SOURCE,
        "selector": "all",
        "graph": Graph(nodes=(NodeSpec(task_id="measured"),), sink=0),
        "actor": ActorSpec(class_name="m.Device", code="c0de"),
        "id_template": name + "-{key}",
    }
    return Subscription(name=name, **{**given, **about})


def incoming(number: int, key: str = "one", value: bytes = b"{}", **about: Any) -> IncomingEvent:
    return IncomingEvent(key=key.encode(), value=value, time_unix_s=NOW, dedupe_id=f"new-{number}", **about)


async def take_none(rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
    return Called(held=frozenset(actor_id for _, actor_id in events))


class TestMessages:
    """Who an event is for is written in the transaction of its source's position: it is in that actor's mailbox."""

    @pytest.fixture
    def rules(self, tmp_path: Path) -> Iterator[StorageFolder]:
        opened = StorageFolder.open(tmp_path / "rules")
        rules = [
            actor_rule("all"),
            actor_rule("raw", selector="raw all"),
            actor_rule("key", selector=Selector(key=b"two").text),
            actor_rule("where", selector=Selector(where={"a": 1}).text),
            actor_rule("later", created_unix_s=NOW + 5),
            actor_rule("elsewhere", source="kafka/c/other"),
            actor_rule("none", id_template="{missing}"),
            actor_rule("workflows", actor=None),
        ]
        with opened.kv.write() as txn:
            for rule in rules:
                subscriptions.subscribe(txn, rule, NOW + 5 if rule.name == "later" else NOW)
        yield opened
        opened.close()

    def ingest(self, folder: StorageFolder, events: Sequence[IncomingEvent], addresses: Addresses) -> None:
        with folder.kv.write() as txn:
            known = event_store.positions(txn, SOURCE).get("0")
            moves = {"0": (known, (known or 0) + len(events))}
            event_store.ingest(txn, SOURCE, events, moves=moves, now_unix_s=NOW, addresses=addresses)

    def mailbox(self, folder: StorageFolder, actor_id: str) -> int:
        with folder.kv.read() as txn:
            return start_rows.count_messages(txn, actor_id)

    def test_each_rule_addresses_what_it_selects_and_nothing_else(self, rules: StorageFolder) -> None:
        events = [
            incoming(1, "one"),
            incoming(2, "two", b'{"a": 1}'),
            incoming(3, "bad", b"\xff", undecodable=True),
            incoming(4, "old", before_use=True),
        ]
        addresses = asyncio.run(starter(rules, call_actors=take_none).address(SOURCE, events))
        numbers = {1: "all", 2: "raw", 3: "key", 4: "where", 5: "later"}
        found = {(numbers[rule], dedupe_id.removeprefix("new-")): one for (rule, dedupe_id), one in addresses.items()}
        assert found == {
            ("all", "1"): "all-one",
            ("all", "2"): "all-two",
            ("all", "4"): "all-old",
            ("raw", "1"): "raw-one",
            ("raw", "2"): "raw-two",
            ("raw", "3"): "raw-bad",
            ("raw", "4"): "raw-old",
            ("key", "2"): "key-two",
            ("where", "2"): "where-two",
            ("later", "1"): "later-one",
            ("later", "2"): "later-two",
        }
        # What is addressed is what is taken in: nothing of it is left to be asked for, but what has no id.
        self.ingest(rules, events, addresses)
        with rules.kv.read() as txn:
            taken = {
                (numbers[number], one.event.dedupe_id.removeprefix("new-")): one.actor_id
                for number in numbers
                for one in subscriptions.to_start(txn, number, limit=9)
            }
        assert taken == found

    def test_what_waits_is_in_the_mailbox_until_it_is_a_call_or_a_dead_letter(self, folder: StorageFolder) -> None:
        ours = starter(folder, call_actors=take_none)
        events = [incoming(1, "one"), incoming(2, "two"), incoming(3, "one")]
        self.ingest(folder, events, asyncio.run(ours.address(SOURCE, events)))
        assert [self.mailbox(folder, f"device-{key}") for key in ("one", "two")] == [2, 1]
        with folder.kv.read() as txn:
            (rule,) = subscriptions.list_subscriptions(txn)
        with folder.kv.write() as txn:
            subscriptions.note_started(txn, rule, 5, repeated=False)
            subscriptions.set_aside(txn, rule.number, 6)
        assert [self.mailbox(folder, f"device-{key}") for key in ("one", "two")] == [1, 0]
        with folder.kv.write() as txn:
            subscriptions.unsubscribe(txn, "rule")
        assert self.mailbox(folder, "device-one") == 0

    def test_nobody_is_asked_again_whose_event_it_is(self, folder: StorageFolder) -> None:
        called: list[tuple[int, str]] = []

        async def call(rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
            called.extend(events)
            return take(folder, rule, events)

        # As by a function whose answers change: what counts is the one of the transaction of the position.
        self.ingest(folder, [incoming(1, "one")], {(1, "new-1"): "somebody"})
        assert asyncio.run(starter(folder, call_actors=call).start_all())
        assert called[-1] == (5, "somebody")
        assert called[:-1] == [(1, "device-one"), (2, "device-two"), (3, "device-one")]

    def test_a_damaged_rule_keeps_no_event_out(self, folder: StorageFolder) -> None:
        with folder.kv.write() as txn:
            txn.put(layout.subscription(2), b"garbage")
        ours = starter(folder, call_actors=take_none)
        events = [incoming(1, "one")]
        asyncio.run(ours.get_ready())
        self.ingest(folder, events, asyncio.run(ours.address(SOURCE, events)))
        assert waiting(folder) == [1, 2, 3, 4, 5]
        with (
            folder.kv.read() as txn,
            pytest.raises(StorageCorruptError, match="subscription number 2 is damaged"),
        ):
            subscriptions.list_subscriptions(txn)

    def test_a_rule_that_starts_workflows_now_asks_for_their_ids(self, folder: StorageFolder) -> None:
        self.ingest(folder, [incoming(1, "one")], {(1, "new-1"): "somebody"})
        with folder.kv.write() as txn:
            rule, _ = subscriptions.subscribe(txn, actor_rule("rule", actor=None, id_template="w-{event_id}"), NOW)
            waiting = subscriptions.to_start(txn, 1, after=4, limit=9)
        named = asyncio.run(starter(folder)._named(rule, waiting))
        assert named == [(5, "w-new-1")]

    @pytest.mark.parametrize("fails", ["hangs", "dies"])
    def test_a_function_that_cannot_say_soon_holds_nobody_up(
        self, folder: StorageFolder, fails: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_names, "PATIENCE_S", 0.01)
        processes = Processes(fails)
        with folder.kv.write() as txn:
            subscriptions.subscribe(txn, actor_rule("slow", id_template="", id_function="c0de"), NOW)
        launcher: Any = processes
        ours = EventStarter(folder, launcher, ["nobody"], call_actors=take_none)
        events = [incoming(1, "one")]

        async def addresses() -> Addresses:
            return await ours.address(SOURCE, events)

        assert asyncio.run(addresses()) == {(1, "new-1"): "device-one"}
        assert processes.asked == [], "a process that may have to start is not waited for"
        for _ in range(2):
            asyncio.run(ours.get_ready())
        assert processes.asked == [0], "its function is loaded once"
        for _ in range(3):
            assert asyncio.run(addresses()) == {(1, "new-1"): "device-one"}
            asyncio.run(ours.get_ready())
        assert processes.asked == [0, 1], "who could not say is left alone for a while"
        self.ingest(folder, events, {})
        with folder.kv.read() as txn:
            (waiting,) = subscriptions.to_start(txn, 2, limit=9)
        assert waiting.actor_id == ""

    def test_a_function_that_has_been_loaded_is_asked(self, folder: StorageFolder) -> None:
        processes: Any = Processes("answers")
        with folder.kv.write() as txn:
            subscriptions.subscribe(txn, actor_rule("fast", id_template="", id_function="c0de"), NOW)
        ours = EventStarter(folder, processes, ["nobody"], call_actors=take_none)
        asyncio.run(ours.get_ready())
        addresses = asyncio.run(ours.address(SOURCE, [incoming(1, "one"), incoming(2, "two")]))
        assert addresses[2, "new-1"] == "made-1", "what it raised for the other is said when that is to be a call"
        assert (2, "new-2") not in addresses


class Processes:
    """Processes of the users' for the functions that name actors, and how many events each time are asked about."""

    address = ""

    def __init__(self, does: str) -> None:
        self.asked: list[int] = []
        self._does = does

    def listener_host(self, environment: str) -> Any:
        return self

    @property
    def ids_of(self) -> Any:
        return self

    async def remote(self, address: Any, what: str, function: str, messages: Sequence[bytes]) -> list[Any]:
        self.asked.append(len(messages))
        if self._does == "dies" and messages:
            raise ActorDiedError
        if self._does == "hangs" and messages:
            await asyncio.Event().wait()
        return [ValueError("bad") if at else "made-1" for at in range(len(messages))]
