"""Has the hosts of virtual actors make the calls of events, from the process that reads a source.

Events of one actor go to its host together, in their order, and none of them is
taken before the one before it. What an actor does not take now waits with all
that come after it; what it will not take is told apart. No user code runs here,
and nothing is written: hosts do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.event_starter import Called
from holdfast.actors.virtual.operations import ActorOutcome, CallFrom, OtherHost
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.virtual_actor_errors import (
    IdTakenError,
    OtherClassError,
    VirtualActorNotFoundError,
    VirtualActorNotInitializedError,
    VirtualActorQuarantinedError,
)
from holdfast.storage.subscriptions import Subscription

log = logging.getLogger("holdfast")

_ROUNDS = 5
"""How often an actor's events are sent on within one try: hosts may be at giving it away."""

_FOR_GOOD = (
    IdTakenError,
    OtherClassError,
    StorageCorruptError,
    VirtualActorQuarantinedError,
)

_IF_IT_MAKES_NONE = (VirtualActorNotFoundError, VirtualActorNotInitializedError)

Waiting: TypeAlias = dict[str, list[int]]
"""Numbers of the events of each actor, in order."""


async def ask_host(host: str, calls: Sequence[CallFrom]) -> Sequence[ActorOutcome]:
    """What a host says of each call; it is made when it is not there yet.

    Args:
        host: Its name.
        calls: In order.

    Returns:
        One for each. Of a host that is being started again: for each that.
    """
    try:
        try:
            handle = ray.get_actor(host, namespace=names.NAMESPACE)
        except ValueError:
            management = ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE)
            await management.keep_virtual_host.remote(host)
            handle = ray.get_actor(host, namespace=names.NAMESPACE)
        outcomes: Sequence[ActorOutcome] = await handle.call_from.remote(calls)
    except (RayError, ValueError) as error:
        return [error] * len(calls)
    return outcomes


Ask: TypeAlias = Callable[[str, Sequence[CallFrom]], Awaitable[Sequence[ActorOutcome]]]


class EventCalls:
    """Calls the virtual actors of one platform.

    Args:
        hosts: How many hosts of a kind there are.
        ask: Has a host, by its name, make calls.
    """

    def __init__(self, hosts: int, ask: Ask = ask_host) -> None:
        self._hosts, self._ask_host = hosts, ask

    async def call(self, rule: Subscription, events: Sequence[tuple[int, str]]) -> Called:
        """Make the calls of some events.

        Args:
            rule: The rule, which has an actor.
            events: (number of the event, id of the actor), in the order of the events.

        Returns:
            What became of those that are not calls now.
        """
        assert rule.actor is not None, f"the rule {rule.name!r} starts workflows"
        waiting: Waiting = {}
        for number, actor_id in events:
            waiting.setdefault(actor_id, []).append(number)
        hosts = {one: names.virtual_host_for(one, rule.actor.host, self._hosts) for one in waiting}
        refused: dict[int, str] = {}
        held: dict[str, Any] = {}
        for _ in range(_ROUNDS):
            by_host: dict[str, Waiting] = {}
            for actor_id, numbers in waiting.items():
                by_host.setdefault(hosts[actor_id], {})[actor_id] = numbers
            outcomes = await asyncio.gather(*(self._ask(host, rule, asked) for host, asked in by_host.items()))
            for answered in outcomes:
                for actor_id, said in answered.items():
                    sent_on = self._sort(rule, actor_id, waiting.pop(actor_id), said, refused, held)
                    if sent_on is not None:
                        waiting[actor_id], hosts[actor_id] = sent_on
            if not waiting:
                break
        held |= dict.fromkeys(waiting, "its hosts disagree about whose it is")
        if held:
            log.warning(
                "events wait for virtual actors subscription=%s actors=%d first=%s reason=%s",
                rule.name,
                len(held),
                *next(iter(held.items())),
            )
        return Called(held=frozenset(held), refused=refused)

    @staticmethod
    def _sort(
        rule: Subscription,
        actor_id: str,
        numbers: list[int],
        said: Sequence[Any],
        refused: dict[int, str],
        held: dict[str, Any],
    ) -> tuple[list[int], str] | None:
        """Take note of what an actor's host said. Returns which events another host is to be asked about, and it."""
        assert len(said) == len(numbers)
        for place, outcome in enumerate(said):
            if isinstance(outcome, OtherHost):
                return numbers[place:], outcome.host
            if isinstance(outcome, _FOR_GOOD) or (not rule.creates and isinstance(outcome, _IF_IT_MAKES_NONE)):
                # None of these is about the event: those after it would be told the same.
                refused.update(dict.fromkeys(numbers[place:], str(outcome)))
                return None
            if isinstance(outcome, Exception):
                held[actor_id] = outcome
                return None
        return None

    async def _ask(self, host: str, rule: Subscription, asked: Waiting) -> dict[str, Sequence[Any]]:
        """What a host says of each event, by the actor."""
        calls = [
            CallFrom(subscription=rule.number, event=number, actor_id=actor_id, after=before)
            for actor_id, numbers in asked.items()
            for before, number in pairwise((0, *numbers))
        ]
        outcomes = await self._ask_host(host, calls)
        said: dict[str, list[Any]] = {actor_id: [] for actor_id in asked}
        for call, outcome in zip(calls, outcomes, strict=True):
            said[call.actor_id].append(outcome)
        return dict(said)
