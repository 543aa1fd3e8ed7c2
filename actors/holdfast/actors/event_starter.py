"""Starts workflows, and calls virtual actors, from the events that subscriptions select.

Lives in the process that reads a source. It finds out under which id each
event's workflow is to run, or which actor it calls, asking the user's function
for it in a process of the user's environment, and has an executor submit it, or
the actor's host take the call. Events wait as rows: one
that could not be started now is tried again, and one that never can becomes a
dead letter. No user code runs here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.event_names import EventNames, selected
from holdfast.actors.operations import Accepted, Elsewhere
from holdfast.actors.ray_launch import Launcher
from holdfast.engine.errors import HoldfastError
from holdfast.storage import dead_letters, subscriptions
from holdfast.storage.event_store import Addresses, IncomingEvent, StoredEvent
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import ReadTransaction
from holdfast.storage.subscriptions import Subscription, ToStart

log = logging.getLogger("holdfast")

AT_ONCE = 256
"""How many events are on their way to their executors at once, for one subscription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What became of events that were to be calls, and are none now.

    Attributes:
        held: Ids of actors that take no more for now: their events wait.
        refused: Number of an event -> why it will never be a call as things are.
    """

    held: frozenset[str] = frozenset()
    refused: Mapping[int, str] = field(default_factory=dict)


CallActors: TypeAlias = Callable[[Subscription, Sequence[tuple[int, str]]], Awaitable[Called]]
"""Has the hosts of actors take calls: the rule, and (number of the event, id of the actor) in the order of the events.
A host does it by `virtual.operations.CallFrom`."""


class EventStarter:
    """Starts what is to be started, in the order of the events.

    Args:
        folder: The storage folder.
        launcher: Knows the processes of the users' environments.
        executors: Names of the executors of the pool.
        sources: What the names of the sources begin with whose events are this process's business.
        call_actors: How actors are called; without it the events of their rules wait.
    """

    def __init__(
        self,
        folder: StorageFolder,
        launcher: Launcher,
        executors: Sequence[str],
        sources: str = "",
        call_actors: CallActors | None = None,
    ) -> None:
        self._folder, self._names, self._executors = folder, EventNames(launcher), tuple(executors)
        self._call_actors = call_actors
        self._sources = sources
        self._busy: set[int] = set()

    def backlog(self, limit: int) -> int:
        """How many events are yet to start a workflow; counted up to `limit`."""
        with self._folder.kv.read() as txn:
            numbers = self._own(txn)
            return sum(len(subscriptions.to_start(txn, number, limit=limit)) for number in numbers)

    async def get_ready(self) -> None:
        """Have the functions loaded that name actors, for as many events as possible to be addressed; takes seconds."""
        try:
            await self._names.get_ready(self._of_actors())
        except HoldfastError as error:
            log.warning("functions that name virtual actors are not loaded: %s", error)

    async def address(self, source: str, events: Sequence[IncomingEvent]) -> Addresses:
        """Which virtual actors events are for that are about to be taken in.

        Args:
            source: Name of their source.
            events: In order.

        Returns:
            What can be said in a moment. An event that is left out is asked about when it is to be a call.
        """
        addresses: dict[tuple[int, str], str] = {}
        try:
            rules = [rule for rule in self._of_actors() if rule.source == source] if events else []
            for rule in rules:
                chosen = selected(rule, events)
                for event, made in zip(chosen, await self._names.ids_soon(rule, chosen), strict=False):
                    if isinstance(made, str):
                        addresses[rule.number, event.dedupe_id] = made
        except HoldfastError as error:
            # A rule or an environment that cannot be read keeps no event out of the store.
            log.warning("who events are for is asked later source=%s: %s", source, error)
        return addresses

    def _of_actors(self) -> list[Subscription]:
        if self._call_actors is None:
            return []
        with self._folder.kv.read() as txn:
            return [rule for rule in self._rules(txn) if rule.actor is not None]

    async def start_all(self) -> bool:
        """Start what there is, for every subscription.

        Returns:
            Whether nothing is left; False when an executor, or the user's process, could not take it now.
        """
        with self._folder.kv.read() as txn:
            numbers = self._own(txn)
        return all(await asyncio.gather(*(self.start(number) for number in numbers)))

    def _rules(self, txn: ReadTransaction) -> list[Subscription]:
        return [rule for rule in subscriptions.list_subscriptions(txn) if rule.source.startswith(self._sources)]

    def _own(self, txn: ReadTransaction) -> list[int]:
        return [rule.number for rule in self._rules(txn) if rule.actor is None or self._call_actors is not None]

    async def start(self, subscription: int) -> bool:
        """Start what there is for one subscription; as `start_all`. Meanwhile called again, it leaves it to that."""
        if subscription in self._busy:
            return False
        self._busy.add(subscription)
        held: set[str] = set()
        after = 0
        try:
            while True:
                with self._folder.kv.read() as txn:
                    rule = subscriptions.get_subscription(txn, subscription)
                    waiting = subscriptions.to_start(txn, subscription, after=after, limit=AT_ONCE)
                if rule is None or not waiting:
                    return not held
                if rule.actor is None:
                    if not await self._start_some(rule, waiting):
                        return False
                elif not await self._call_some(rule, waiting, held):
                    return False
                if held:
                    # Those of other actors do not wait for an actor that takes none.
                    after = waiting[-1].event.number
        finally:
            self._busy.discard(subscription)

    async def _named(self, rule: Subscription, waiting: Sequence[ToStart]) -> list[tuple[int, str]] | None:
        """(number, id) of each event; what has none is set aside. None when nobody can say it now."""
        try:
            asked = iter(await self._names.ids(rule, [one.event for one in waiting if not _addressed(rule, one)]))
        except RayError as error:
            log.error("the process that names workflows failed subscription=%s error=%s", rule.name, error)
            return None
        named: list[tuple[int, str]] = []
        refused: list[tuple[StoredEvent, str]] = []
        for one in waiting:
            made = _addressed(rule, one) or next(asked)
            if isinstance(made, Exception):
                refused.append((one.event, str(made)))
            else:
                named.append((one.event.number, made))
        if refused:
            await asyncio.to_thread(self._set_aside, rule, refused)
        return named

    async def _call_some(self, rule: Subscription, waiting: Sequence[ToStart], held: set[str]) -> bool:
        """Call actors, but for those that take no calls now; more of these may be found. False: ask nobody now."""
        named = await self._named(rule, waiting)
        if named is None or self._call_actors is None:
            return False
        free = [(number, actor_id) for number, actor_id in named if actor_id not in held]
        if free:
            called = await self._call_actors(rule, free)
            held |= called.held
            if called.refused:
                events = {one.event.number: one.event for one in waiting}
                refused = [(events[number], reason) for number, reason in called.refused.items()]
                await asyncio.to_thread(self._set_aside, rule, refused)
        return True

    async def _start_some(self, rule: Subscription, waiting: Sequence[ToStart]) -> bool:
        named = await self._named(rule, waiting)
        if named is None:
            return False
        by_executor: dict[str, list[tuple[int, str]]] = {}
        for number, workflow_id in named:
            executor = names.executor_for(workflow_id, self._executors)
            by_executor.setdefault(executor, []).append((number, workflow_id))
        outcomes = await asyncio.gather(
            *(self._ask(executor, rule.number, events) for executor, events in by_executor.items())
        )
        return all(outcomes)

    async def _ask(self, executor: str, subscription: int, events: Sequence[tuple[int, str]]) -> bool:
        try:
            handle = ray.get_actor(executor, namespace=names.NAMESPACE)
            outcomes = await handle.start_from.remote(subscription, events)
        except (RayError, ValueError) as error:
            log.info("executor %s could not start workflows of events, trying again: %s", executor, error)
            return False
        held_back = [outcome for outcome in outcomes if not isinstance(outcome, Accepted | Elsewhere)]
        if held_back:
            log.warning(
                "workflows of events are not started yet subscription=%d count=%d reason=%s",
                subscription,
                len(held_back),
                held_back[0],
            )
        return not held_back

    def _set_aside(self, rule: Subscription, refused: Sequence[tuple[StoredEvent, str]]) -> None:
        with self._folder.kv.write() as txn:
            for event, error in refused:
                if subscriptions.is_to_start(txn, rule.number, event.number) is None:
                    # The rule was forgotten meanwhile, or the event is a dead letter already.
                    continue
                log.error("an event cannot have its effect subscription=%s error=%s", rule.name, error)
                letter = dead_letters.DeadLetter(
                    source=rule.source,
                    reason="start-failed" if rule.actor is None else "call-refused",
                    error=error,
                    occurred_unix_s=time.time(),
                    note={**event.note, "subscription": rule.name},
                    # With it, for what it is about may have expired when somebody looks, or tries it again.
                    event=event,
                    event_number=event.number,
                )
                subscriptions.set_aside(txn, rule.number, event.number)
                dead_letters.add_dead_letter(txn, letter)


def _addressed(rule: Subscription, waiting: ToStart) -> str:
    """The actor that an event is for already; the rule may have been for workflows, or be for these now."""
    return "" if rule.actor is None else waiting.actor_id
