"""The index of due times, read: what is due, and when to look next.

Timers are set and cleared by the records of runs (`workflow_store`).
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.graph import TaskIndex
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def timers(txn: ReadTransaction) -> Iterator[tuple[float, int, TaskIndex]]:
    """(due time, workflow, task) of every timer, the earliest first: whoever reads on decides when it is enough."""
    for key, _ in txn.scan(layout.TIMERS):
        micros, seq, index = layout.read_timer(key)
        yield micros / 1e6, seq, index


def has_timer(txn: ReadTransaction, due_unix_s: float, seq: int, index: TaskIndex) -> bool:
    """Whether a timer is set still."""
    return txn.get(layout.timer(due_unix_s, seq, index)) is not None


def due_timers(txn: ReadTransaction, now_unix_s: float, limit: int) -> list[tuple[float, int, TaskIndex]]:
    """(due time, workflow, task) of timers whose time has come, the earliest first."""
    due: list[tuple[float, int, TaskIndex]] = []
    for timer in timers(txn):
        if timer[0] > now_unix_s or len(due) >= limit:
            break
        due.append(timer)
    return due


def next_due(txn: ReadTransaction) -> float | None:
    """When the earliest timer is due, in seconds since the epoch; None when there is none."""
    first = next(timers(txn), None)
    return None if first is None else first[0]


def drop_timer(txn: WriteTransaction, due_unix_s: float, seq: int, index: TaskIndex) -> None:
    """Remove a timer that nobody waits for, or whose wake-up is written in the same transaction."""
    txn.delete(layout.timer(due_unix_s, seq, index))
