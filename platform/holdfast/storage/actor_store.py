"""The typed store of virtual actors over any key-value store: rows, mailboxes, calls that have ended, lists.

Every function works inside a transaction of the caller's. Nothing is decided here. Leases are those of `leases`,
under the actor's number. Nothing that removes old workflows ever looks at these rows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.records import GraphLogged
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_errors import IdTakenError
from holdfast.engine.virtual_actor_records import (
    ActorRecord,
    CallEnded,
    CallLogged,
    FinishedCall,
    QueuedCall,
    RetryCleared,
    RetrySet,
    StandingChanged,
)
from holdfast.storage import layout, start_rows
from holdfast.storage.actor_codec import (
    decode_actor,
    decode_finished,
    decode_queued,
    decode_reminder,
    encode_actor,
    encode_finished,
    encode_queued,
)
from holdfast.storage.actor_row import ActorDescription, ActorRow, ActorState, ActorView
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.leases import holder, let_go
from holdfast.storage.record_codec import UNREADABLE, Blob, Referring, decode_graphs, encode_graph
from holdfast.storage.workflow_store import count_up

log = logging.getLogger("holdfast")

HISTORY = 1000
"""Calls that have ended, of one actor, that are kept: the newest ones."""

HISTORY_S = 60.0
"""A call is kept for so many seconds at least, whatever came after it: a request of it may be on its way again."""

_MOST_FORGOTTEN_AT_ONCE = 4


@dataclass(slots=True, kw_only=True)
class Written:
    """What came of writing records.

    Attributes:
        row: The actor as it is now.
        freed: Keys of blobs that can go, after the commit.
    """

    row: ActorRow
    freed: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Swept:
    """What one transaction removed of actors that were deleted.

    Attributes:
        more: Whether there is more to remove.
        blob_groups: Folders of blobs that can go, after the commit.
    """

    more: bool = False
    blob_groups: list[str] = field(default_factory=list)


# -- actors ------------------------------------------------------------------------------------------------------------


def seq_of(txn: ReadTransaction, actor_id: str) -> int | None:
    """The number of the actor of an id; None when there is none (a workflow may have it)."""
    raw = txn.get(layout.workflow_id(actor_id))
    if raw is None:
        return None
    seq = layout.unpack(raw)
    return None if txn.get(layout.actor(seq)) is None else seq


def find(txn: ReadTransaction, actor_id: str) -> ActorRow | None:
    """The actor of an id; None when there is none.

    Raises:
        StorageCorruptError: Its row is damaged; names the actor.
    """
    raw = txn.get(layout.workflow_id(actor_id))
    return None if raw is None else _read(txn, layout.unpack(raw), f"virtual actor {actor_id!r}")


def get(txn: ReadTransaction, seq: int) -> ActorRow | None:
    """The actor of a number; None when it has been deleted.

    Raises:
        StorageCorruptError: Its row is damaged; names the number, for the id stands in the row.
    """
    return _read(txn, seq, f"virtual actor number {seq}")


def _read(txn: ReadTransaction, seq: int, called: str) -> ActorRow | None:
    raw = txn.get(layout.actor(seq))
    try:
        return None if raw is None else decode_actor(seq, raw)
    except UNREADABLE as error:
        fix = "Restore the folder from a backup, or give the actor up with workflow.delete(<its id>)."
        problem = f"the row of {called} is damaged ({type(error).__name__}: {error})"
        raise StorageCorruptError("meta.lmdb", problem, fix) from error


def of_blob_group(txn: ReadTransaction, group: str) -> int | None:
    """The number of the actor whose blobs lie in the folder of this name; None when they are not an actor's.

    Those of a sub-workflow that is yet to be submitted are that workflow's.
    """
    raw = txn.get(layout.blob_group(group))
    if not raw:
        return None
    seq = layout.unpack(raw)
    try:
        row = get(txn, seq)
    except StorageCorruptError:
        # Whatever it names is not known, and stays.
        return None
    return seq if row is not None and row.nonce == group else None


def create(txn: WriteTransaction, row: ActorRow) -> ActorRow:
    """Add an actor; its `seq` is given here.

    Raises:
        IdTakenError: A workflow has the id.
    """
    taken = txn.get(layout.workflow_id(row.actor_id))
    if taken is not None and txn.get(layout.workflow(layout.unpack(taken))) is not None:
        raise IdTakenError(row.actor_id, "workflow")
    row = replace(row, seq=count_up(txn, "seq"))
    seq = layout.pack(row.seq)
    txn.put(layout.workflow_id(row.actor_id), seq)
    txn.put(layout.blob_group(row.nonce), seq)
    for class_name in (None, row.spec.class_name):
        txn.put(layout.actors_by_id(class_name, row.actor_id), seq)
    save(txn, row)
    return row


def save(txn: WriteTransaction, row: ActorRow, *, was: ActorRow | None = None) -> None:
    """Write an actor's row, and move it in the index when its class had another name."""
    if was is not None and was.spec.class_name != row.spec.class_name:
        txn.delete(layout.actors_by_id(was.spec.class_name, row.actor_id))
        txn.put(layout.actors_by_id(row.spec.class_name, row.actor_id), layout.pack(row.seq))
    txn.put(layout.actor(row.seq), encode_actor(row))


def save_status(txn: WriteTransaction, seq: int, status: WorkflowStatus) -> None:
    """Write what an actor is listed as, if that has changed."""
    key = layout.actor_status(seq)
    raw = txn.get(key)
    if status is WorkflowStatus.SUCCESSFUL:
        if raw is not None:
            txn.delete(key)
    elif raw != status.value.encode():
        txn.put(key, status.value.encode())


def status(txn: ReadTransaction, seq: int) -> WorkflowStatus:
    """What an actor is listed as."""
    raw = txn.get(layout.actor_status(seq))
    return WorkflowStatus.SUCCESSFUL if raw is None else WorkflowStatus(raw.decode())


# -- records -----------------------------------------------------------------------------------------------------------


def write_records(
    txn: WriteTransaction, row: ActorRow, records: Iterable[ActorRecord], *, now_unix_s: float, history: int = HISTORY
) -> Written:
    """Write what a step of an actor recorded.

    Args:
        txn: The caller's.
        row: The actor, as it was before.
        records: In order.
        now_unix_s: The time.
        history: How many calls are kept that have ended.
    """
    seq = row.seq
    written = Written(row=row)
    for record in records:
        match record:
            case CallLogged():
                _log_call(txn, row, record.call)
            case CallEnded():
                _end_call(txn, seq, record, written)
                _forget_old_calls(txn, seq, record.call.number - history, now_unix_s, written)
            case StandingChanged():
                if record.state_changed and written.row.standing.state is not None:
                    state: ActorState = written.row.standing.state
                    _free(state.base, written)
                suspected = row.suspected and record.standing.deaths > 0
                written.row = replace(written.row, standing=record.standing, suspected=suspected)
            case RetrySet():
                txn.put(layout.actor_due(record.due_unix_s, seq), b"")
            case RetryCleared():
                txn.delete(layout.actor_due(record.due_unix_s, seq))
    if written.row is not row:
        save(txn, written.row)
    return written


def _log_call(txn: WriteTransaction, row: ActorRow, call: QueuedCall) -> None:
    seq, key = row.seq, layout.mailbox(row.seq, call.number)
    if txn.get(key) is None:
        _find_by(txn, seq, call.number, call.name, call.spec.nonce, call.spec.key)
    if call.continues is not None and txn.get(layout.call_graph(seq, 0)) is None:
        graph = call.continues.request.graph
        logged = GraphLogged(
            first=0, nodes=graph.nodes, sink=graph.sink, parent=None, group=graph.sink, catcher=None, scope=None
        )
        for first, piece in encode_graph(logged):
            txn.put(layout.call_graph(seq, first), piece)
        # What it is given is no garbage before the workflow is there, which then takes this row over.
        if txn.get(layout.blob_group(call.continues.nonce)) is None:
            txn.put(layout.blob_group(call.continues.nonce), layout.pack(seq))
    txn.put(key, encode_queued(call))


def _find_by(txn: WriteTransaction, seq: int, number: int, name: str, nonce: str, key: str) -> None:
    packed = layout.pack(number)
    txn.put(layout.call_mark(seq, nonce), packed)
    if key:
        txn.put(layout.call_mark(seq, "key:" + key), packed)
    txn.put(layout.call_name(seq, name), packed)


def _end_call(txn: WriteTransaction, seq: int, record: CallEnded, written: Written) -> None:
    call = record.call
    if record.logged:
        txn.delete(layout.mailbox(seq, call.number))
        if record.continued:
            txn.delete_prefix(layout.call_graph(seq))
    else:
        _find_by(txn, seq, call.number, call.name, call.nonce, call.key)
    txn.put(layout.ended_call(seq, call.number), encode_finished(call))
    _free(record.arguments, written)


def _forget_old_calls(txn: WriteTransaction, seq: int, last: int, now_unix_s: float, written: Written) -> None:
    """Forget calls up to a number, a few at a time: how many there are is bounded, and so is each transaction."""
    if last < 0:
        return
    old: list[tuple[bytes, bytes]] = []
    for key, raw in txn.scan(layout.ended_call(seq)):
        if layout.last_part(key) > last or len(old) >= _MOST_FORGOTTEN_AT_ONCE:
            break
        old.append((key, raw))
    for key, raw in old:
        call = decode_finished(layout.last_part(key), raw)
        if call.ended_unix_s > now_unix_s - HISTORY_S:
            return
        txn.delete(key)
        txn.delete(layout.call_mark(seq, call.nonce))
        if call.key:
            txn.delete(layout.call_mark(seq, "key:" + call.key))
        if txn.get(layout.call_name(seq, call.name)) == layout.pack(call.number):
            txn.delete(layout.call_name(seq, call.name))
        _free(None if call.outcome.value is None else call.outcome.value.base, written)
        _free(call.outcome.error, written)


def _free(stored: Any, written: Written) -> None:
    """What it refers to besides may be used elsewhere: it goes with the actor. What is a workflow's goes with that."""
    if isinstance(stored, Referring):
        stored = stored.base
    if isinstance(stored, Blob) and stored.key.startswith(written.row.nonce + "/"):
        written.freed.append(stored.key)


# -- calls -------------------------------------------------------------------------------------------------------------


def load_calls(txn: ReadTransaction, seq: int) -> list[QueuedCall]:
    """The mailbox of an actor, in order."""
    graph: GraphLogged | None = next(decode_graphs(raw for _, raw in txn.scan(layout.call_graph(seq))), None)
    return [decode_queued(layout.last_part(key), raw, graph) for key, raw in txn.scan(layout.mailbox(seq))]


def mailbox_length(txn: ReadTransaction, seq: int) -> int:
    """How many calls of an actor have a row in its mailbox."""
    return sum(1 for _ in txn.scan(layout.mailbox(seq)))


def call_of_mark(txn: ReadTransaction, seq: int, mark: str) -> int | None:
    """The number of the call of a nonce, or of an idempotency key (`key_mark`), while it is known."""
    raw = txn.get(layout.call_mark(seq, mark))
    return None if raw is None else layout.unpack(raw)


def call_of_name(txn: ReadTransaction, seq: int, name: str) -> int | None:
    """The number of the call of a name, while it is known."""
    raw = txn.get(layout.call_name(seq, name))
    return None if raw is None else layout.unpack(raw)


def get_call(txn: ReadTransaction, seq: int, number: int) -> QueuedCall | FinishedCall | None:
    """A call by its number: in the mailbox, ended, or None when it is not known (any more)."""
    raw = txn.get(layout.ended_call(seq, number))
    if raw is not None:
        return decode_finished(number, raw)
    raw = txn.get(layout.mailbox(seq, number))
    return None if raw is None else decode_queued(number, raw, None)


def all_ended_calls(txn: ReadTransaction, seq: int) -> Iterator[FinishedCall]:
    """All calls of an actor that have ended and are kept, the oldest first."""
    return (decode_finished(layout.last_part(key), raw) for key, raw in txn.scan(layout.ended_call(seq)))


def ended_calls(txn: ReadTransaction, seq: int, *, before: int | None = None, limit: int) -> list[FinishedCall]:
    """A page of the calls of an actor that have ended, the newest first; those before a number, if one is given."""
    start = None if before is None else layout.ended_call(seq, max(before - 1, 0))
    found: list[FinishedCall] = []
    if before == 0:
        return found
    for key, raw in txn.scan(layout.ended_call(seq), start=start, reverse=True):
        if len(found) >= limit:
            break
        found.append(decode_finished(layout.last_part(key), raw))
    return found


# -- lists -------------------------------------------------------------------------------------------------------------


def list_actors(
    txn: ReadTransaction, *, class_name: str | None = None, prefix: str = "", after: str = "", limit: int
) -> list[ActorView]:
    """A page of actors in the order of their ids.

    Args:
        txn: The transaction.
        class_name: Those of this class; None for all.
        prefix: Those whose ids begin so.
        after: Those after this id, which is the last one of the page before; empty to begin.
        limit: At most so many.

    Semantics: an actor whose row is damaged is left out, and the log says so.
    """
    found: list[ActorView] = []
    beginning = layout.actors_by_id(class_name, prefix=prefix)
    start = layout.actors_by_id(class_name, after) + b"\0" if after else None
    for key, raw in txn.scan(beginning, start=start):
        if len(found) >= limit:
            break
        seq = layout.unpack(raw)
        try:
            row = get(txn, seq)
        except StorageCorruptError as error:
            log.error("%s", error)
            continue
        if row is None or not row.actor_id.startswith(prefix) or (start is not None and key < start):
            continue
        view = ActorView(actor_id=row.actor_id, class_name=row.spec.class_name, status=status(txn, seq))
        found.append(view)
    return found


def list_by_status(
    txn: ReadTransaction, statuses: Collection[WorkflowStatus], *, after: int = -1, limit: int
) -> list[tuple[int, str | None, WorkflowStatus]]:
    """A page of at most `limit` (number, id, status), in the order in which they were made; as `list_workflows`.

    Semantics: without SUCCESSFUL it takes no longer the more actors rest. No id where a row is damaged.
    """
    page: list[tuple[int, str | None, WorkflowStatus]] = []
    resting = WorkflowStatus.SUCCESSFUL in statuses
    index = layout.ACTORS if resting else layout.ACTORS_AT_WORK
    start = layout.actor(after + 1) if resting else layout.actor_status(after + 1)
    for key, _ in txn.scan(index, start=start):
        if len(page) >= limit:
            break
        seq = layout.last_part(key)
        found = status(txn, seq)
        if found not in statuses:
            continue
        try:
            row = get(txn, seq)
        except StorageCorruptError:
            row = None
        page.append((seq, None if row is None else row.actor_id, found))
    return page


def describe(txn: ReadTransaction, row: ActorRow) -> ActorDescription:
    """An actor as people see it."""
    standing = row.standing
    state: ActorState | None = standing.state
    return ActorDescription(
        actor_id=row.actor_id,
        class_name=row.spec.class_name,
        status=status(txn, row.seq),
        state_version=standing.version,
        class_version=row.spec.class_version if state is None else state.class_version,
        initialized=standing.initialized,
        mailbox_length=mailbox_length(txn, row.seq) + start_rows.count_messages(txn, row.actor_id),
        last_call=standing.last_call,
        last_call_unix_s=standing.called_unix_s,
        last_error=standing.said,
        deaths=standing.deaths,
        host=holder(txn, row.seq),
        created_unix_s=row.created_unix_s,
        reminders=sum(1 for _ in txn.scan(layout.reminder(row.seq))),
        current_call=next((decode_queued(-1, raw, None).name for _, raw in txn.scan(layout.mailbox(row.seq))), ""),
    )


# -- deleting ----------------------------------------------------------------------------------------------------------


def unlist(txn: WriteTransaction, row: ActorRow, now_unix_s: float) -> None:
    """Remove an actor from where it is found. What is left goes with `sweep_deleted`."""
    let_go(txn, row.seq)
    txn.delete(layout.workflow_id(row.actor_id))
    txn.delete(layout.blob_group(row.nonce))
    # As for a submission whose workflow was deleted: the request that made it may be sent again.
    txn.put(layout.deleted(row.nonce), orjson.dumps([now_unix_s]))
    for class_name in (None, row.spec.class_name):
        txn.delete(layout.actors_by_id(class_name, row.actor_id))
    for gone in (layout.actor(row.seq), layout.actor_status(row.seq), layout.lease(row.seq)):
        txn.delete(gone)
    txn.put(layout.removed_actor(row.seq), row.nonce.encode())


def unlist_damaged(txn: WriteTransaction, actor_id: str) -> int:
    """`unlist` for an actor whose row cannot be read, by its id. Returns its number.

    Semantics: it is found by looking through the index of all actors for its class. Its blobs, whose folder the row
    named, go when a platform starts on the folder the next time.
    """
    raw = txn.get(layout.workflow_id(actor_id))
    assert raw is not None, f"there is no virtual actor {actor_id!r} to be damaged"
    seq = layout.unpack(raw)
    let_go(txn, seq)
    for key, found in txn.scan(layout.ACTORS_BY_ID):
        if found == raw:
            txn.delete(key)
    for gone in (layout.workflow_id(actor_id), layout.actor(seq), layout.actor_status(seq), layout.lease(seq)):
        txn.delete(gone)
    txn.put(layout.removed_actor(seq), b"")
    return seq


def sweep_deleted(txn: WriteTransaction, rows: int) -> Swept:
    """Remove rows of actors that were deleted.

    Args:
        txn: The caller's.
        rows: At most about so many: what is left goes in further transactions.

    Semantics: safe to repeat after a crash at any point.
    """
    swept = Swept()
    for key, raw in txn.scan(layout.REMOVED_ACTORS):
        seq = layout.last_part(key)
        for own, row in _rows(txn, seq):
            if rows <= 0:
                swept.more = True
                return swept
            if own.startswith(layout.reminder(seq)):
                reminder = decode_reminder(row)
                txn.delete(layout.actor_due(reminder.look_unix_s, seq, reminder.name))
            txn.delete(own)
            rows -= 1
        txn.delete(key)
        if raw:
            swept.blob_groups.append(raw.decode())
    return swept


def _rows(txn: ReadTransaction, seq: int) -> Iterator[tuple[bytes, bytes]]:
    for prefix in layout.rows_of_actor(seq):
        yield from txn.scan(prefix)
