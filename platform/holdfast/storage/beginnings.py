"""Fixes where the reading of a source begins, before the first request for it is accepted.

What was there before is older than those who are accepted after that, whatever the times say that its messages bear.
Nothing here knows what a source is read by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import event_store, layout
from holdfast.storage.event_store import Source
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.workflow_store import list_by_ids, list_seqs


def has_begun(txn: ReadTransaction, name: str) -> bool:
    """Whether it is fixed where the reading of a source begins."""
    source = event_store.find_source(txn, name)
    if source is None:
        return False
    return source.absent or next(txn.scan(layout.position(source.number)), None) is not None


def ask_for(txn: WriteTransaction, name: str, *, decoded: bool) -> bool:
    """Note that a source is to be read, for a request that is about to be accepted. Again: no effect.

    Args:
        txn: The transaction.
        name: The source.
        decoded: Whether whoever asks reads decoded values.

    Returns:
        Whether to wait until it is fixed where to begin: not when it is, nor when that was waited for in vain.
    """
    source, _ = event_store.need_source(txn, name, oldest_unix_s(txn), decoded=decoded)
    return not source.late and not has_begun(txn, name)


def oldest_unix_s(txn: ReadTransaction) -> float | None:
    """Find when the oldest workflow was submitted that may still ask for any source; None for none."""
    since: float | None = None
    for status in (WorkflowStatus.RUNNING, WorkflowStatus.PENDING, WorkflowStatus.RESUMABLE):
        for oldest in list_by_ids(txn, list_seqs(txn, status, limit=1)):
            since = oldest.submitted_unix_s if since is None else min(since, oldest.submitted_unix_s)
    return since


def note_absent(txn: WriteTransaction, names: Sequence[str]) -> None:
    """Note sources that are asked for and do not exist yet: once they do, they are read from their beginning."""
    for source in _not_begun(txn, names):
        event_store.save_source(txn, replace(source, absent=True))


def note_late(txn: WriteTransaction, names: Sequence[str], now_unix_s: float) -> None:
    """Note sources whose beginning was not fixed in time: the timestamps of messages decide it."""
    for source in _not_begun(txn, names):
        since_unix_s = now_unix_s if source.since_unix_s is None else source.since_unix_s
        event_store.save_source(txn, replace(source, late=True, since_unix_s=since_unix_s))


def _not_begun(txn: ReadTransaction, names: Sequence[str]) -> list[Source]:
    found = (event_store.find_source(txn, name) for name in names)
    return [source for source in found if source is not None and not has_begun(txn, source.name)]
