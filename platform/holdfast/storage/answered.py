"""Answers of requests that may be made again: Ray repeats a call when the process dies in it.

An answer is written with what it tells of, and found by the mark (nonce) that
the request bears. They are forgotten when nobody can ask again.
"""

from __future__ import annotations

from itertools import islice

import orjson

from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def find_answer(txn: ReadTransaction, nonce: str) -> tuple[int, WorkflowStatus] | None:
    """(workflow, status) that a request was answered with; None when it is a new one."""
    raw = txn.get(layout.answer(nonce))
    if raw is None:
        return None
    seq, status, _ = orjson.loads(raw)
    return seq, WorkflowStatus(status)


def save_answer(txn: WriteTransaction, nonce: str, seq: int, status: WorkflowStatus, now_unix_s: float) -> None:
    """Keep the answer of a request, for its repetition."""
    txn.put(layout.answer(nonce), orjson.dumps([seq, status.value, now_unix_s]))


def forget_all_answers(txn: WriteTransaction) -> None:
    """Nobody is left who could ask again."""
    txn.delete_prefix(layout.ANSWERS)


def forget_answers(txn: WriteTransaction, before_unix_s: float, after: bytes, limit: int) -> tuple[bytes | None, int]:
    """Remove answers, and marks of submissions whose workflow was deleted, that nobody can ask for again.

    Args:
        txn: The caller's.
        before_unix_s: Those given before this time, in seconds since the epoch.
        after: Where to go on, as the call before this one returned it; empty to begin.
        limit: How many to look at.

    Returns:
        (where to go on; None at the end, how many were removed).
    """
    removed = 0
    for prefix in sorted((layout.ANSWERS, layout.DELETED)):
        if after > prefix and not after.startswith(prefix):
            continue
        rows = txn.scan(prefix, start=max(after, prefix))
        for key, raw in islice(rows, limit):
            limit -= 1
            if orjson.loads(raw)[-1] < before_unix_s:
                removed += txn.delete(key)
        following = next(rows, None)
        if following is not None:
            return following[0], removed
    return None, removed
