"""When the reminders of virtual actors call, and what they call.

A time becomes one call because the mailbox's row and the next time are written in one transaction. Times are computed
from the one before, so they are the same in every host; nothing here reads a clock.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from holdfast.actors.virtual.operations import CancelReminder, ReminderChange, SetReminder
from holdfast.engine.schedules import Overlap, last_until
from holdfast.engine.virtual_actor_errors import ReminderNotFoundError
from holdfast.engine.virtual_actor_records import CallSpec
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import actor_reminders
from holdfast.storage.actor_row import Reminder
from holdfast.storage.interface import WriteTransaction

HOLD_S = 5.0
"""A reminder whose call is not taken (the mailbox is full, the actor is quarantined) is tried again so much later."""

EACH_S = 10.0
"""Where each time has a call: those of longer ago have one together, unless it was said how far back each counts."""

_MICROSECOND = 1e-6

log = logging.getLogger("holdfast")


def change_reminder(
    txn: WriteTransaction, seq: int, change: ReminderChange, now_unix_s: float, actor_id: str = ""
) -> float | None:
    """Set or cancel a reminder.

    Args:
        txn: The caller's.
        seq: The actor.
        change: What to do.
        now_unix_s: The time; intervals are counted from it.
        actor_id: The actor's id, where one who cancels is to be told that there is nothing to cancel.

    Returns:
        When it is due; None when there is nothing due.

    Raises:
        ReminderNotFoundError: There is none of this name, and `actor_id` is given.
    """
    known = actor_reminders.find(txn, seq, change.name)
    if isinstance(change, CancelReminder):
        if known is not None:
            actor_reminders.drop(txn, seq, known)
        elif actor_id:
            raise ReminderNotFoundError(actor_id, change.name)
        return None
    if known is not None and known.nonce == change.nonce:
        return known.next_due_unix_s
    timing = _timing(change, now_unix_s)
    due = timing.at_unix_s if timing.at_unix_s is not None else timing.next_after(now_unix_s)
    if due is None:
        # A cron text that has no time left in any calendar.
        if known is not None:
            actor_reminders.drop(txn, seq, known)
        return None
    reminder = Reminder(
        name=change.name,
        method=change.method,
        timing=timing.to_json(),
        next_due_unix_s=due,
        nonce=change.nonce,
        arguments=change.arguments,
        options=change.options,
        created_unix_s=now_unix_s,
        overlap=change.overlap,
        catch_up_s=change.catch_up_s,
    )
    actor_reminders.save(txn, seq, reminder, was=known)
    return due


def _timing(change: SetReminder, now_unix_s: float) -> Timing:
    if change.after_s is not None:
        return Timing(at_unix_s=now_unix_s + change.after_s)
    assert change.timing is not None
    return change.timing.anchored(now_unix_s)


def pass_over(txn: WriteTransaction, seq: int, reminder: Reminder, now_unix_s: float) -> None:
    """Move a reminder to the first time that makes a call of its own, where several have passed.

    Semantics: with `catch_up_s` times that are longer ago are missed. Without it they are as one, the last of them:
    all that have passed when only one call may wait, those of more than `EACH_S` ago when each has a call.
    """
    next_after = Timing.from_json(reminder.timing).next_after
    first, missed_until = reminder.next_due_unix_s, reminder.missed_until_unix_s
    due: float | None = first
    if reminder.catch_up_s is not None:
        oldest = now_unix_s - reminder.catch_up_s
        if first < oldest:
            # From just before it: a time that is as long ago as allowed is not missed.
            due, missed_until = next_after(max(first, oldest - _MICROSECOND)), oldest
    else:
        each_has_a_call = reminder.overlap in (Overlap.QUEUE, Overlap.ALLOW)
        until = now_unix_s - (EACH_S if each_has_a_call else 0.0)
        due = last_until(first, until, next_after) if first < until else first
    if due == first:
        return
    if due is None:
        log.warning("reminder.dropped name=%s due_unix_s=%s: it was due too long ago", reminder.name, first)
        actor_reminders.drop(txn, seq, reminder)
        return
    moved = replace(reminder, next_due_unix_s=due, missed_until_unix_s=missed_until)
    actor_reminders.save(txn, seq, moved, was=reminder)


def repeats(reminder: Reminder) -> bool:
    """Whether a reminder has more than one time; the only time of one always makes its call."""
    return Timing.from_json(reminder.timing).at_unix_s is None


def take_due(
    txn: WriteTransaction, seq: int, reminder: Reminder, *, called: bool = True, skipped: int = 0
) -> float | None:
    """Move a reminder from the time that is due to the next one.

    Args:
        txn: The caller's.
        seq: The actor.
        reminder: As it is in the store.
        called: Whether the time made a call.
        skipped: How many calls there are not, because of others.

    Returns:
        The next time; None when that was the last, and the reminder is gone.
    """
    due = Timing.from_json(reminder.timing).next_after(reminder.next_due_unix_s)
    if due is None:
        actor_reminders.drop(txn, seq, reminder)
        return None
    moved = replace(
        reminder,
        next_due_unix_s=due,
        fired=reminder.fired + called,
        skipped=reminder.skipped + skipped,
        held_until_unix_s=0.0,
    )
    actor_reminders.save(txn, seq, moved, was=reminder)
    return due


def origin_of(reminder: Reminder) -> str:
    """Give the origin that the calls of a reminder bear."""
    return f"reminder {reminder.name}"


def reminder_call(seq: int, reminder: Reminder) -> CallSpec:
    """The call of the time that is due: the same, with the same mark, however often it is made."""
    about = f"reminder {seq} {reminder.name} {reminder.nonce} {reminder.next_due_unix_s!r}"
    return CallSpec(
        method=reminder.method,
        nonce=hashlib.blake2b(about.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(),
        arguments=reminder.arguments,
        options=reminder.options,
        origin=origin_of(reminder),
        lent=True,
    )
