"""The log of outside events and its readers, over every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.selectors import Selector
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import beginnings, event_readers, event_store, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.event_store import IncomingEvent, PositionMovedError
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_row import WorkflowRow

SOURCE = "kafka/default/orders"


@pytest.fixture
def kv(new_store: Callable[[], Any]) -> Any:
    return new_store()


ALL = (SOURCE, Selector().text)


def event(at: int, key: str = "k", value: bytes | None = b'{"n": 1}', **more: Any) -> IncomingEvent:
    return IncomingEvent(key=key.encode(), value=value, time_unix_s=float(at), dedupe_id=f"t/0/{at}", **more)


@contextmanager
def workflow(kv: Any, workflow_id: str = "w", submitted_unix_s: float = 0.0) -> Iterator[tuple[Any, WorkflowRow]]:
    with kv.write() as txn:
        row = store.find(txn, workflow_id)
        if row is None:
            row = store.create(
                txn,
                WorkflowRow(
                    seq=0,
                    workflow_id=workflow_id,
                    status=WorkflowStatus.RUNNING,
                    executor="executor-0",
                    submitted_unix_s=submitted_unix_s,
                    nonce=workflow_id,
                ),
            )
        yield txn, row


def take_in(kv: Any, *events: IncomingEvent, moves: Any = None, now: float = 100.0) -> event_store.Ingested:
    with kv.write() as txn:
        event_store.need_source(txn, SOURCE, 0.0)
        return event_store.ingest(txn, SOURCE, events, moves=moves or {}, now_unix_s=now)


def pulled(kv: Any, selector: Selector, workflow_id: str = "w", **more: Any) -> str | None:
    with workflow(kv, workflow_id, **more) as (txn, row):
        found, _ = event_readers.pull(txn, row, (SOURCE, selector.text))
        return None if found is None else found.dedupe_id


def test_an_event_that_came_before_its_waiter_is_pulled_by_it(kv: Any) -> None:
    with workflow(kv):
        pass
    take_in(kv, event(1))
    assert pulled(kv, Selector(key=b"k")) == "t/0/1"


def test_a_stream_is_read_in_order_each_event_once(kv: Any) -> None:
    with workflow(kv):
        pass
    take_in(kv, event(1, "a"), event(2, "b"), event(3, "a"))
    assert [pulled(kv, Selector(key=b"a")) for _ in range(3)] == ["t/0/1", "t/0/3", None]


def test_several_workflows_read_one_stream_each_for_itself(kv: Any) -> None:
    for name in ("v", "w"):
        with workflow(kv, name):
            pass
    take_in(kv, event(1), event(2))
    assert [pulled(kv, Selector(), name) for name in ("v", "w", "v", "w", "v")] == [
        "t/0/1",
        "t/0/1",
        "t/0/2",
        "t/0/2",
        None,
    ]


def test_a_workflow_reads_from_its_submission(kv: Any) -> None:
    take_in(kv, event(1))
    with workflow(kv):
        pass
    take_in(kv, event(2))
    assert [pulled(kv, Selector()) for _ in range(2)] == ["t/0/2", None]


def test_what_was_there_before_the_source_was_used_is_for_older_workflows_only(kv: Any) -> None:
    for name, at in (("older", 4.0), ("younger", 6.0)):
        with workflow(kv, name, submitted_unix_s=at):
            pass
    take_in(kv, event(5, before_use=True))
    assert pulled(kv, Selector(), "younger") is None
    assert pulled(kv, Selector(), "older") == "t/0/5"


@pytest.mark.parametrize(
    ("where", "value", "selected"),
    [
        ({"n": 1}, b'{"n": 1.0, "m": 2}', True),
        ({"n": 1}, b'{"n": true}', False),
        ({"n": True}, b'{"n": true}', True),
        ({"n": 1}, b'{"m": 1}', False),
        ({"n": None}, b'{"n": null}', True),
        ({"n": None}, b"{}", False),
        ({"a": "x", "b": 2}, b'{"b": 2, "a": "x"}', True),
        ({"a": "x", "b": 2}, b'{"b": 3, "a": "x"}', False),
        ({"a": "x"}, b'["a", "x"]', False),
        ({"a": "x"}, b'{"a": ["x"]}', False),
        ({"a": "x"}, None, False),
    ],
)
def test_early_and_late_events_are_selected_alike_by_fields(
    kv: Any, where: dict[str, Any], value: bytes | None, selected: bool
) -> None:
    selector = Selector(where=where)
    for name in ("early", "late"):
        with workflow(kv, name):
            pass
    assert pulled(kv, selector, "late") is None
    woken = take_in(kv, event(1, value=value)).wakes
    assert bool(woken) is selected
    assert (pulled(kv, selector, "early") is not None) is selected
    assert (pulled(kv, selector, "late") is not None) is selected


def test_only_those_who_wait_for_an_event_are_woken(kv: Any) -> None:
    waiting = {"a": Selector(key=b"a"), "b": Selector(key=b"b"), "all": Selector(), "n": Selector(where={"n": 2})}
    seqs = {}
    for name, selector in waiting.items():
        assert pulled(kv, selector, name) is None
        with workflow(kv, name) as (_, row):
            seqs[name] = row.seq
    woken = take_in(kv, event(1, "a"), event(2, "c", b'{"n": 2}')).wakes
    assert set(woken) == {seqs["a"], seqs["all"], seqs["n"]}
    with kv.read() as txn:
        assert {seq for _, seq in event_readers.pending_wakes(txn, 10)} == set(woken)
        assert event_readers.woken(txn, seqs["a"]) == [(SOURCE, waiting["a"].text)]
    for name, selector in waiting.items():
        pulled(kv, selector, name)
    with kv.read() as txn:
        assert event_readers.pending_wakes(txn, 10) == []


def test_an_event_is_taken_in_once(kv: Any) -> None:
    first = take_in(kv, event(1), event(2))
    again = take_in(kv, event(2), event(3))
    assert (first.accepted, first.repeated, again.accepted, again.repeated) == (2, 0, 1, 1)
    with kv.read() as txn:
        source = event_store.find_source(txn, SOURCE)
        assert source is not None
        assert [e.dedupe_id for e in event_store.events_after(txn, source.number, 0)] == ["t/0/1", "t/0/2", "t/0/3"]
        assert (source.accepted, source.repeated, source.kept, source.last_event_unix_s) == (3, 1, 3, 3.0)


def test_a_reader_whose_position_was_moved_by_another_writes_nothing(kv: Any) -> None:
    take_in(kv, event(1), moves={"0": (None, {"offset": 2})})
    with pytest.raises(PositionMovedError, match="partition 0"):
        take_in(kv, event(9), moves={"1": (None, {"offset": 1}), "0": (None, {"offset": 10})})
    with kv.read() as txn:
        assert event_store.positions(txn, SOURCE) == {"0": {"offset": 2}}
        source = event_store.find_source(txn, SOURCE)
        assert source is not None
        assert source.accepted == 1


def test_the_oldest_events_expire_by_age_and_are_counted(kv: Any) -> None:
    take_in(kv, event(1), now=100.0)
    take_in(kv, event(2), now=200.0)
    with kv.write() as txn:
        event_store.set_retention(txn, SOURCE, age_s=50.0, nbytes=None)
    with kv.write() as txn:
        assert event_store.expire(txn, SOURCE, 180.0) == 1
        assert event_store.expire(txn, SOURCE, 180.0) == 0
    with kv.read() as txn:
        source = event_store.find_source(txn, SOURCE)
        assert source is not None
        assert (source.kept, source.expired) == (1, 1)
        assert [e.dedupe_id for e in event_store.events_of_key_after(txn, source.number, b"k", 0)] == ["t/0/2"]


def test_the_oldest_events_expire_for_want_of_room(kv: Any) -> None:
    take_in(kv, *(event(at, value=b"x" * 1000) for at in range(10)))
    with kv.write() as txn:
        event_store.set_retention(txn, SOURCE, age_s=None, nbytes=5500)
    with kv.write() as txn:
        event_store.expire(txn, SOURCE, 1e9)
    with kv.read() as txn:
        source = event_store.find_source(txn, SOURCE)
        assert source is not None
        assert 3 <= source.kept <= 5
        assert source.kept_bytes <= 5500
        assert source.kept_bytes == sum(e.nbytes for e in event_store.events_after(txn, source.number, 0))
        assert (source.kept + source.expired, source.accepted) == (10, 10)


def test_a_workflow_that_has_ended_leaves_no_rows(kv: Any) -> None:
    before = _rows(kv)
    pulled(kv, Selector(key=b"a"))
    pulled(kv, Selector(where={"n": 1}))
    take_in(kv, event(1, "a"))
    with workflow(kv) as (txn, row):
        event_readers.forget_reader(txn, row.seq, cursors=True)
    left = {key[:1] for key in _rows(kv) - before}
    assert left & {b"R", b"C", b"W"} == set()


def test_one_that_failed_reads_on_from_where_it_was(kv: Any) -> None:
    with workflow(kv):
        pass
    take_in(kv, event(1), event(2))
    assert pulled(kv, Selector()) == "t/0/1"
    with workflow(kv) as (txn, row):
        event_readers.forget_reader(txn, row.seq, cursors=False)
    assert pulled(kv, Selector()) == "t/0/2"


def test_what_cannot_be_decoded_is_for_those_who_read_raw(kv: Any) -> None:
    for name in ("v", "w"):
        with workflow(kv, name):
            pass
    take_in(kv, replace(event(1, value=b"\xff"), undecodable=True))
    assert pulled(kv, Selector(key=b"k"), "v") is None
    assert pulled(kv, Selector(key=b"k", raw=True), "w") == "t/0/1"


def test_a_new_source_begins_with_the_oldest_workflow_that_may_ask_for_it(kv: Any) -> None:
    for name, at in (("old", 10.0), ("young", 20.0)):
        with workflow(kv, name, submitted_unix_s=at):
            pass
    with workflow(kv, "young") as (txn, row):
        assert event_readers.pull(txn, row, ALL) == (None, SOURCE)
    with workflow(kv, "old") as (txn, row):
        assert event_readers.pull(txn, row, ALL) == (None, None)
    with kv.read() as txn:
        (source,) = event_store.list_sources(txn, "kafka/")
        assert source.since_unix_s == 10.0


def _rows(kv: Any) -> set[bytes]:
    with kv.read() as txn:
        return {key for key, _ in txn.scan(b"")}


def test_what_was_there_before_it_was_fixed_where_to_begin_is_for_nobody_who_was_accepted_since(kv: Any) -> None:
    with workflow(kv, "older", submitted_unix_s=4.0):
        pass
    with kv.write() as txn:
        beginnings.ask_for(txn, SOURCE, decoded=True)
        assert not beginnings.has_begun(txn, SOURCE)
        event_store.ingest(txn, SOURCE, [], moves={"0": (None, {"offset": 0})}, now_unix_s=5.0)
        assert beginnings.has_begun(txn, SOURCE)
        rule = Subscription(
            name="rule", source=SOURCE, selector="all", graph=Graph(nodes=(NodeSpec(task_id="a"),), sink=0)
        )
        subscriptions.subscribe(txn, rule, 6.0)
    with workflow(kv, "younger", submitted_unix_s=6.0):
        pass
    # A producer whose clock is ahead.
    taken = take_in(kv, event(1000, before_use=True), moves={"0": ({"offset": 0}, {"offset": 1})})
    assert taken.starts == ()
    assert pulled(kv, Selector(), "younger") is None
    assert pulled(kv, Selector(), "older") == "t/0/1000"
    taken = take_in(kv, event(1), moves={"0": ({"offset": 1}, {"offset": 2})})
    assert taken.starts == (1,)
    assert pulled(kv, Selector(), "younger") == "t/0/1"


def test_a_source_is_read_since_the_oldest_workflow_that_may_ask_for_it_and_from_now_on_without_one(kv: Any) -> None:
    with kv.write() as txn:
        assert beginnings.ask_for(txn, SOURCE, decoded=True)
        first = event_store.find_source(txn, SOURCE)
        beginnings.note_late(txn, [SOURCE], 7.0)
        assert not beginnings.ask_for(txn, SOURCE, decoded=True), "it was waited for in vain"
        source = event_store.find_source(txn, SOURCE)
    assert first is not None
    assert source is not None
    assert first.since_unix_s is None
    assert (source.since_unix_s, source.late) == (7.0, True)
    with workflow(kv, submitted_unix_s=3.0):
        pass
    with kv.write() as txn:
        beginnings.ask_for(txn, "kafka/default/another", decoded=False)
        another = event_store.find_source(txn, "kafka/default/another")
    assert another is not None
    assert (another.since_unix_s, another.late, another.decoded) == (3.0, False, False)


def test_one_that_is_not_there_has_begun_and_one_that_has_begun_is_neither_late_nor_absent(kv: Any) -> None:
    with kv.write() as txn:
        for name in (SOURCE, "kafka/default/another"):
            beginnings.ask_for(txn, name, decoded=True)
        beginnings.note_absent(txn, ["kafka/default/another", "kafka/default/nobody-asked"])
        assert beginnings.has_begun(txn, "kafka/default/another")
        event_store.ingest(txn, SOURCE, [], moves={"0": (None, {"offset": 0})}, now_unix_s=5.0)
        assert not beginnings.ask_for(txn, SOURCE, decoded=True)
        beginnings.note_absent(txn, [SOURCE])
        beginnings.note_late(txn, [SOURCE], 7.0)
        source = event_store.find_source(txn, SOURCE)
    assert source is not None
    assert (source.absent, source.late, source.since_unix_s) == (False, False, None)
