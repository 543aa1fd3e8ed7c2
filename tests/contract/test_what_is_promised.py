"""What removes things by itself, by age, by number or as rubbish, removes nothing that something still names.

Every function of the store that does so is found in its source and answers for itself in `ANSWERS`.
"""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors.event_starter import EventStarter
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import Cancel, Delete, Recover, Resume, Submit, Wake
from holdfast.actors.source_hosts import SourceHosts
from holdfast.engine.errors import DeadLetterNotReplayableError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.selectors import Selector
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_records import (
    CallEnded,
    CallLogged,
    CallSpec,
    FinishedCall,
    Outcome,
    QueuedCall,
    SubWorkflow,
)
from holdfast.storage import actor_store, dead_letters, event_readers, event_store, layout, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorRow, ActorSpec, SubRequest
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload
from holdfast.storage.retention import Retention, is_something_over, remove_finished
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_row import WorkflowRow

TESTS = Path(__file__).resolve().parents[1]
STORAGE = TESTS.parent / "platform" / "holdfast" / "storage"

_OF_THE_PLATFORM_BEFORE = "test_what_was_deleted_is_forgotten_with_the_platform_whose_calls_could_be_repeated"

# Who removes what it was not given by name: what may name that, and the test that says so.
ANSWERS = {
    "actor_blobs.collect_actor_blobs": "test_only_what_no_row_of_an_actor_names_is_garbage",
    "actor_reminders.forget_due": "test_what_is_due_for_an_actor_that_is_gone_is_forgotten",
    # Whoever asks for a call that is forgotten gets an error of its own.
    "actor_store.write_records": "test_the_newest_calls_are_kept_and_the_others_are_forgotten",
    "actor_store._forget_old_calls": "test_a_call_that_has_only_just_ended_is_kept_whatever_came_after_it",
    "actor_store.sweep_deleted": "test_an_id_may_be_taken_again_while_the_rows_of_the_one_before_are_going",
    "answered.forget_all_answers": _OF_THE_PLATFORM_BEFORE,
    "answered.forget_answers": "test_answers_are_forgotten_after_a_while_a_page_at_a_time",
    "blobs.BlobStore.clear_unfinished": "test_what_a_dead_host_was_writing_goes",
    "blobs.BlobStore.collect_garbage": "test_garbage_of_dead_writers_goes_and_live_writers_are_left_alone",
    "code.CodeStore.collect_garbage": "test_the_temporary_file_of_a_dead_writer_is_cleared",
    "code_garbage.collect_code": "test_what_a_row_names_stays_and_what_none_names_goes",
    "event_store.expire": "test_an_event_that_a_workflow_waits_for_does_not_expire",
    "files.clear_temporary": "test_the_temporary_file_of_a_dead_writer_is_cleared",
    "garbage.collect_garbage": "test_blobs_of_a_schedule_are_no_garbage_until_it_is_redefined_or_deleted",
    "platform_lock._forget_all_in_child": "test_a_child_does_not_inherit_the_claim",
    # A copy in memory is never the only one.
    "memory_copies.MemoryCopies.drop_old": "test_copies_go_when_their_time_is_over",
    "memory_copies._drop_before": "test_copies_go_when_their_time_is_over",
    "retention.remove_finished": "test_what_a_call_of_an_actor_went_on_with_stays_until_the_call_has_its_value",
    "retention._sweep": "test_a_large_workflow_goes_in_several_transactions_and_is_gone_from_the_first_one_on",
    # Calls that could be repeated are those of the platform before.
    "workflow_store.forget_deleted": _OF_THE_PLATFORM_BEFORE,
}

_REMOVING = {"delete", "delete_prefix", "delete_group", "unlink", "rmtree", "drop"}
_MEASURES = {"before_unix_s", "unix_s", "limit", "rows", "history", "retention"}
_BY_ITSELF = re.compile(
    r"_?(expire|collect_(?!all)|sweep|prune|purge|drop_old|clear_(temporary|unfinished)|forget_(all|old|deleted|due))"
)


def removing_by_themselves(folder: Path) -> set[str]:
    """The functions below a folder that remove, and are given a measure of how much, or are named so."""
    found = set()
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        owners: list[tuple[str, ast.AST]] = [(path.stem, tree)]
        owners += [(f"{path.stem}.{node.name}", node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for owner, node in owners:
            functions = [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.FunctionDef)]
            found |= {f"{owner}.{one.name}" for one in functions if _removes_by_itself(one)}
    return found


def _removes_by_itself(function: ast.FunctionDef) -> bool:
    given = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    used = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    return bool(given & _MEASURES and used & _REMOVING) or _BY_ITSELF.match(function.name) is not None


def test_whatever_removes_by_itself_answers_for_what_may_still_be_named() -> None:
    assert removing_by_themselves(STORAGE) == ANSWERS.keys()


def test_each_answer_is_a_test() -> None:
    written = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert [test for test in ANSWERS.values() if f"def {test}(" not in written] == []


def test_a_new_one_is_found(tmp_path: Path) -> None:
    by_measure = "class A:\n def trim(self, txn, *, limit):\n  txn.delete(b'')\n"
    (tmp_path / "planted.py").write_text(f"{by_measure}def purge_rows(): ...\ndef read(txn, limit): ...\n")
    assert removing_by_themselves(tmp_path) == {"planted.A.trim", "planted.purge_rows"}


# -- events ------------------------------------------------------------------------------------------------------------

SOURCE, EXECUTOR = "kafka/default/orders", "executor-0"
LONG_AFTER_UNIX_S = 1e11


class Log:
    """A source of which nothing is kept that nobody was promised, and workflows that read it."""

    def __init__(self, kv: KeyValueStore, **retention: Any) -> None:
        self.kv = kv
        self.core = ExecutorCore(kv, EXECUTOR)
        with kv.write() as txn:
            event_store.need_source(txn, SOURCE, 0.0)
            event_store.set_retention(txn, SOURCE, **({"age_s": 10.0, "nbytes": None} | retention))

    def do(self, *operations: Any) -> None:
        for operation in operations:
            (outcome,) = self.core.perform([operation], 100.0).outcomes
            assert not isinstance(outcome, BaseException), outcome

    def submit(self, *selectors: Selector) -> int:
        """A workflow that waits for events one after the other; its number."""
        nodes = tuple(
            NodeSpec(task_id=f"t{at}", kind=NodeKind.EVENT, stream=(SOURCE, one.text), inputs=(at - 1,) if at else ())
            for at, one in enumerate(selectors)
        )
        self.do(Submit(workflow_id="w", nonce="ab", graph=Graph(nodes=nodes, sink=len(nodes) - 1)))
        with self.kv.read() as txn:
            row = store.find(txn, "w")
        assert row is not None
        return row.seq

    def take_in(self, *keys: str, undecodable: bool = False) -> None:
        with self.kv.write() as txn:
            at = event_store.last_number(txn) + 1
            events = [
                IncomingEvent(
                    key=key.encode(),
                    value=b'{"n": 1}',
                    time_unix_s=100.0,
                    dedupe_id=f"{at + more}",
                    undecodable=undecodable,
                )
                for more, key in enumerate(keys)
            ]
            event_store.ingest(txn, SOURCE, events, moves={}, now_unix_s=100.0)

    def expire(self) -> list[int]:
        """All that may go; what is there after that."""
        with self.kv.write() as txn:
            event_store.expire(txn, SOURCE, LONG_AFTER_UNIX_S)
            source = event_store.find_source(txn, SOURCE)
            assert source is not None
            left = list(event_store.events_after(txn, source.number, 0))
            assert (source.kept, source.kept_bytes) == (len(left), sum(event.nbytes for event in left))
            return [event.number for event in left]

    def status(self) -> WorkflowStatus:
        with self.kv.read() as txn:
            row = store.find(txn, "w")
        assert row is not None
        return row.status


@pytest.mark.parametrize("retention", [{}, {"age_s": None, "nbytes": 0}], ids=["by age", "for want of room"])
@pytest.mark.parametrize(
    "selector", [Selector(key=b"b"), Selector(where={"n": 1}), Selector(), Selector(key=b"b", raw=True)], ids=str
)
def test_an_event_that_a_workflow_waits_for_does_not_expire(
    store: KeyValueStore, selector: Selector, retention: dict[str, Any]
) -> None:
    log = Log(store, **retention)
    seq = log.submit(selector)
    log.take_in("b")
    assert log.expire() == [1]
    log.do(Wake(seq=seq))
    assert log.status() is WorkflowStatus.SUCCESSFUL
    assert log.expire() == []


def test_what_nobody_waits_for_expires_around_what_somebody_does(store: KeyValueStore) -> None:
    log = Log(store)
    seq = log.submit(Selector(key=b"b"), Selector(key=b"b"))
    log.take_in("a", "b", "a", "b", "a")
    assert log.expire() == [2, 4]
    log.do(Wake(seq=seq))
    assert log.status() is WorkflowStatus.SUCCESSFUL
    assert log.expire() == []


def test_what_one_has_read_stays_for_the_other_who_waits_for_the_same(store: KeyValueStore) -> None:
    log = Log(store)
    with store.write() as txn:
        rows = [a_workflow(txn, name) for name in ("early", "late")]
        for row in rows:
            assert event_readers.pull(txn, row, (SOURCE, "all"))[0] is None
    log.take_in("a")
    with store.write() as txn:
        assert event_readers.pull(txn, rows[0], (SOURCE, "all"))[0] is not None
    assert log.expire() == [1]
    with store.write() as txn:
        assert event_readers.pull(txn, rows[1], (SOURCE, "all"))[0] is not None
    assert log.expire() == []


def a_workflow(txn: Any, name: str) -> WorkflowRow:
    return store.create(
        txn, WorkflowRow(seq=0, workflow_id=name, status=WorkflowStatus.RUNNING, executor=EXECUTOR, nonce=name)
    )


def test_what_came_for_a_workflow_that_lost_its_cluster_is_there_when_it_is_resumed(store: KeyValueStore) -> None:
    log = Log(store)
    seq = log.submit(Selector(key=b"b"), Selector(key=b"b"))
    lose_cluster(store, [EXECUTOR])
    log.core = ExecutorCore(store, EXECUTOR)
    for _ in range(2):
        log.take_in("a", "b")
        # Told once, and not again and again: nobody can read it at present.
        log.do(Wake(seq=seq))
        with store.read() as txn:
            assert event_readers.pending_wakes(txn, 10) == []
    assert log.status() is WorkflowStatus.RESUMABLE
    assert log.expire() == [2, 4]
    log.do(Resume(workflow_id="w", nonce="cd"))
    assert log.status() is WorkflowStatus.SUCCESSFUL
    assert log.expire() == []
    assert rows_of_readers(store) == set()


def rows_of_readers(kv: KeyValueStore) -> set[bytes]:
    with kv.read() as txn:
        return {key[:1] for key, _ in txn.scan(b"")} & {b"R", b"C", b"W", b"Y"}


@pytest.mark.parametrize("lost", [True, False], ids=["that lost its cluster", "that runs"])
def test_what_a_workflow_waited_for_that_is_cancelled_expires(store: KeyValueStore, lost: bool) -> None:
    log = Log(store)
    seq = log.submit(Selector(key=b"b"))
    if lost:
        lose_cluster(store, [EXECUTOR])
        log.core = ExecutorCore(store, EXECUTOR)
    log.take_in("b")
    if lost:
        log.do(Wake(seq=seq))
    assert log.expire() == [1]
    log.do(Cancel(workflow_id="w"))
    assert log.expire() == []
    log.do(Delete(workflow_id="w"))
    assert rows_of_readers(store) == set()


def test_an_event_that_cannot_be_decoded_is_promised_to_those_only_who_read_raw(store: KeyValueStore) -> None:
    log = Log(store)
    seq = log.submit(Selector(key=b"b"))
    log.take_in("b", undecodable=True)
    log.take_in("b")
    assert log.expire() == [2]
    log.do(Recover(seq=seq), Wake(seq=seq))
    assert log.status() is WorkflowStatus.SUCCESSFUL


# -- dead letters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    opened = StorageFolder.open(tmp_path / "storage")
    yield opened
    opened.close()


def a_rule() -> Subscription:
    graph = Graph(nodes=(NodeSpec(task_id="start", function="f"),), sink=0)
    return Subscription(name="rule", source=SOURCE, selector="all", graph=graph, id_template="{value[id]}")


def test_a_dead_letter_has_its_event_when_that_has_expired_from_the_log(folder: StorageFolder) -> None:
    log = Log(folder.kv)
    with folder.kv.write() as txn:
        subscriptions.subscribe(txn, a_rule(), 1.0)
    log.take_in("k")
    launcher: Any = None
    assert asyncio.run(EventStarter(folder, launcher, ["nobody"]).start_all())
    assert log.expire() == []
    with folder.kv.read() as txn:
        (letter,) = dead_letters.list_dead_letters(txn)
    assert letter.event is not None
    assert (letter.reason, letter.event.key, letter.event.value) == ("start-failed", b"k", b'{"n": 1}')
    asyncio.run(hosts(folder).replay(letter.number, None))
    with folder.kv.read() as txn:
        assert dead_letters.list_dead_letters(txn) == []
        (waiting,) = subscriptions.to_start(txn, 1, limit=9)
    assert (waiting.event.number, waiting.event.dedupe_id, waiting.event.value) == (1, "1", b'{"n": 1}')
    assert log.expire() == [1], "it is to start a workflow"
    with folder.kv.write() as txn:
        subscriptions.set_aside(txn, 1, 1)
    assert log.expire() == []


def test_a_letter_of_an_earlier_release_says_that_its_event_has_expired(folder: StorageFolder) -> None:
    log = Log(folder.kv)
    with folder.kv.write() as txn:
        subscriptions.subscribe(txn, a_rule(), 1.0)
        letter = dead_letters.DeadLetter(
            source=SOURCE,
            reason="start-failed",
            error="no id",
            occurred_unix_s=1.0,
            note={"subscription": "rule"},
            event_number=1,
        )
        number = dead_letters.add_dead_letter(txn, letter)
    log.take_in("k")
    with folder.kv.write() as txn:
        subscriptions.set_aside(txn, 1, 1)
    assert log.expire() == []
    with pytest.raises(DeadLetterNotReplayableError, match="expired"):
        asyncio.run(hosts(folder).replay(number, None))


def hosts(folder: StorageFolder) -> SourceHosts:
    address: Any = None
    return SourceHosts(folder.kv, address, "platform", 1, 30.0)


# -- workflows ---------------------------------------------------------------------------------------------------------


def an_ended_workflow(kv: KeyValueStore, workflow_id: str, nonce: str, **metadata: str) -> int:
    core = ExecutorCore(kv, EXECUTOR)
    graph = Graph(nodes=(NodeSpec(task_id="a", kind=NodeKind.SLEEP, duration_s=1e6),), sink=0)
    core.perform([Submit(workflow_id=workflow_id, nonce=nonce, graph=graph, user_metadata=metadata)], 1.0)
    core.perform([Cancel(workflow_id=workflow_id)], 2.0)
    with kv.read() as txn:
        row = store.find(txn, workflow_id)
    assert row is not None
    assert row.status is WorkflowStatus.CANCELED
    return row.seq


@pytest.mark.parametrize("retention", [Retention(keep_s=0.0), Retention(keep=0)], ids=["by age", "by number"])
def test_what_a_call_of_an_actor_went_on_with_stays_until_the_call_has_its_value(
    store: KeyValueStore, retention: Retention
) -> None:
    graph = Graph(nodes=(NodeSpec(task_id="a", kind=NodeKind.SLEEP, duration_s=1e6),), sink=0)
    sub = SubWorkflow(workflow_id="cart/pay", nonce="cc" * 16, request=SubRequest(graph=graph))
    call = QueuedCall(
        number=0,
        name="pay",
        spec=CallSpec(method="pay", nonce="bb" * 16, arguments=Payload(b"")),
        accepted_unix_s=1.0,
        continues=sub,
    )
    with store.write() as txn:
        actor = actor_store.create(
            txn, ActorRow(seq=0, actor_id="cart", spec=ActorSpec(class_name="C"), nonce="aa" * 16)
        )
        actor_store.write_records(txn, actor, [CallLogged(call=call)], now_unix_s=1.0)
    waited_for = an_ended_workflow(store, "cart/pay", "cc" * 16, virtual_actor="cart")
    others = [
        an_ended_workflow(store, "plain", "d0"),
        an_ended_workflow(store, "cart/other", "d1", virtual_actor="cart"),
        an_ended_workflow(store, "gone/pay", "d2", virtual_actor="gone"),
    ]
    assert removed_of(store, retention, [waited_for, *others]) == others
    with store.read() as txn:
        assert not is_something_over(txn, retention, LONG_AFTER_UNIX_S)
    finished = FinishedCall(
        number=0,
        name="pay",
        method="pay",
        nonce="bb" * 16,
        outcome=Outcome(),
        accepted_unix_s=1.0,
        started_unix_s=1.0,
        ended_unix_s=2.0,
    )
    with store.write() as txn:
        records = [CallEnded(call=finished, logged=True, continued=True)]
        actor_store.write_records(txn, actor, records, now_unix_s=3.0)
    assert removed_of(store, retention, [waited_for]) == [waited_for]


def removed_of(kv: KeyValueStore, retention: Retention, seqs: list[int]) -> list[int]:
    with kv.write() as txn:
        remove_finished(txn, retention, LONG_AFTER_UNIX_S, 10_000)
        return [seq for seq in seqs if txn.get(layout.workflow(seq)) is None]
