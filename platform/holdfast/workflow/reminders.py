"""Reminders: calls that a virtual actor gets at times, each time once.

It checks what users give and hands it over. When a reminder is due is said
elsewhere; nothing here waits.
"""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any, Literal

from holdfast.actors.client import fetch
from holdfast.actors.storage_access import portable
from holdfast.actors.values import dump
from holdfast.actors.virtual import client
from holdfast.actors.virtual.context import current_call, request_nonce
from holdfast.actors.virtual.definition import ActorDefinition, definition_of
from holdfast.actors.virtual.operations import CancelReminder, ReminderChange, SetReminder
from holdfast.engine.errors import ResultNotStoredError
from holdfast.engine.given_numbers import check_number
from holdfast.engine.virtual_actor_errors import VirtualActorNotFoundError
from holdfast.listeners.schedule_triggers import Timing
from holdfast.workflow.api import with_platform
from holdfast.workflow.schedules import checked_catch_up, checked_overlap
from holdfast.workflow.virtual_actors import VirtualActorHandle

__all__ = ["cancel_reminder", "list_reminders", "remind"]

_LONGEST_NAME = 900


def remind(
    actor: Any,
    method: str,
    *args: Any,
    after_s: float | None = None,
    at: datetime | float | None = None,
    every_s: float | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    overlap: Literal["skip", "queue", "allow", "replace"] = "skip",
    catch_up_s: float | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> None:
    """Have a virtual actor's method called at times.

    Args:
        actor: A handle; or, in one of its own methods, `self`.
        method: Name of the method.
        *args: Its arguments.
        after_s: Once, so many seconds from now.
        at: Once: a `datetime` with a time zone, or seconds since the epoch.
        every_s: Again and again: seconds from one time to the next, 0.1 at least.
        cron: Again and again: five fields, as for `workflow.schedule`.
        timezone: Name of the time zone in which `cron` is read.
        overlap: What becomes of a time while a call of an earlier one waits in the mailbox: it makes none ("skip"), one
            as well ("queue"; "allow" is the same, as an actor runs one call at a time), or one in place of that
            ("replace"). A reminder with a single time makes its call whatever is given here.
        catch_up_s: How long ago a time may be to make a call of its own, 10 at least; older ones are missed. When not
            given, times that came while nothing ran make one call together.
        name: Of the reminder; default: the method's. One of the same name takes the place of the one before.
        **kwargs: Its arguments by name.

    Raises:
        TypeError, ValueError: Names the value and the fix.
        AttributeError: There is no such method.
        VirtualActorNotFoundError: There is no such actor.

    Semantics: no time makes its call twice, whatever crashes. By a handle the reminder is durable when this returns. By
    `self` it is set when the method takes effect, and not at all when the method raises.
    """
    definition = _definition(actor)
    found = definition.method(method)
    if found.readonly:
        raise TypeError(f"a reminder of the read-only method {method!r} would do nothing: give one that may write")
    definition.check_call(method, args, kwargs)
    objects: dict[str, Any] = {}
    arguments = portable(dump((args, kwargs), objects=objects, where=f"the arguments of reminder {method!r}"))
    if objects:
        raise ResultNotStoredError("an ObjectRef is among the arguments of a reminder", "Give the value itself.")
    if after_s is not None:
        after_s = check_number("after_s", after_s)
        if at is not None or every_s is not None or cron is not None:
            raise ValueError("give exactly one of after_s=, at=, every_s= and cron= for a reminder")
    timing = None if after_s is not None else Timing.of(cron=cron, every_s=every_s, at=at, timezone=timezone)
    back_s = None if catch_up_s is None else checked_catch_up(catch_up_s)
    if back_s is not None and timing is not None and timing.at_unix_s is not None:
        ago_s = time.time() - timing.at_unix_s
        if ago_s > back_s:
            raise ValueError(
                f"at={at!r} is {ago_s:.0f} s ago and would be missed: give a time that is to come, "
                f"or catch_up_s={math.ceil(ago_s) + 60}"
            )
    change = SetReminder(
        name=_checked_name(method if name is None else name),
        method=method,
        arguments=arguments,
        nonce=request_nonce(f"reminder {name}"),
        timing=timing,
        after_s=after_s,
        overlap=checked_overlap(overlap),
        catch_up_s=back_s,
    )
    _change(actor, change)


def cancel_reminder(actor: Any, name: str) -> None:
    """Make no more calls by a reminder.

    Args:
        actor: As for `remind`.
        name: Of the reminder.

    Raises:
        ReminderNotFoundError: By a handle: there is none of this name.

    Semantics: a call that has been made already stays in the mailbox. By `self` it is done when the method takes
    effect.
    """
    _definition(actor)
    _change(actor, CancelReminder(name=_checked_name(name)))


def list_reminders(actor: VirtualActorHandle) -> list[dict[str, Any]]:
    """The reminders of an actor, by when they are due.

    Args:
        actor: Its handle.

    Returns:
        Of each `name`, `method`, `next_due_unix_s` (seconds since the epoch), `fired` (how many calls it has made),
        `overlap`, `catch_up_s`, `skipped` (how many times `overlap` did without) and `missed_until_unix_s` (times until
        then were too long ago; None for none).

    Raises:
        VirtualActorNotFoundError: There is no such actor.
    """
    actor_id = actor.actor_id
    found = with_platform(lambda platform: fetch(platform.management.virtual_actor_reminders.remote(actor_id)))
    if found is None:
        raise VirtualActorNotFoundError(actor_id)
    return [
        {
            "name": one.name,
            "method": one.method,
            "next_due_unix_s": one.next_due_unix_s,
            "fired": one.fired,
            "overlap": one.overlap.value,
            "catch_up_s": one.catch_up_s,
            "skipped": one.skipped,
            "missed_until_unix_s": one.missed_until_unix_s,
        }
        for one in found
    ]


def _definition(actor: Any) -> ActorDefinition:
    if isinstance(actor, VirtualActorHandle):
        return actor.definition
    call = current_call()
    if "__virtual_actor__" not in vars(type(actor)):
        raise TypeError(f"a reminder is for a virtual actor: give its handle, or self in its methods, not {actor!r}")
    if call is None or call.number < 0:
        raise RuntimeError("self can be given in a method that may write, while it runs; elsewhere give the handle")
    cls: type = type(actor)
    return definition_of(cls)


def _change(actor: Any, change: ReminderChange) -> None:
    if isinstance(actor, VirtualActorHandle):
        place = actor.place
        asked = ("change_reminder", place.actor_id, change, place.class_name)
        with_platform(lambda platform: client.ask(platform, place, *asked))
        return
    call = current_call()
    assert call is not None
    call.reminders.append(change)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a reminder's name must be a non-empty string, not {name!r}")
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"a reminder's name has at most {_LONGEST_NAME} bytes: {name[:40]!r}...")
    return name
