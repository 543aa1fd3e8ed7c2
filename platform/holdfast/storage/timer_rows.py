"""The index of due times, read: what is due, and when to look next.

Timers are set and cleared by the records of runs (`workflow_store`).
"""

from __future__ import annotations

from holdfast.engine.graph import TaskIndex
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def due_timers(txn: ReadTransaction, now_unix_s: float, limit: int) -> list[tuple[float, int, TaskIndex]]:
    """(due time, workflow, task) of timers whose time has come, the earliest first."""
    due: list[tuple[float, int, TaskIndex]] = []
    for key, _ in txn.scan(layout.TIMERS):
        micros, seq, index = layout.read_timer(key)
        if micros > now_unix_s * 1e6 or len(due) >= limit:
            break
        due.append((micros / 1e6, seq, index))
    return due


def next_due(txn: ReadTransaction) -> float | None:
    """When the earliest timer is due, in seconds since the epoch; None when there is none."""
    first = next(txn.scan(layout.TIMERS), None)
    return None if first is None else layout.read_timer(first[0])[0] / 1e6


def drop_timer(txn: WriteTransaction, due_unix_s: float, seq: int, index: TaskIndex) -> None:
    """Remove a timer that nobody waits for, or whose wake-up is written in the same transaction."""
    txn.delete(layout.timer(due_unix_s, seq, index))
