"""Removing workflows that ended long ago, a little at a time.

What is to go is found in the index of ended workflows, from its old end: how
many there are does not matter. Nothing active is ever looked at, and nothing
that has only just ended is removed, for somebody may be about to read it; nor
what a call of a virtual actor went on with, before it has its value.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_records import QueuedCall
from holdfast.storage import actor_store, layout
from holdfast.storage import workflow_store as store
from holdfast.storage.event_readers import forget_reader
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import UNREADABLE

log = logging.getLogger("holdfast")

LEAST_AGE_S = 5.0
"""What has ended is kept for so long at least, in seconds: whoever waits for its value reads it after the end."""

OF_ACTOR = "virtual_actor"
"""What the metadata of a workflow has that a call of a virtual actor went on with: the id of the actor."""

_OVER = (WorkflowStatus.SUCCESSFUL, WorkflowStatus.CANCELED)
_ROWS_TO_UNLIST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long workflows are kept that have ended.

    Attributes:
        keep_s: For how many seconds after their end; None for ever.
        keep: How many of those that were SUCCESSFUL or CANCELED, the last ones; None for all. A FAILED one may be
            mended and resumed: it goes by its age only.
    """

    keep_s: float | None = None
    keep: int | None = None


@dataclass(slots=True, kw_only=True)
class Removed:
    """What one transaction removed.

    Attributes:
        workflows: How many workflows are not there any more.
        blob_groups: Folders of blobs that can go, after the commit.
    """

    workflows: int = 0
    blob_groups: list[str] = field(default_factory=list)


def remove_finished(txn: WriteTransaction, retention: Retention, now_unix_s: float, rows: int) -> Removed:
    """Remove workflows whose time is over, the oldest first.

    Args:
        txn: The caller's.
        retention: What is kept.
        now_unix_s: The time.
        rows: About how many rows to touch at most: a workflow with more goes in several transactions.

    Returns:
        What was removed.

    Semantics: a workflow is gone for everybody from the first of its rows on. Safe to repeat after a crash at any
    point; blobs whose folder was not removed after the commit go when a platform starts on the folder.
    """
    removed = Removed()
    for key, raw in txn.scan(layout.REMOVED):
        rows -= _sweep(txn, layout.last_part(key), rows)
        if rows <= 0:
            return removed
        txn.delete(key)
        if raw:
            removed.blob_groups.append(raw.decode())
    for key in _due(txn, retention, now_unix_s, rows // _ROWS_TO_UNLIST + 1):
        if rows <= 0:
            break
        rows -= _ROWS_TO_UNLIST
        _, seq = layout.read_ended(key)
        group = _unlist(txn, seq, now_unix_s)
        # Where the row was damaged, nothing but the key told when it had ended.
        txn.delete(key)
        removed.workflows += 1
        rows -= _sweep(txn, seq, max(rows, 1))
        if rows <= 0:
            txn.put(layout.removed(seq), group.encode())
        elif group:
            removed.blob_groups.append(group)
    return removed


def is_something_over(txn: ReadTransaction, retention: Retention, now_unix_s: float) -> bool:
    """Whether `remove_finished` would find something: asked before a transaction that others would wait for."""
    return next(txn.scan(layout.REMOVED), None) is not None or _due(txn, retention, now_unix_s, 1) != []


def _unlist(txn: WriteTransaction, seq: int, now_unix_s: float) -> str:
    """Make that nobody finds it any more; the folder of its blobs, empty when that is not known."""
    forget_reader(txn, seq, cursors=True)
    try:
        row = store.get(txn, seq)
    except StorageCorruptError as error:
        log.warning("a workflow whose time is over is removed, though damaged: %s", error)
        store.unlist_damaged(txn, seq)
        row = None
    else:
        # None where it was deleted while it was damaged.
        if row is not None:
            store.unlist(txn, row, now_unix_s)
    return "" if row is None else row.nonce


def _sweep(txn: WriteTransaction, seq: int, limit: int) -> int:
    """Remove rows under the number of a workflow; how many, and `limit` when there may be more."""
    count = 0
    for prefix in layout.rows_of(seq):
        for key, _ in txn.scan(prefix):
            if count >= limit:
                return limit
            txn.delete(key)
            count += 1
    return count


def _due(txn: ReadTransaction, retention: Retention, now_unix_s: float, limit: int) -> list[bytes]:
    """Where workflows whose time is over stand in the index, at most `limit`."""
    found: dict[bytes, None] = {}
    if retention.keep_s is not None:
        before_unix_s = now_unix_s - max(retention.keep_s, LEAST_AGE_S)
        for ended_unix_s, _, key in heapq.merge(*(_ended(txn, status) for status in (*_OVER, WorkflowStatus.FAILED))):
            if ended_unix_s > before_unix_s or len(found) >= limit:
                break
            if not _is_to_be_read(txn, layout.last_part(key)):
                found[key] = None
    if retention.keep is not None:
        surplus = sum(store.count(txn, status) for status in _OVER) - retention.keep
        for ended_unix_s, _, key in heapq.merge(*(_ended(txn, status) for status in _OVER)):
            # Those that go by their age are among the oldest, and counted here too.
            if surplus <= 0 or ended_unix_s > now_unix_s - LEAST_AGE_S or len(found) >= limit:
                break
            if not _is_to_be_read(txn, layout.last_part(key)):
                found[key] = None
            surplus -= 1
    return list(found)


def _is_to_be_read(txn: ReadTransaction, seq: int) -> bool:
    """Whether a call of a virtual actor waits for the value of this workflow, with which it went on."""
    try:
        row = store.get(txn, seq)
        actor_id = None if row is None else row.user_metadata.get(OF_ACTOR)
        actor = actor_store.seq_of(txn, actor_id) if isinstance(actor_id, str) else None
        if row is None or actor is None or not isinstance(actor_id, str):
            return False
        number = actor_store.call_of_name(txn, actor, row.workflow_id[len(actor_id) + 1 :])
        call = None if number is None else actor_store.get_call(txn, actor, number)
    except (StorageCorruptError, *UNREADABLE) as error:
        log.warning("retention.waiting_call_unknown workflow_seq=%d error=%s: it may be removed", seq, error)
        return False
    return isinstance(call, QueuedCall) and call.continues is not None and call.continues.nonce == row.nonce


def _ended(txn: ReadTransaction, status: WorkflowStatus) -> Iterator[tuple[float, int, bytes]]:
    """(end, number, key) of the workflows that ended so, the oldest first."""
    return ((*layout.read_ended(key), key) for key, _ in txn.scan(layout.ended(status.value)))
