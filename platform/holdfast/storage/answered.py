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


def forget_answers(txn: WriteTransaction, before_unix_s: float, after: bytes, limit: int) -> tuple[bytes | None, int]:
    """Remove answers that nobody can ask for again, a page at a time.

    Args:
        txn: The caller's.
        before_unix_s: Those given before this time, in seconds since the epoch.
        after: Where to go on, as the page before this one returned it; empty to begin.
        limit: How many to look at.

    Returns:
        (where to go on; None at the end, how many were removed).
    """
    rows = txn.scan(layout.ANSWERS, start=layout.ANSWERS + after)
    removed = 0
    for key, raw in islice(rows, limit):
        if orjson.loads(raw)[2] < before_unix_s:
            removed += txn.delete(key)
    following = next(rows, None)
    return (None if following is None else following[0][len(layout.ANSWERS) :]), removed
