"""Outside events and the executor core: what a workflow reads, and what starts one."""

from __future__ import annotations

import pickle
import queue
from dataclasses import replace
from typing import Any

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import (
    Accepted,
    Batch,
    Cancel,
    Delete,
    Deliver,
    FireTimer,
    Recover,
    StartFrom,
    Submit,
    Subscribe,
    Wake,
)
from holdfast.engine.commands import StartTask
from holdfast.engine.errors import EventTimeoutError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.selectors import Selector
from holdfast.engine.signals import TaskContinued
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import event_readers, event_store, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.memory import MemoryStore
from holdfast.storage.subscriptions import Subscription

SOURCE = "kafka/default/orders"
EXECUTOR = "executor-0"


def event(at: int, key: str = "k") -> IncomingEvent:
    return IncomingEvent(key=key.encode(), value=b"v%d" % at, time_unix_s=float(at), dedupe_id=str(at))


def waiting_graph(*keys: str) -> Graph:
    """Waits for each key, one after the other."""
    nodes = tuple(
        NodeSpec(
            task_id=f"wait-{at}",
            kind=NodeKind.EVENT,
            stream=(SOURCE, Selector(key=key.encode()).text),
            inputs=(at - 1,) if at else (),
        )
        for at, key in enumerate(keys)
    )
    return Graph(nodes=nodes, sink=len(nodes) - 1)


class House:
    """A store, an executor, and whoever takes events in."""

    def __init__(self) -> None:
        self.kv = MemoryStore()
        self.core = ExecutorCore(self.kv, EXECUTOR)

    def do(self, *operations: Any) -> Batch:
        return self.core.perform(list(operations), 1000.0)

    def submit(self, workflow_id: str, graph: Graph) -> int:
        (outcome,) = self.do(Submit(workflow_id=workflow_id, nonce=workflow_id, graph=graph)).outcomes
        assert isinstance(outcome, Accepted)
        return outcome.seq

    def take_in(self, *events: IncomingEvent) -> event_store.Ingested:
        with self.kv.write() as txn:
            event_store.need_source(txn, SOURCE, 0.0)
            return event_store.ingest(txn, SOURCE, events, moves={}, now_unix_s=1000.0)

    def status(self, workflow_id: str) -> WorkflowStatus:
        with self.kv.read() as txn:
            row = store.find(txn, workflow_id)
        return WorkflowStatus.NONE if row is None else row.status

    def value(self, workflow_id: str) -> Any:
        with self.kv.read() as txn:
            row = store.find(txn, workflow_id)
            assert row is not None
            assert row.output is not None
            output = store.read_output(txn, row.seq, row.output, row.output_origin)
        return pickle.loads(output.base.inband)

    def rows(self, letters: bytes) -> int:
        with self.kv.read() as txn:
            return sum(key[:1] in (bytes((letter,)) for letter in letters) for key, _ in txn.scan(b""))


@pytest.fixture
def house() -> House:
    return House()


def test_a_workflow_that_waits_is_put_away_and_a_wake_gives_it_its_event(house: House) -> None:
    seq = house.submit("w", waiting_graph("k"))
    assert house.core.held == {}
    assert house.take_in(event(1)).wakes == (seq,)
    house.do(Wake(seq=seq))
    assert (house.status("w"), house.value("w")) == (WorkflowStatus.SUCCESSFUL, (b"k", b"v1"))
    assert house.rows(b"RWC") == 0


def test_a_wake_that_comes_twice_or_late_changes_nothing(house: House) -> None:
    seq = house.submit("w", waiting_graph("k", "k"))
    house.take_in(event(1))
    house.do(Wake(seq=seq), Wake(seq=seq))
    assert house.status("w") is WorkflowStatus.RUNNING
    house.do(Wake(seq=seq))
    house.take_in(event(2))
    house.do(Wake(seq=seq), Wake(seq=seq))
    assert house.value("w") == (b"k", b"v2")
    house.do(Wake(seq=seq))
    assert house.status("w") is WorkflowStatus.SUCCESSFUL


def test_a_new_source_is_told_of_once(house: House) -> None:
    submit = [Submit(workflow_id=name, nonce=name, graph=waiting_graph("k")) for name in ("v", "w")]
    assert house.do(*submit).sources == [SOURCE]
    assert house.do(Submit(workflow_id="x", nonce="x", graph=waiting_graph("k"))).sources == []


def test_a_long_chain_of_waits_is_fed_in_one_go(house: House) -> None:
    house.submit("before", waiting_graph("other"))
    with house.kv.read() as txn:
        assert event_store.last_number(txn) == 0
    length = 3000
    seq = house.submit("w", waiting_graph(*["k"] * length))
    house.take_in(*(event(at) for at in range(length)))
    house.do(Wake(seq=seq))
    assert house.value("w") == (b"k", b"v%d" % (length - 1))


def test_a_cancelled_workflow_waits_for_nothing_more(house: House) -> None:
    seq = house.submit("w", waiting_graph("k"))
    house.do(Cancel(workflow_id="w"))
    assert house.rows(b"RWC") == 0
    assert house.take_in(event(1)).wakes == ()
    house.do(Wake(seq=seq))
    assert house.status("w") is WorkflowStatus.CANCELED
    house.do(Delete(workflow_id="w"))
    assert house.status("w") is WorkflowStatus.NONE


def test_another_executor_takes_over_between_event_and_wake(house: House) -> None:
    seq = house.submit("w", waiting_graph("k", "k"))
    house.take_in(event(1))
    house.core = ExecutorCore(house.kv, EXECUTOR)
    with house.kv.read() as txn:
        assert event_readers.pending_wakes(txn, 10) == [(EXECUTOR, seq)]
    house.do(Wake(seq=seq))
    house.core = ExecutorCore(house.kv, EXECUTOR)
    house.take_in(event(2))
    house.do(Wake(seq=seq))
    assert house.value("w") == (b"k", b"v2")


def subscribed(house: House, **more: Any) -> Subscription:
    graph = Graph(nodes=(NodeSpec(task_id="start", function="hash"),), sink=0)
    given: dict[str, Any] = {"name": "rule", "source": SOURCE, "selector": Selector().text, "graph": graph}
    (outcome,) = house.do(Subscribe(subscription=Subscription(**{**given, **more}))).outcomes
    assert isinstance(outcome, Accepted), outcome
    with house.kv.read() as txn:
        found = subscriptions.find_subscription(txn, given["name"])
    assert found is not None
    return found


def test_an_event_starts_its_workflow_once_with_the_event_as_argument(house: House) -> None:
    house.take_in(event(1))
    rule = subscribed(house)
    assert house.take_in(event(2)).starts == (rule.number,)
    with house.kv.read() as txn:
        (to_start,) = subscriptions.to_start(txn, rule.number, limit=10)
    start = StartFrom(subscription=rule.number, event=to_start.event.number, workflow_id="from-2")
    batch = house.do(start, start)
    (command,) = [command for _, command in batch.commands if isinstance(command, StartTask)]
    assert pickle.loads(command.node.arguments.inband) == (((b"k", b"v2"),), {})
    assert command.node.function == "hash"
    assert [outcome.fresh for outcome in batch.outcomes if isinstance(outcome, Accepted)] == [True, False]
    with house.kv.read() as txn:
        assert subscriptions.to_start(txn, rule.number, limit=10) == []
        again = subscriptions.find_subscription(txn, "rule")
    assert again is not None
    assert (again.started, again.repeated) == (1, 0)


def test_an_event_whose_workflow_is_there_starts_nothing(house: House) -> None:
    rule = subscribed(house)
    house.submit("w", waiting_graph("k"))
    number = _taken_in(house, event(1))
    batch = house.do(StartFrom(subscription=rule.number, event=number, workflow_id="w"))
    assert batch.commands == []
    assert house.rows(b"T") == 0


def test_an_event_waits_while_the_queue_is_full(house: House) -> None:
    rule = subscribed(house)
    number = _taken_in(house, event(1))
    with house.kv.write() as txn:
        store.save_setting(txn, "limits", {"max_running": 1, "max_pending": 0})
    house.submit("busy", waiting_graph("never"))
    start = StartFrom(subscription=rule.number, event=number, workflow_id="w")
    (refused,) = house.do(start).outcomes
    assert isinstance(refused, queue.Full)
    assert house.status("w") is WorkflowStatus.NONE
    house.do(Cancel(workflow_id="busy"))
    (accepted,) = house.do(start).outcomes
    assert isinstance(accepted, Accepted)
    assert house.status("w") is WorkflowStatus.RUNNING


def test_of_what_was_there_before_the_source_was_read_the_rule_starts_what_is_younger_than_it(house: House) -> None:
    rule = subscribed(house)
    older = IncomingEvent(key=None, value=None, time_unix_s=999.0, dedupe_id="older", before_use=True)
    younger = IncomingEvent(key=None, value=None, time_unix_s=1000.5, dedupe_id="younger", before_use=True)
    assert house.take_in(older).starts == ()
    assert house.take_in(younger).starts == (rule.number,)


def test_a_rule_of_the_same_name_goes_on_where_the_one_before_was(house: House) -> None:
    first = subscribed(house)
    _taken_in(house, event(1))
    second = subscribed(house, id_template="other-{key}")
    assert (second.number, second.events_from, second.id_template) == (first.number, first.events_from, "other-{key}")
    assert house.rows(b"T") == 1


def test_the_name_of_a_rule_for_other_events_is_refused(house: House) -> None:
    subscribed(house)
    other = Subscription(name="rule", source=SOURCE, selector="key 6b", graph=Graph(nodes=(), sink=0))
    (refused,) = house.do(Subscribe(subscription=other)).outcomes
    assert isinstance(refused, ValueError)
    assert "'rule'" in str(refused)


def test_a_rule_that_is_deleted_leaves_no_rows(house: House) -> None:
    subscribed(house)
    _taken_in(house, event(1))
    with house.kv.write() as txn:
        assert subscriptions.unsubscribe(txn, "rule")
        assert not subscriptions.unsubscribe(txn, "rule")
    assert house.rows(b"STUV") == 0
    assert house.take_in(event(2)).starts == ()


def test_an_event_that_is_still_to_start_a_workflow_does_not_expire(house: House) -> None:
    rule = subscribed(house)
    number = _taken_in(house, event(1))
    with house.kv.write() as txn:
        event_store.set_retention(txn, SOURCE, age_s=1.0, nbytes=0)
    with house.kv.write() as txn:
        assert event_store.expire(txn, SOURCE, 1e9) == 0
    house.do(StartFrom(subscription=rule.number, event=number, workflow_id="w"))
    with house.kv.write() as txn:
        assert event_store.expire(txn, SOURCE, 1e9) == 1


def _taken_in(house: House, incoming: IncomingEvent) -> int:
    house.take_in(incoming)
    with house.kv.read() as txn:
        return event_store.last_number(txn)


def limited_graph(limit_s: float, *, catch: bool = False) -> Graph:
    spec = waiting_graph("k").nodes[0]
    return Graph(nodes=(replace(spec, duration_s=limit_s, options=TaskOptions(catch_exceptions=catch)),), sink=0)


def fire_due(house: House, now: float) -> None:
    with house.kv.read() as txn:
        due = store.due_timers(txn, now, 10)
    house.core.perform([FireTimer(seq=seq, task=task, due_unix_s=at) for at, seq, task in due], now)


def test_a_wait_with_a_limit_fails_when_nothing_came(house: House) -> None:
    house.submit("w", limited_graph(5.0))
    fire_due(house, 1004.9)
    assert house.status("w") is WorkflowStatus.RUNNING
    fire_due(house, 1005.0)
    assert house.status("w") is WorkflowStatus.FAILED
    with house.kv.read() as txn:
        row = store.find(txn, "w")
    assert row is not None
    assert isinstance(row.error, EventTimeoutError)
    assert house.rows(b"Rd") == 0


def test_an_event_in_time_ends_the_limit(house: House) -> None:
    seq = house.submit("w", limited_graph(5.0))
    house.take_in(event(1))
    house.do(Wake(seq=seq))
    assert house.value("w") == (b"k", b"v1")
    assert house.rows(b"d") == 0


def test_an_event_that_nobody_has_told_of_yet_is_in_time(house: House) -> None:
    house.submit("w", limited_graph(5.0))
    house.take_in(event(1))
    fire_due(house, 2000.0)
    assert house.value("w") == (b"k", b"v1")


def test_the_limit_survives_the_executor(house: House) -> None:
    house.submit("w", limited_graph(5.0))
    house.core = ExecutorCore(house.kv, EXECUTOR)
    house.core.perform([Recover(seq=1)], 1003.0)
    fire_due(house, 1005.0)
    assert house.status("w") is WorkflowStatus.FAILED


def test_a_limit_that_is_over_is_caught_like_any_error(house: House) -> None:
    house.submit("w", limited_graph(5.0, catch=True))
    fire_due(house, 1005.0)
    with house.kv.read() as txn:
        row = store.find(txn, "w")
    assert row is not None
    assert row.output is not None
    assert (row.status, row.output.caught) == (WorkflowStatus.SUCCESSFUL, True)


def test_an_event_after_the_limit_is_kept_for_the_next_who_waits(house: House) -> None:
    first = limited_graph(5.0, catch=True).nodes[0]
    second = replace(waiting_graph("k").nodes[0], inputs=(0,))
    seq = house.submit("w", Graph(nodes=(first, second), sink=1))
    fire_due(house, 1005.0)
    house.take_in(event(1))
    house.do(Wake(seq=seq))
    assert house.value("w") == (b"k", b"v1")


def test_a_wait_that_nobody_can_ask_for_any_more_leaves_its_stream_and_takes_no_event(house: House) -> None:
    stream = (SOURCE, Selector(key=b"k").text)
    first = NodeSpec(task_id="first", kind=NodeKind.EVENT, stream=stream)
    wait = NodeSpec(task_id="wait", kind=NodeKind.WAIT, inputs=(0,), duration_s=0.0)
    seq = house.submit("w", Graph(nodes=(first, wait, NodeSpec(task_id="reads", function="f", inputs=(1,))), sink=2))
    batch = house.do(FireTimer(seq=seq, task=1, due_unix_s=1000.0))
    (start,) = [command for _, command in batch.commands if isinstance(command, StartTask)]
    assert house.rows(b"R") == 1
    afresh = Graph(nodes=(replace(first, duration_s=5.0, stream=(SOURCE, Selector(key=b"other").text)),), sink=0)
    house.do(Deliver(seq=seq, signal=TaskContinued(task=start.task, attempt=start.attempt, graph=afresh)))
    # Only the wait that there is now stands among those that read, and an event for the other wakes nobody.
    assert house.rows(b"R") == 1
    assert house.take_in(event(1)).wakes == ()
    assert house.take_in(event(2, key="other")).wakes == (seq,)
    house.do(Wake(seq=seq))
    assert (house.status("w"), house.value("w")) == (WorkflowStatus.SUCCESSFUL, (b"other", b"v2"))


def test_an_event_of_a_source_that_a_dropped_wait_has_taken_is_read_by_the_next(house: House) -> None:
    stream = (SOURCE, Selector(key=b"k").text)
    first = NodeSpec(task_id="first", kind=NodeKind.EVENT, stream=stream)
    wait = NodeSpec(task_id="wait", kind=NodeKind.WAIT, inputs=(0,), duration_s=0.0)
    seq = house.submit("w", Graph(nodes=(first, wait, NodeSpec(task_id="reads", function="f", inputs=(1,))), sink=2))
    batch = house.do(FireTimer(seq=seq, task=1, due_unix_s=1000.0))
    (start,) = [command for _, command in batch.commands if isinstance(command, StartTask)]
    house.take_in(event(1), event(2))
    house.do(Wake(seq=seq))
    both = NodeSpec(task_id="both", function="f", inputs=(0, 1))
    afresh = Graph(nodes=(first, replace(first, inputs=(0,)), both), sink=2)
    batch = house.do(Deliver(seq=seq, signal=TaskContinued(task=start.task, attempt=start.attempt, graph=afresh)))
    (start,) = [command for _, command in batch.commands if isinstance(command, StartTask)]
    assert [pickle.loads(value.base.inband) for value in start.values] == [(b"k", b"v1"), (b"k", b"v2")]
    assert house.rows(b"e") == 0
