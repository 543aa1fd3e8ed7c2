"""Which blobs of a virtual actor some row names, and the removal of those that none does.

A blob is written before the row that names it: a host that dies in between leaves one behind, as does a call that is
refused or an attempt that nobody waits for any more. Only blobs whose names the store gave are looked at: those with
names of their own are contents of ObjectRefs, which arguments and states may refer to, and go with the actor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from holdfast.engine.errors import StorageCorruptError, StorageError
from holdfast.engine.virtual_actor_records import FinishedCall, QueuedCall
from holdfast.storage import actor_reminders, actor_store
from holdfast.storage.actor_row import ActorRow, ActorState
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import ReadTransaction
from holdfast.storage.record_codec import UNREADABLE, Blob, Referring

log = logging.getLogger("holdfast")


def collect_actor_blobs(folder: StorageFolder, seq: int, before_unix_s: float) -> int:
    """Remove the blobs of an actor that no row names, and what writers that died have left unfinished.

    Args:
        folder: The storage folder.
        seq: The actor; one that has been deleted has none.
        before_unix_s: Only what was written before, in seconds since the epoch. No process may have then had in memory
            what it had not written to a row, and still have it.

    Returns:
        How many files were removed. No blob where a row cannot be read: it may name any of them.
    """
    with folder.kv.read() as txn:
        try:
            row = actor_store.get(txn, seq)
        except StorageCorruptError as error:
            log.error("blobs of a virtual actor are not looked through: %s", error)
            return 0
    if row is None:
        return 0
    unfinished = folder.blobs.clear_unfinished(row.nonce)
    return unfinished + sum(map(folder.blobs.delete, _unnamed(folder, row, before_unix_s)))


def find_left_behind(folder: StorageFolder, before_unix_s: float) -> Iterator[ActorRow]:
    """The actors that have blobs that no row names.

    Args:
        folder: The storage folder.
        before_unix_s: Only what was written before, in seconds since the epoch.

    Semantics: what some host has in memory, and has not written to a row yet, is taken for such a blob, too. Removes
        what writers that died have left unfinished, and nothing else. What cannot be looked at is logged and left out.
    """
    for group in folder.blobs.groups():
        try:
            with folder.kv.read() as txn:
                seq = actor_store.of_blob_group(txn, group)
                row = None if seq is None else actor_store.get(txn, seq)
            if row is None:
                continue
            folder.blobs.clear_unfinished(group)
            if _unnamed(folder, row, before_unix_s):
                yield row
        except StorageError as error:
            log.error("blobs of a virtual actor are not looked through: %s", error)


def _unnamed(folder: StorageFolder, row: ActorRow, before_unix_s: float) -> list[str]:
    """Keys of an actor's blobs that no row names; none where a row cannot be read."""
    # Listed before the rows are read: what is written meanwhile is younger, or named by then.
    old = folder.blobs.unnamed(row.nonce, before_unix_s)
    if not old:
        return []
    with folder.kv.read() as txn:
        try:
            found = actor_store.get(txn, row.seq)
            named = set() if found is None else set(named_blobs(txn, found))
        except UNREADABLE as error:
            log.error("blobs of virtual actor number %d are not looked through: %s", row.seq, error)
            return []
    return [key for key in old if key not in named]


def collect_all(folder: StorageFolder, seqs: Iterable[int], before_unix_s: float) -> None:
    """As `collect_actor_blobs`, for several actors; what cannot be done is logged, and is done another time."""
    for seq in seqs:
        try:
            removed = collect_actor_blobs(folder, seq, before_unix_s)
        except StorageError as error:
            log.error("blobs of virtual actor number %d are not looked through: %s", seq, error)
            continue
        if removed:
            log.info("garbage collected seq=%d removed=%d", seq, removed)


def named_blobs(txn: ReadTransaction, row: ActorRow) -> Iterator[str]:
    """Keys of the blobs that rows of an actor name; those of its sub-workflows too, which lie elsewhere.

    Raises:
        StorageCorruptError, LookupError, ValueError, TypeError, AttributeError, EOFError: A row is damaged.
    """
    standing = row.standing
    if isinstance(standing.state, ActorState):
        yield from _key_of(standing.state.base)
    yield from _key_of(standing.error)
    for queued in actor_store.load_calls(txn, row.seq):
        yield from _of_call(queued)
    for ended in actor_store.all_ended_calls(txn, row.seq):
        yield from _of_call(ended)
    for reminder in actor_reminders.list_reminders(txn, row.seq):
        yield from _key_of(reminder.arguments)


def _of_call(call: QueuedCall | FinishedCall) -> Iterator[str]:
    if isinstance(call, QueuedCall):
        yield from _key_of(call.spec.arguments)
        return
    if call.outcome.value is not None:
        yield from _key_of(call.outcome.value.base)
    yield from _key_of(call.outcome.error)


def _key_of(stored: Any) -> Iterator[str]:
    if isinstance(stored, Referring):
        stored = stored.base
    if isinstance(stored, Blob):
        yield stored.key
