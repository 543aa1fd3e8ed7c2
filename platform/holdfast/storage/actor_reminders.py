"""Reminders of virtual actors as rows, and the index of the times at which actors are to be looked at.

One row of the index for each reminder, written with it. The index also has the times of calls that are tried again,
which records set and clear (`actor_store`). Nothing is decided here, and no time is computed.
"""

from __future__ import annotations

from holdfast.storage import layout
from holdfast.storage.actor_codec import decode_reminder, encode_reminder
from holdfast.storage.actor_row import Reminder
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def find(txn: ReadTransaction, seq: int, name: str) -> Reminder | None:
    """The reminder of a name; None when the actor has none."""
    raw = txn.get(layout.reminder(seq, name))
    return None if raw is None else decode_reminder(raw)


def list_reminders(txn: ReadTransaction, seq: int) -> list[Reminder]:
    """The reminders of an actor, by when they are due."""
    found = (decode_reminder(raw) for _, raw in txn.scan(layout.reminder(seq)))
    return sorted(found, key=lambda reminder: (reminder.next_due_unix_s, reminder.name))


def save(txn: WriteTransaction, seq: int, reminder: Reminder, *, was: Reminder | None) -> None:
    """Write a reminder, and when it is due; `was` is what is in the store, None for nothing."""
    if was is not None:
        txn.delete(layout.actor_due(was.look_unix_s, seq, was.name))
    txn.put(layout.actor_due(reminder.look_unix_s, seq, reminder.name), b"")
    txn.put(layout.reminder(seq, reminder.name), encode_reminder(reminder))


def drop(txn: WriteTransaction, seq: int, reminder: Reminder) -> None:
    """Remove a reminder."""
    txn.delete(layout.actor_due(reminder.look_unix_s, seq, reminder.name))
    txn.delete(layout.reminder(seq, reminder.name))


def due_actors(txn: ReadTransaction, now_unix_s: float, limit: int) -> list[int]:
    """Numbers of the actors that are to be looked at by now, the longest due first, each once.

    Args:
        txn: The transaction.
        now_unix_s: The time.
        limit: How many rows of the index to look at.
    """
    found: dict[int, None] = {}
    for key, _ in txn.scan(layout.ACTORS_DUE):
        micros, seq, _ = layout.read_actor_due(key)
        if micros > now_unix_s * 1e6 or limit <= 0:
            break
        limit -= 1
        found[seq] = None
    return list(found)


def next_due(txn: ReadTransaction) -> float | None:
    """When an actor is to be looked at next, in seconds since the epoch; None when there is none."""
    first = next(txn.scan(layout.ACTORS_DUE), None)
    return None if first is None else layout.read_actor_due(first[0])[0] / 1e6


def forget_due(txn: WriteTransaction, seq: int, now_unix_s: float) -> None:
    """Remove what is due by now of an actor that is not there any more."""
    for key, _ in txn.scan(layout.ACTORS_DUE):
        micros, other, _ = layout.read_actor_due(key)
        if micros > now_unix_s * 1e6:
            break
        if other == seq:
            txn.delete(key)
