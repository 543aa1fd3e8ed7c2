"""The process that reads a connection to an outside source, as Kafka, into the store.

A thin shell around the source: it opens the folder as executors do, tells them
of what was stored, has workflows started and virtual actors called, and removes what has been kept long
enough. No code of users' runs here, and secrets that the connection needs are
read here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence

from holdfast.actors import names
from holdfast.actors.event_starter import EventStarter
from holdfast.actors.operating_system import this_process
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.ray_untyped import remote
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.virtual.event_calls import EventCalls
from holdfast.actors.waker import Waker
from holdfast.engine.errors import HoldfastError, StorageFullError
from holdfast.listeners.kafka import KIND
from holdfast.listeners.kafka_health import KafkaHealth
from holdfast.listeners.kafka_intake import TakenIn
from holdfast.listeners.kafka_settings import load_connections
from holdfast.listeners.kafka_source import KafkaSource
from holdfast.storage import beginnings, event_store
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.platform_lock import PlatformLock

log = logging.getLogger("holdfast")

_LOOK_AFTER_EVERY_S = 1.0
_LOOK_WHETHER_BEGUN_S = 0.05
_EXPIRE_AT_ONCE = 1000
_LONGEST_BACKLOG = 2000


@remote(num_cpus=0, max_concurrency=1000)
class EventSourceHost:
    """Reads one Kafka connection.

    Args:
        connection: Its name.
        address: Where the storage folder is.
        platform_id: The platform it belongs to.
        executors: Names of the executors of the pool.
    """

    def __init__(self, connection: str, address: StorageAddress, platform_id: str, executors: Sequence[str]) -> None:
        # It has a line for each try to connect, ten in a second. What matters of it is said by ours.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._connection = connection
        self._folder = StorageFolder.open(address.path, create=False)
        self._lock = PlatformLock(address.path)
        self._lock.join(platform_id)
        self._say_who_i_am(names.event_source_host_name(connection))
        self._prefix = f"{KIND}/{connection}/"
        self._waker = Waker(self._folder.kv)
        launcher = Launcher(self._folder, address, "event source")
        # There are as many hosts of virtual actors as executors.
        calls = EventCalls(len(executors))
        self._starter = EventStarter(self._folder, launcher, executors, self._prefix, calls.call)
        self._to_start: set[int] = set()
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._backlog = 0
        self._readying: asyncio.Task[None] | None = None
        self._source: KafkaSource | None = None
        self._run: asyncio.Task[None] | None = None
        self._closed = False
        self._connect()
        self._chores = asyncio.get_running_loop().create_task(self._look_after())

    def _say_who_i_am(self, name: str) -> None:
        """Write this process down: the management actor can end it when it stops to answer."""
        process = this_process()
        try:
            with self._folder.kv.write() as txn:
                store.save_setting(txn, names.process_setting(name), [process.pid, process.started])
        except StorageFullError:
            log.warning("%s has no room to write down its process", name)

    def _connect(self) -> None:
        with self._folder.kv.read() as txn:
            settings = load_connections(txn).get(self._connection)
        if settings is None:
            log.error("there is no Kafka connection %s any more", self._connection)
            return
        self._source = KafkaSource(settings, self._folder.kv, self._told, self._may_read, addressing=self._starter)
        self._run = asyncio.get_running_loop().create_task(self._source.run())

    # -- asked by the management actor -----------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        return os.getpid()

    async def look_again(self) -> None:
        """Somebody may wait for another topic."""
        if self._source is not None:
            self._source.look_again()

    async def begin(self, sources: Sequence[str]) -> None:
        """Fix where the reading of some sources begins. Returns when that is done."""
        while not await asyncio.to_thread(self._have_begun, sources):
            if self._source is not None:
                self._source.look_again()
            await asyncio.sleep(_LOOK_WHETHER_BEGUN_S)

    def _have_begun(self, sources: Sequence[str]) -> bool:
        with self._folder.kv.read() as txn:
            return all(beginnings.has_begun(txn, name) for name in sources)

    async def reconnect(self) -> None:
        """The settings of the connection have changed."""
        await self._disconnect()
        self._connect()

    async def health(self) -> KafkaHealth:
        """How the connection is doing."""
        return (
            KafkaHealth(connection=self._connection, connected=False)
            if self._source is None
            else (self._source.health())
        )

    async def replay(self, number: int, value: bytes | None) -> None:
        """Try a dead letter again.

        Raises:
            DeadLetterNotFoundError: There is none of this number.
            DeadLetterNotReplayableError: It cannot be; says what to do.
        """
        assert self._source is not None, "nothing was ever read by this connection"
        await self._source.replay(number, value)

    async def start(self, subscription: int) -> None:
        """There is an event that is to start a workflow, or to call a virtual actor."""
        self._start(subscription)

    async def close(self) -> None:
        """Write nothing more, and let go of the folder: this process is about to be ended."""
        self._closed = True
        self._chores.cancel()
        if self._readying is not None:
            self._readying.cancel()
        await self._disconnect()
        self._lock.release()

    async def _disconnect(self) -> None:
        if self._source is not None and not await self._source.stop():
            log.warning("the source of Kafka connection %s did not stop in time", self._connection)
        self._source = None

    # -- what was stored -------------------------------------------------------------------------------------------

    def _told(self, done: TakenIn) -> None:
        if done.wakes:
            self._waker.wake(done.wakes)
        for subscription in done.starts:
            self._start(subscription)

    def _may_read(self) -> bool:
        """Whether those who take the events keep up: what is read is stored, and must not pile up for ever."""
        return self._backlog < _LONGEST_BACKLOG

    def _start(self, subscription: int) -> None:
        self._to_start.add(subscription)
        if subscription not in self._starting:
            work = self._start_all_of(subscription)
            self._starting[subscription] = asyncio.get_running_loop().create_task(work)

    async def _start_all_of(self, subscription: int) -> None:
        try:
            while subscription in self._to_start:
                self._to_start.discard(subscription)
                await self._starter.start(subscription)
        finally:
            del self._starting[subscription]

    # -- chores ----------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """What was to be done by whoever died is done again; what has been kept long enough is removed."""
        while not self._closed:
            try:
                self._waker.wake_pending()
                self._get_ready()
                await self._starter.start_all()
                self._backlog = await asyncio.to_thread(self._starter.backlog, _LONGEST_BACKLOG)
                await asyncio.to_thread(self._expire)
            except HoldfastError as error:
                # The disk may be full, for now.
                log.warning("chores of Kafka connection %s: %s", self._connection, error)
            await asyncio.sleep(_LOOK_AFTER_EVERY_S)

    def _get_ready(self) -> None:
        """There may be a new rule, or a process of the users' may have died. Nobody waits for that."""
        if self._readying is None or self._readying.done():
            self._readying = asyncio.get_running_loop().create_task(self._starter.get_ready())

    def _expire(self) -> None:
        kv, now = self._folder.kv, time.time()
        with kv.read() as txn:
            sources = event_store.list_sources(txn, self._prefix)
        for source in sources:
            if source.kept == 0:
                continue
            removed = _EXPIRE_AT_ONCE
            while removed == _EXPIRE_AT_ONCE:
                if not self._may_expire(source.name, now):
                    break
                with kv.write() as txn:
                    removed = event_store.expire(txn, source.name, now, limit=_EXPIRE_AT_ONCE)

    def _may_expire(self, name: str, now: float) -> bool:
        """Whether there is something to remove: looked up in a reading transaction, which keeps nobody waiting."""
        with self._folder.kv.read() as txn:
            source = event_store.find_source(txn, name)
            if source is None:
                return False
            if source.retention_bytes is not None and source.kept_bytes > source.retention_bytes:
                return True
            oldest = next(event_store.events_after(txn, source.number, 0), None)
        return (
            oldest is not None and source.retention_s is not None and oldest.accepted_unix_s < now - source.retention_s
        )
