"""Virtual actors as rows: what is written is read, lists come in pages, old calls go, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryPolicy
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value
from holdfast.engine.virtual_actor_errors import IdTakenError, VirtualActorQuarantinedError
from holdfast.engine.virtual_actor_records import (
    CallEnded,
    CallLogged,
    CallSpec,
    Condition,
    FinishedCall,
    Outcome,
    QueuedCall,
    RetryCleared,
    RetrySet,
    Standing,
    StandingChanged,
    SubWorkflow,
)
from holdfast.storage import actor_reminders, actor_store, layout, leases, workflow_store
from holdfast.storage.actor_row import ActorRow, ActorSpec, ActorState, Reminder, SubRequest
from holdfast.storage.folder import StorageFolder
from holdfast.storage.garbage import collect_garbage
from holdfast.storage.interface import KeyValueStore, WriteTransaction
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring
from holdfast.storage.retention import Retention, remove_finished
from holdfast.storage.workflow_row import WorkflowRow

NONCE = "aa" * 16
NOW = 1_700_000_000.0


def actor_row(actor_id: str = "cart", nonce: str = NONCE, class_name: str = "shop.Cart") -> ActorRow:
    spec = ActorSpec(
        class_name=class_name, code="c0de", class_version=3, host="gpu", suspends=True, user_metadata={"for": "you"}
    )
    return ActorRow(seq=0, actor_id=actor_id, spec=spec, nonce=nonce, created_unix_s=1.5)


def finished(number: int, *, ended_unix_s: float = 1.0, key: str = "") -> FinishedCall:
    return FinishedCall(
        number=number,
        name=f"add_{number}",
        method="add",
        nonce=f"{number:032x}",
        key=key,
        metadata={"n": number},
        outcome=Outcome(value=Value(Payload(b"v"), wraps=1), version=number),
        accepted_unix_s=0.25,
        started_unix_s=0.5,
        ended_unix_s=ended_unix_s,
    )


def ended(number: int, **about: object) -> CallEnded:
    return CallEnded(call=finished(number, **about), logged=False)  # type: ignore[arg-type]


def same(one: object, other: object) -> None:
    """Payloads that were read back are views: equal, and not the same."""
    assert one == other, f"{one} != {other}"


def test_an_actor_comes_back_as_it_was_written(store: KeyValueStore) -> None:
    standing = Standing(
        version=7,
        state=ActorState(Payload(b'{"apples":3}'), json=True, class_version=2),
        initialized=True,
        condition=Condition.QUARANTINED,
        error=VirtualActorQuarantinedError("cart", "shop.Cart", "add", 3),
        said="it died",
        deaths=3,
        next_number=9,
        names={"add": 7},
        last_call="add_6",
        called_unix_s=2.5,
    )
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        changed = replace(row, standing=standing, suspected=True, resumed_by="bb")
        actor_store.save(txn, changed)
    with store.read() as txn:
        found = actor_store.find(txn, "cart")
        assert found is not None
        assert isinstance(found.standing.error, VirtualActorQuarantinedError)
        same(
            replace(found, standing=replace(found.standing, error=None)),
            replace(changed, standing=replace(standing, error=None)),
        )
        assert actor_store.seq_of(txn, "cart") == row.seq
        assert actor_store.find(txn, "other") is None
        raw = txn.get(layout.actor(row.seq))
    assert raw is not None
    assert b'{"apples":3}' in raw, "a person can read a state that is JSON"


def test_an_id_is_a_workflows_or_an_actors(store: KeyValueStore) -> None:
    with store.write() as txn:
        workflow = workflow_store.create(
            txn, WorkflowRow(seq=0, workflow_id="w", status=WorkflowStatus.RUNNING, executor="e", nonce="11")
        )
        actor = actor_store.create(txn, actor_row("a"))
        assert workflow.seq != actor.seq
        with pytest.raises(IdTakenError, match="'w' is that of a workflow"):
            actor_store.create(txn, actor_row("w", "cc" * 16))
        assert workflow_store.is_actors(txn, "a")
        assert not workflow_store.is_actors(txn, "w")
        assert actor_store.seq_of(txn, "w") is None
        assert workflow_store.find(txn, "a") is None


def test_a_mailbox_comes_back_in_order_with_what_its_first_call_went_on_with(store: KeyValueStore) -> None:
    nodes = tuple(NodeSpec(task_id=f"t{number}", arguments=Payload(b"x")) for number in range(600))
    request = SubRequest(graph=Graph(nodes=nodes, sink=599), user_metadata={"a": 1}, environment="env")
    first = QueuedCall(
        number=4,
        name="add",
        spec=CallSpec(
            method="add",
            nonce="n4",
            key="k",
            arguments=Blob(f"{NONCE}/11", 5),
            options=TaskOptions(retry=RetryPolicy(max_attempts=5), timeout_s=2.0, metadata={"m": 1}),
            chain=("x", "y"),
            origin="reminder r",
            lent=True,
        ),
        accepted_unix_s=3.5,
        logged=True,
        errors=2,
        continues=SubWorkflow(workflow_id="cart/add", nonce="dd" * 16, request=request),
        started_unix_s=4.0,
        ended_unix_s=4.5,
        failed=True,
    )
    second = QueuedCall(
        number=7,
        name="add_1",
        spec=CallSpec(method="add", nonce="n7", arguments=Payload(b"args"), creates=True),
        accepted_unix_s=3.75,
        logged=True,
        due_unix_s=9.0,
    )
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        actor_store.write_records(txn, row, [CallLogged(call=second), CallLogged(call=first)], now_unix_s=NOW)
    with store.read() as txn:
        same(actor_store.load_calls(txn, row.seq), [first, second])
        assert actor_store.call_of_mark(txn, row.seq, "n7") == 7
        assert actor_store.call_of_mark(txn, row.seq, "key:k") == 4
        assert actor_store.call_of_name(txn, row.seq, "add_1") == 7
        assert workflow_store.owns_blobs(txn, "dd" * 16), (
            "what a sub-workflow is given is no garbage before it is there"
        )


def test_a_call_that_ends_leaves_the_mailbox_and_frees_its_arguments(store: KeyValueStore) -> None:
    queued = QueuedCall(
        number=1,
        name="add_1",
        spec=CallSpec(method="add", nonce=f"{1:032x}", arguments=Blob(f"{NONCE}/22", 5)),
        accepted_unix_s=0.0,
        logged=True,
        continues=SubWorkflow(
            workflow_id="s", nonce="ee", request=SubRequest(graph=Graph(nodes=(NodeSpec(task_id="t"),), sink=0))
        ),
    )
    end = CallEnded(call=finished(1), logged=True, continued=True, arguments=queued.spec.arguments)
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        actor_store.write_records(txn, row, [CallLogged(call=queued)], now_unix_s=NOW)
        written = actor_store.write_records(txn, row, [end], now_unix_s=NOW)
        assert written.freed == [f"{NONCE}/22"]
        assert actor_store.load_calls(txn, row.seq) == []
        assert list(txn.scan(layout.call_graph(row.seq))) == []
        same(actor_store.get_call(txn, row.seq, 1), finished(1))
        same(actor_store.ended_calls(txn, row.seq, limit=5), [finished(1)])


def test_a_state_that_is_replaced_frees_its_blob_and_no_blob_of_somebody_else(store: KeyValueStore) -> None:
    def state(key: str) -> StandingChanged:
        return StandingChanged(standing=Standing(version=1, state=ActorState(Blob(key, 5))), state_changed=True)

    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        first = actor_store.write_records(txn, row, [state(f"{NONCE}/1")], now_unix_s=NOW)
        assert first.freed == []
        kept = replace(state(f"{NONCE}/1"), state_changed=False)
        assert actor_store.write_records(txn, first.row, [kept], now_unix_s=NOW).freed == []
        second = actor_store.write_records(txn, first.row, [state("bb/2")], now_unix_s=NOW)
        assert second.freed == [f"{NONCE}/1"]
        assert actor_store.write_records(txn, second.row, [state(f"{NONCE}/3")], now_unix_s=NOW).freed == []


def test_the_newest_calls_are_kept_and_the_others_are_forgotten(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        for number in range(10):
            actor_store.write_records(txn, row, [ended(number, key=f"k{number}")], now_unix_s=NOW, history=4)
        assert [call.number for call in actor_store.ended_calls(txn, row.seq, limit=9)] == [9, 8, 7, 6]
        assert [call.number for call in actor_store.ended_calls(txn, row.seq, before=8, limit=9)] == [7, 6]
        for number, known in ((5, None), (6, 6)):
            assert actor_store.call_of_mark(txn, row.seq, f"{number:032x}") == known
            assert actor_store.call_of_mark(txn, row.seq, f"key:k{number}") == known
            assert actor_store.call_of_name(txn, row.seq, f"add_{number}") == known


def test_a_call_that_has_only_just_ended_is_kept_whatever_came_after_it(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        for number in range(10):
            now = NOW + number
            actor_store.write_records(txn, row, [ended(number, ended_unix_s=now)], now_unix_s=now, history=2)
        assert len(actor_store.ended_calls(txn, row.seq, limit=99)) == 10
        later = NOW + 1000.0
        actor_store.write_records(txn, row, [ended(10, ended_unix_s=later)], now_unix_s=later, history=2)
        actor_store.write_records(txn, row, [ended(11, ended_unix_s=later)], now_unix_s=later, history=2)
        actor_store.write_records(txn, row, [ended(12, ended_unix_s=later)], now_unix_s=later, history=2)
        assert [call.number for call in actor_store.ended_calls(txn, row.seq, limit=99)] == [12, 11, 10]


def test_actors_are_listed_by_class_and_by_the_beginning_of_their_ids_in_pages(store: KeyValueStore) -> None:
    long = "c" * 600
    ids = [*(f"cart-{number}" for number in range(5)), "order-1", "äpfel", long + "1", long + "2"]
    with store.write() as txn:
        for number, actor_id in enumerate(ids):
            class_name = "Order" if actor_id.startswith("order") else "Cart"
            actor_store.create(txn, actor_row(actor_id, f"{number:032x}", class_name))
    with store.read() as txn:

        def page(**about: object) -> list[str]:
            return [view.actor_id for view in actor_store.list_actors(txn, **about)]  # type: ignore[arg-type]

        assert page(prefix="cart-", limit=3) == ["cart-0", "cart-1", "cart-2"]
        assert page(prefix="cart-", after="cart-2", limit=3) == ["cart-3", "cart-4"]
        assert page(class_name="Order", limit=9) == ["order-1"]
        assert page(class_name="Cart", prefix="order", limit=9) == []
        assert sorted(page(prefix=long, limit=9)) == [long + "1", long + "2"]
        assert page(prefix=long + "2", limit=9) == [long + "2"]
        assert sorted(page(limit=99)) == sorted(ids)
        seen: list[str] = []
        while found := page(after=seen[-1] if seen else "", limit=3):
            seen += found
        assert sorted(seen) == sorted(ids)
        assert len(seen) == len(ids)


def test_actors_that_rest_need_no_row_of_the_index_by_status(store: KeyValueStore) -> None:
    with store.write() as txn:
        rows = [actor_store.create(txn, actor_row(f"a{n}", f"{n:032x}")) for n in range(4)]
        actor_store.save_status(txn, rows[1].seq, WorkflowStatus.RUNNING)
        actor_store.save_status(txn, rows[2].seq, WorkflowStatus.FAILED)
        actor_store.save_status(txn, rows[3].seq, WorkflowStatus.FAILED)
        actor_store.save_status(txn, rows[3].seq, WorkflowStatus.SUCCESSFUL)
    with store.read() as txn:
        assert len(list(txn.scan(layout.ACTORS_AT_WORK))) == 2
        by_status = {
            status: [actor_id for _, actor_id, _ in actor_store.list_by_status(txn, {status}, limit=9)]
            for status in WorkflowStatus
        }
        assert by_status[WorkflowStatus.SUCCESSFUL] == ["a0", "a3"]
        assert by_status[WorkflowStatus.RUNNING] == ["a1"]
        assert by_status[WorkflowStatus.FAILED] == ["a2"]
        both = {WorkflowStatus.SUCCESSFUL, WorkflowStatus.RUNNING}
        first = actor_store.list_by_status(txn, both, limit=2)
        assert [actor_id for _, actor_id, _ in first] == ["a0", "a1"]
        rest = actor_store.list_by_status(txn, both, after=first[-1][0], limit=2)
        assert [actor_id for _, actor_id, _ in rest] == ["a3"]


def fill(txn: WriteTransaction, actor_id: str = "cart", nonce: str = NONCE) -> ActorRow:
    """An actor with a row of every kind."""
    row = actor_store.create(txn, actor_row(actor_id, nonce))
    leases.take_lease(txn, row.seq, "host")
    for number in range(20):
        actor_store.write_records(txn, row, [ended(number, key="k")], now_unix_s=NOW)
    queued = QueuedCall(
        number=30,
        name="late",
        spec=CallSpec(method="late", nonce="ff"),
        accepted_unix_s=0.0,
        logged=True,
    )
    actor_store.write_records(txn, row, [CallLogged(call=queued), RetrySet(due_unix_s=8.0)], now_unix_s=NOW)
    actor_store.write_records(txn, row, [RetryCleared(due_unix_s=8.0)], now_unix_s=NOW)
    actor_store.save_status(txn, row.seq, WorkflowStatus.RESUMABLE)
    for number in range(5):
        held = float(number)
        reminder = Reminder(
            name=f"r{number}", method="m", timing={}, next_due_unix_s=5.0, nonce="n", held_until_unix_s=held * 3
        )
        actor_reminders.save(txn, row.seq, reminder, was=None)
    return row


def test_nothing_is_left_of_an_actor_that_was_deleted_and_it_goes_in_small_transactions(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = fill(txn)
    with store.write() as txn:
        actor_store.unlist(txn, row, NOW)
        assert actor_store.find(txn, "cart") is None
        assert actor_store.list_actors(txn, limit=9) == []
    rounds, groups = 0, []
    while True:
        with store.write() as txn:
            before = len(list(txn.scan(b"v")))
            swept = actor_store.sweep_deleted(txn, 10)
            # A reminder takes the row of its time with it.
            assert before - len(list(txn.scan(b"v"))) <= 21
        rounds += 1
        groups += swept.blob_groups
        if not swept.more:
            break
    assert rounds > 5
    assert groups == [NONCE]
    with store.write() as txn:
        assert workflow_store.was_deleted(txn, NONCE)
        workflow_store.forget_deleted(txn)
        assert [key for key, _ in txn.scan(b"") if not key.startswith(b"c")] == []


def test_an_id_may_be_taken_again_while_the_rows_of_the_one_before_are_going(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = fill(txn)
        actor_store.unlist(txn, row, NOW)
        other = fill(txn, nonce="bb" * 16)
        while actor_store.sweep_deleted(txn, 7).more:
            pass
        assert actor_store.find(txn, "cart") == other
        assert len(actor_store.ended_calls(txn, other.seq, limit=99)) == 20
        assert len(actor_reminders.list_reminders(txn, other.seq)) == 5


def test_retention_never_touches_an_actor(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = fill(txn)
        before = [key for key, _ in txn.scan(b"v")]
        for keep in (Retention(keep_s=0.0), Retention(keep=0), Retention(keep_s=0.0, keep=0)):
            assert remove_finished(txn, keep, NOW * 2, 1000).workflows == 0
        assert [key for key, _ in txn.scan(b"v")] == before
        assert actor_store.find(txn, "cart") == row


def test_what_an_actor_was_given_by_reference_is_no_garbage_until_it_is_deleted(tmp_path: Path) -> None:
    folder = StorageFolder.open(tmp_path / "storage")
    try:
        folder.blobs.write(NONCE, Payload(b"of an ObjectRef"), name="0b" * 20)
        with folder.kv.write() as txn:
            row = actor_store.create(txn, actor_row())
        assert collect_garbage(folder, before_unix_s=1e12) == 0
        with folder.kv.write() as txn:
            actor_store.unlist(txn, row, NOW)
        assert collect_garbage(folder, before_unix_s=1e12) == 1
    finally:
        folder.close()


def test_a_damaged_actor_hides_no_other_and_can_be_deleted(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = fill(txn, "broken")
        actor_store.create(txn, actor_row("sound", "bb" * 16))
        txn.put(layout.actor(row.seq), b"damaged")
    with store.write() as txn:
        assert [view.actor_id for view in actor_store.list_actors(txn, limit=9)] == ["sound"]
        listed = actor_store.list_by_status(txn, set(WorkflowStatus), limit=9)
        assert [actor_id for _, actor_id, _ in listed] == [None, "sound"]
        with pytest.raises(StorageCorruptError, match="virtual actor 'broken'"):
            actor_store.find(txn, "broken")
        assert actor_store.unlist_damaged(txn, "broken") == row.seq
        while actor_store.sweep_deleted(txn, 50).more:
            pass
        assert actor_store.find(txn, "broken") is None
        assert [view.actor_id for view in actor_store.list_actors(txn, limit=9)] == ["sound"]
        assert list(txn.scan(layout.ended_call(row.seq))) == []


def test_reminders_come_back_and_there_is_one_row_for_each_time(store: KeyValueStore) -> None:
    reminder = Reminder(
        name="hourly",
        method="tick",
        timing={"every_s": 3600.0},
        next_due_unix_s=50.0,
        nonce="n",
        arguments=Payload(b"args"),
        options=TaskOptions(timeout_s=3.0),
        created_unix_s=1.0,
        fired=2,
    )
    with store.write() as txn:
        row = actor_store.create(txn, actor_row())
        actor_reminders.save(txn, row.seq, reminder, was=None)
        same(actor_reminders.find(txn, row.seq, "hourly"), reminder)
        assert actor_reminders.next_due(txn) == 50.0
        held = replace(reminder, held_until_unix_s=60.0)
        actor_reminders.save(txn, row.seq, held, was=reminder)
        actor_store.write_records(txn, row, [RetrySet(due_unix_s=55.0)], now_unix_s=NOW)
        assert actor_reminders.due_actors(txn, 52.0, 9) == []
        assert actor_reminders.due_actors(txn, 70.0, 9) == [row.seq]
        actor_store.write_records(txn, row, [RetryCleared(due_unix_s=55.0)], now_unix_s=NOW)
        assert actor_reminders.next_due(txn) == 60.0
        actor_reminders.drop(txn, row.seq, held)
        assert actor_reminders.next_due(txn) is None
        assert actor_reminders.list_reminders(txn, row.seq) == []


def test_what_is_due_for_an_actor_that_is_gone_is_forgotten(store: KeyValueStore) -> None:
    with store.write() as txn:
        first = actor_store.create(txn, actor_row("a", "1" * 32))
        other = actor_store.create(txn, actor_row("b", "2" * 32))
        for row in (first, other):
            actor_store.write_records(txn, row, [RetrySet(due_unix_s=5.0)], now_unix_s=NOW)
        actor_reminders.forget_due(txn, first.seq, 6.0)
        assert actor_reminders.due_actors(txn, 6.0, 9) == [other.seq]


def test_an_actor_is_described_as_its_rows_say(store: KeyValueStore) -> None:
    with store.write() as txn:
        row = fill(txn)
        found = actor_store.describe(txn, row)
    assert (found.mailbox_length, found.reminders, found.host) == (1, 5, "host")
    assert (found.status, found.class_name, found.class_version) == (WorkflowStatus.RESUMABLE, "shop.Cart", 3)


def test_only_what_no_row_of_an_actor_names_is_garbage(tmp_path: Path) -> None:
    folder = StorageFolder.open(tmp_path / "storage")
    blobs = folder.blobs

    def large() -> Blob:
        return Blob(blobs.write(NONCE, Payload(b"large")), 5)

    state, error, arguments, value, failure, reminded = (large() for _ in range(6))
    object_in_state = blobs.write(NONCE, Payload(b"of an ObjectRef"), name="0b" * 20)
    sub_group = "5b" * 16
    given_to_sub = blobs.write(sub_group, Payload(b"given to a sub-workflow"))
    left = [large().key for _ in range(3)]
    try:
        with folder.kv.write() as txn:
            row = actor_store.create(txn, actor_row())
            queued = QueuedCall(
                number=3, name="add", spec=CallSpec(method="add", nonce="n", arguments=arguments), accepted_unix_s=1.0
            )
            continues = SubWorkflow(
                workflow_id="cart/add",
                nonce=sub_group,
                request=SubRequest(graph=Graph(nodes=(NodeSpec(task_id="t"),), sink=0)),
            )
            with_value = replace(finished(1), outcome=Outcome(value=Value(Referring(value, ("key",))), version=1))
            with_error = replace(finished(2), outcome=Outcome(error=failure))
            standing = Standing(state=ActorState(state), error=error, condition=Condition.SUSPENDED, initialized=True)
            row = actor_store.write_records(
                txn,
                row,
                [
                    CallLogged(call=replace(queued, continues=continues)),
                    CallEnded(call=with_value, logged=False),
                    CallEnded(call=with_error, logged=False),
                    StandingChanged(standing=standing, state_changed=True),
                ],
                now_unix_s=NOW,
            ).row
            reminder = Reminder(name="r", method="add", timing={}, next_due_unix_s=1.0, nonce="r", arguments=reminded)
            actor_reminders.save(txn, row.seq, reminder, was=None)
        assert collect_garbage(folder, before_unix_s=1.0) == 0
        assert collect_garbage(folder, before_unix_s=1e12) == len(left)
        assert not any(blobs.exists(key) for key in left)
        assert all(blobs.exists(one.key) for one in (state, error, arguments, value, failure, reminded))
        assert blobs.exists(object_in_state)
        assert blobs.exists(given_to_sub)
        assert collect_garbage(folder, before_unix_s=1e12) == 0
    finally:
        folder.close()


def test_nothing_is_garbage_where_a_row_of_an_actor_cannot_be_read(tmp_path: Path) -> None:
    folder = StorageFolder.open(tmp_path / "storage")
    try:
        key = folder.blobs.write(NONCE, Payload(b"large"))
        with folder.kv.write() as txn:
            row = actor_store.create(txn, actor_row())
            txn.put(layout.ended_call(row.seq, 7), b"no row")
        assert collect_garbage(folder, before_unix_s=1e12) == 0
        with folder.kv.write() as txn:
            txn.delete(layout.ended_call(row.seq, 7))
            txn.put(layout.actor(row.seq), b"no row")
        assert collect_garbage(folder, before_unix_s=1e12) == 0
        assert folder.blobs.exists(key)
    finally:
        folder.close()
