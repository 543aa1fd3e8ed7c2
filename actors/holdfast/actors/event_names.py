"""Which workflow, or which virtual actor, an event is for, by the template or the function of a subscription.

Templates are filled in here. A function of the user's is asked in a process of
the user's environment; no user code runs here. Who must not be kept waiting
asks only functions that have been loaded there, and not for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ray.exceptions import RayError

from holdfast.actors.ray_launch import Launcher
from holdfast.engine.errors import NotJsonError
from holdfast.engine.selectors import parse_selector
from holdfast.listeners.forms import payload_of
from holdfast.storage.event_store import IncomingEvent, json_fields
from holdfast.storage.strict_json import parse_accepted
from holdfast.storage.subscriptions import Subscription

log = logging.getLogger("holdfast")

PATIENCE_S = 1.0
"""So long a function is waited for by whoever must not be kept waiting."""

STARTING_S = 10.0
"""So long such a function's process may take to start, and the function to be loaded there."""

_LEFT_ALONE_S = 10.0
_LONGEST_ID_BYTES = 1024


class EventNames:
    """Says which ids events lead to.

    Args:
        launcher: Knows the processes of the users' environments.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        # Functions (environment, hash) that are loaded; those that are left alone, and until when.
        self._loaded: set[tuple[str, str]] = set()
        self._left_alone_s: dict[tuple[str, str], float] = {}

    async def ids(self, rule: Subscription, events: Sequence[IncomingEvent]) -> Sequence[str | Exception]:
        """The id that each event leads to, or what is wrong with it.

        Raises:
            RayError: The process that names them failed.
        """
        if not events:
            return []
        what = "workflow_id=" if rule.actor is None else "actor_id="
        if not rule.id_function:
            return [_from_template(what, rule.id_template, event) for event in events]
        return [_checked(what, one) for one in await self._ask(what, rule, events)]

    async def get_ready(self, rules: Iterable[Subscription]) -> None:
        """Have the functions of rules loaded, so that `ids_soon` can ask them. Takes `STARTING_S` at most."""
        missing = {self._function(rule): rule for rule in rules if rule.id_function}
        now_s = time.monotonic()
        waiting = [
            self._load(function, rule)
            for function, rule in missing.items()
            if function not in self._loaded and self._left_alone_s.get(function, 0.0) <= now_s
        ]
        await asyncio.gather(*waiting)

    async def ids_soon(self, rule: Subscription, events: Sequence[IncomingEvent]) -> Sequence[str | Exception]:
        """As `ids`, if it can be had within `PATIENCE_S`; else nothing."""
        function = self._function(rule)
        if rule.id_function and function not in self._loaded:
            return []
        try:
            return await asyncio.wait_for(self.ids(rule, events), PATIENCE_S)
        except (RayError, asyncio.TimeoutError) as error:
            self._leave_alone(rule, error)
            return []

    async def _load(self, function: tuple[str, str], rule: Subscription) -> None:
        try:
            await asyncio.wait_for(self._ask("", rule, []), STARTING_S)
        except (RayError, asyncio.TimeoutError) as error:
            self._leave_alone(rule, error)
        else:
            self._loaded.add(function)

    def _leave_alone(self, rule: Subscription, error: Exception) -> None:
        log.info("who events are for is asked later subscription=%s reason=%r", rule.name, error)
        self._loaded.discard(self._function(rule))
        self._left_alone_s[self._function(rule)] = time.monotonic() + _LEFT_ALONE_S

    @staticmethod
    def _function(rule: Subscription) -> tuple[str, str]:
        return rule.environment, rule.id_function

    async def _ask(self, what: str, rule: Subscription, events: Sequence[IncomingEvent]) -> list[Any]:
        host = self._launcher.listener_host(rule.environment)
        messages = [payload_of(event.note, event.key, event.value) for event in events]
        made: list[Any] = await host.ids_of.remote(self._launcher.address, what, rule.id_function, messages)
        return made


def selected(rule: Subscription, events: Iterable[IncomingEvent]) -> list[IncomingEvent]:
    """Those of the events of a rule's source that the rule is for."""
    selector = parse_selector(rule.selector)
    return [
        event
        for event in events
        if selector.matches(event.key, json_fields(event), undecodable=event.undecodable)
        and not (event.before_use and event.time_unix_s < rule.created_unix_s)
    ]


def template_fields(event: IncomingEvent) -> dict[str, Any]:
    """What a template of workflow ids can name: `event_id`, `key`, `value` and what the source notes of an event."""
    fields: dict[str, Any] = {**event.note, "event_id": event.dedupe_id}
    if event.key is not None:
        fields["key"] = event.key.decode(errors="backslashreplace")
    if event.value is not None and not event.undecodable:
        try:
            fields["value"] = parse_accepted(event.value)
        except NotJsonError:
            fields["value"] = event.value.decode(errors="backslashreplace")
    return fields


def _from_template(what: str, template: str, event: IncomingEvent) -> str | Exception:
    try:
        return _checked(what, template.format_map(template_fields(event)))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return ValueError(f"{what}{template!r} does not fit this event: {type(error).__name__}: {error}")


def _checked(what: str, made: Any) -> str | Exception:
    if isinstance(made, Exception):
        return made
    if not isinstance(made, str) or not 0 < len(made.encode("utf-8", "surrogatepass")) <= _LONGEST_ID_BYTES:
        return ValueError(f"{what} must give a string of 1 to {_LONGEST_ID_BYTES} bytes, not {made!r:.200}")
    return made
