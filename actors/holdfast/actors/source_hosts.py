"""The processes that read outside sources, as the management actor keeps them: one to a connection that is wanted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.event_source_host import EventSourceHost
from holdfast.actors.operating_system import Process
from holdfast.actors.ray_untyped import actor_class
from holdfast.actors.storage_access import StorageAddress
from holdfast.engine.errors import DeadLetterNotFoundError, DeadLetterNotReplayableError, HoldfastError
from holdfast.listeners.kafka import KIND, split_source
from holdfast.listeners.kafka_health import KafkaHealth, TopicHealth
from holdfast.listeners.kafka_settings import KafkaSettings, load_connections, store_connections
from holdfast.storage import beginnings, dead_letters, event_store, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.dead_letters import DeadLetter
from holdfast.storage.event_store import Source
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")

_LOOK_EVERY_S = 2.0
_ANSWERING_S = 5.0
_CLOSING_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """An outside source, and how reading it goes.

    Attributes:
        source: As the store knows it.
        connection: The connection it is read by; None when nobody reads it, or its process does not answer.
        topic: How reading it goes; None likewise.
        configured: Whether there is a connection of this name.
    """

    source: Source
    connection: KafkaHealth | None
    topic: TopicHealth | None
    configured: bool


class SourceHosts:
    """Makes and watches them.

    Args:
        kv: The store.
        address: Where the storage folder is.
        platform_id: The platform.
        executors: How many executors the pool has.
        lease_s: Seconds after which a process that does not answer is ended.
    """

    def __init__(
        self, kv: KeyValueStore, address: StorageAddress, platform_id: str, executors: int, lease_s: float
    ) -> None:
        self._kv, self._address, self._platform_id, self._lease_s = kv, address, platform_id, lease_s
        self._executors = tuple(names.executor_name(number) for number in range(executors))
        self._hosts: dict[str, Any] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._unconfigured: set[str] = set()

    # -- connections -----------------------------------------------------------------------------------------------

    async def connect(self, given: Mapping[str, KafkaSettings], default: KafkaSettings | None) -> None:
        """Use these connections from now on.

        Args:
            given: Said by a user, by name.
            default: Said by the environment of a user's process: counts where nobody has said anything.
        """
        with self._kv.write() as txn:
            changed = store_connections(txn, given, default)
        for name in changed:
            self._unconfigured.discard(name)
            host = self._hosts.get(name)
            if host is not None:
                try:
                    await host.reconnect.remote()
                except RayError as error:
                    log.info("Kafka connection %s will use its new settings when it is back: %s", name, error)
        self.look()

    def look(self) -> None:
        """Make the processes that are wanted and not there yet."""
        with self._kv.read() as txn:
            wanted = {split_source(source.name)[0] for source in event_store.list_sources(txn, f"{KIND}/")}
            known = load_connections(txn)
        for name in wanted:
            if name not in known:
                if name not in self._unconfigured:
                    self._unconfigured.add(name)
                    log.error(
                        "messages are waited for and nobody reads them: there is no Kafka connection %s. "
                        'Call workflow.init(kafka={"%s": {"bootstrap_servers": "host:9092"}})',
                        name,
                        name,
                    )
            elif name not in self._hosts:
                self._hosts[name] = self._host(name)
                self._watches[name] = asyncio.get_running_loop().create_task(self._watch(name))

    async def note(self, source: str) -> None:
        """Somebody waits for a source that nobody had asked for before."""
        self.look()
        if source.startswith(f"{KIND}/"):
            host = self._hosts.get(split_source(source)[0])
            if host is not None:
                await _told(host.look_again.remote())

    async def begin(self, sources: Mapping[str, bool], within_s: float) -> list[str]:
        """Fix where the reading of sources begins, before the request that names them is accepted.

        Args:
            sources: By name: whether it is read decoded.
            within_s: How long to try.

        Returns:
            Those for which it could not be had in time: whoever asked is accepted all the same.
        """
        asked = {name: decoded for name, decoded in sources.items() if name.startswith(f"{KIND}/")}
        fresh = await asyncio.to_thread(self._ask_for, asked)
        self.look()
        by_connection: dict[str, list[str]] = {}
        for name in fresh:
            by_connection.setdefault(split_source(name)[0], []).append(name)
        hosts = [(self._hosts.get(connection), wanted) for connection, wanted in by_connection.items()]
        # Without a connection of that name there is nobody to be waited for.
        waits = [_told_in_time(host.begin, wanted, within_s) for host, wanted in hosts if host is not None]
        await asyncio.gather(*waits)
        return await asyncio.to_thread(self._late, list(asked))

    def _ask_for(self, sources: Mapping[str, bool]) -> list[str]:
        """Those of which nobody knows yet whether they answer: each is waited for once."""
        with self._kv.write() as txn:
            return [name for name, decoded in sources.items() if beginnings.ask_for(txn, name, decoded=decoded)]

    def _late(self, sources: Sequence[str]) -> list[str]:
        with self._kv.read() as txn:
            late = [name for name in sources if not beginnings.has_begun(txn, name)]
        if late:
            with self._kv.write() as txn:
                beginnings.note_late(txn, late, time.time())
        return late

    async def keep(self) -> None:
        """Look again and again: whoever was to tell may have died."""
        while True:
            try:
                self.look()
            except (HoldfastError, ValueError) as error:
                # As a connection that a later version has stored.
                log.error("the processes that read outside sources cannot be made: %s", error)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def close(self) -> list[Process]:
        """Have them let go of the folder.

        Returns:
            Their processes, which are still to be ended.
        """
        for watch in self._watches.values():
            watch.cancel()
        if self._hosts:
            closing = [asyncio.ensure_future(_told(host.close.remote())) for host in self._hosts.values()]
            await asyncio.wait(closing, timeout=_CLOSING_S)
        found = [self._process(name) for name in self._hosts]
        return [process for process in found if process is not None]

    def _host(self, connection: str) -> Any:
        return (
            actor_class(EventSourceHost)
            .options(
                name=names.event_source_host_name(connection),
                namespace=names.NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                enable_task_events=False,
                max_restarts=-1,
                # What is asked of one that dies is asked again by whoever needs it.
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._address.node_id, soft=False),
            )
            .remote(connection, self._address, self._platform_id, self._executors)
        )

    def _process(self, connection: str) -> Process | None:
        with self._kv.read() as txn:
            recorded = store.load_setting(txn, names.process_setting(names.event_source_host_name(connection)))
        return None if recorded is None else Process(*recorded)

    async def _watch(self, name: str) -> None:
        """End one that no longer answers: a stopped writer could hold the store's lock."""
        while True:
            call = asyncio.ensure_future(self._ping(name))
            done, _ = await asyncio.wait([call], timeout=self._lease_s)
            if not done:
                process = self._process(name)
                if process is not None and process.kill():
                    log.error(
                        "the process of Kafka connection %s has not answered for %g s: process %d was ended",
                        name,
                        self._lease_s,
                        process.pid,
                    )
            await asyncio.sleep(min(_LOOK_EVERY_S, self._lease_s))

    async def _ping(self, name: str) -> int | None:
        """Its process's id; None when it does not run at present."""
        try:
            pid: int = await self._hosts[name].ping.remote()
        except ActorDiedError as error:
            # It could not open the storage when Ray started it again, and Ray tries that once.
            log.error("the process of Kafka connection %s is gone for good, making it anew: %s", name, error)
            self._hosts[name] = self._host(name)
            return None
        except RayError:
            # Ray is starting it again; the next ping tells.
            return None
        return pid

    # -- what can be seen and done ---------------------------------------------------------------------------------

    async def processes(self) -> list[dict[str, Any]]:
        """Those that answer, for people: `connection` and `pid` of each."""
        calls = {name: asyncio.ensure_future(self._ping(name)) for name in self._hosts}
        if calls:
            await asyncio.wait(calls.values(), timeout=_ANSWERING_S)
        pids = {name: call.result() for name, call in calls.items() if call.done()}
        return [{"connection": name, "pid": pid} for name, pid in pids.items() if pid is not None]

    async def reports(self) -> list[SourceReport]:
        """All outside sources."""
        with self._kv.read() as txn:
            sources = event_store.list_sources(txn)
            known = load_connections(txn)
        found = await asyncio.gather(*(self._health(name) for name in self._hosts))
        health = {one.connection: one for one in found if one is not None}
        reports = []
        for source in sources:
            name = split_source(source.name)[0] if source.name.startswith(f"{KIND}/") else ""
            connection = health.get(name)
            topics = () if connection is None else connection.topics
            topic = next((topic for topic in topics if topic.source == source.name), None)
            reports.append(SourceReport(source=source, connection=connection, topic=topic, configured=name in known))
        return reports

    async def _health(self, name: str) -> KafkaHealth | None:
        try:
            health: KafkaHealth = await asyncio.wait_for(self._hosts[name].health.remote(), _ANSWERING_S)
        except (RayError, asyncio.TimeoutError):
            return None
        return health

    def letters(self, source: str | None, after: int, limit: int) -> list[DeadLetter]:
        """Dead letters, in the order in which they came."""
        with self._kv.read() as txn:
            return dead_letters.list_dead_letters(txn, source, after=after, limit=limit)

    def letter(self, number: int) -> DeadLetter:
        """A dead letter.

        Raises:
            DeadLetterNotFoundError: There is none of this number.
        """
        with self._kv.read() as txn:
            letter = dead_letters.get_dead_letter(txn, number)
            if letter is None:
                raise DeadLetterNotFoundError(number)
        return letter

    def drop(self, number: int) -> None:
        """Forget a dead letter.

        Raises:
            DeadLetterNotFoundError: There is none of this number.
        """
        with self._kv.write() as txn:
            if not dead_letters.drop_dead_letter(txn, number):
                raise DeadLetterNotFoundError(number)

    async def replay(self, number: int, value: bytes | None) -> None:
        """Try a dead letter again; then it is none any more.

        Raises:
            DeadLetterNotFoundError: There is none of this number.
            DeadLetterNotReplayableError: It cannot be; says what to do.
        """
        letter = self.letter(number)
        host = self._hosts.get(split_source(letter.source)[0]) if letter.source.startswith(f"{KIND}/") else None
        if letter.reason in ("start-failed", "call-refused"):
            if value is not None:
                raise DeadLetterNotReplayableError(number, "its event is taken as it is", "Leave value= out.")
            subscription = self._start_again(letter)
            if host is not None:
                await _told(host.start.remote(subscription))
        elif host is None:
            raise DeadLetterNotReplayableError(
                number,
                f"nobody reads {letter.source} at present",
                "Give its connection to workflow.init(kafka={...}) first.",
            )
        else:
            await host.replay.remote(number, value)

    def _start_again(self, letter: DeadLetter) -> int:
        """Have an event start its workflow, or call its actor, after all. Returns the number of the subscription."""
        with self._kv.write() as txn:
            rule = subscriptions.find_subscription(txn, str(letter.note.get("subscription")))
            source = event_store.find_source(txn, letter.source)
            number = letter.event_number
            if rule is None or source is None:
                raise DeadLetterNotReplayableError(
                    letter.number, "the rule that was to take it is no more", "Delete it."
                )
            expired = number is None or event_store.get_event(txn, source.number, number) is None
            if number is None or (expired and letter.event is None):
                # Letters of earlier releases have no event with them.
                raise DeadLetterNotReplayableError(letter.number, "its event has expired", "Delete it.")
            if not dead_letters.drop_dead_letter(txn, letter.number):
                raise DeadLetterNotFoundError(letter.number)
            if expired and letter.event is not None:
                event_store.put_back(txn, source, number, letter.event, time.time())
            subscriptions.start_again(txn, rule.number, source.number, number)
        return rule.number


async def _told_in_time(ask: Any, sources: Sequence[str], within_s: float) -> None:
    """Wait for an answer, and no longer than that: whoever asked looks for himself what has been done."""
    try:
        await asyncio.wait_for(ask.remote(sources), within_s)
    except (RayError, asyncio.TimeoutError) as error:
        log.warning("sources.beginning_not_fixed sources=%s error=%r", list(sources), error)


async def _told(call: Any) -> None:
    """Wait for a call whose failure is made good elsewhere."""
    try:
        await call
    except RayError as error:
        log.info("a process that reads a source could not be told: %s", error)
