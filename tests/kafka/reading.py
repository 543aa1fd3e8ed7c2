"""A source at work in this process, over a store of its own, and what it has stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from deploy.kafka.in_process import InProcessBroker
from holdfast.listeners.kafka import source_name
from holdfast.listeners.kafka_health import PartitionHealth, TopicHealth
from holdfast.listeners.kafka_intake import TakenIn
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.listeners.kafka_source import KafkaSource
from holdfast.storage import beginnings, dead_letters, event_store
from holdfast.storage.dead_letters import DeadLetter
from holdfast.storage.event_store import StoredEvent
from holdfast.storage.lmdb import LmdbStore
from tests.kafka.running_kafka import RunningKafka

_DEADLINE_S = 60.0


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a loop of its own; nothing may be left at work there."""

    async def to_the_end() -> None:
        await scenario()
        own = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() == {own}, lambda: f"left at work: {asyncio.all_tasks() - {own}}")

    asyncio.run(to_the_end())


class Reading:
    """A store, and the settings under which it is filled."""

    def __init__(self, kafka: RunningKafka | InProcessBroker, folder: Path, **settings: Any) -> None:
        self.kv = LmdbStore(folder / "store")
        self.settings = KafkaSettings.parse(
            "default", {"bootstrap_servers": kafka.bootstrap_servers, "request_timeout_s": 10, **settings}
        )
        self.told: list[TakenIn] = []

    def want(self, topic: str, *, since_unix_s: float | None = None, decoded: bool = True) -> None:
        """Somebody waits for messages of a topic."""
        with self.kv.write() as txn:
            since = time.time() if since_unix_s is None else since_unix_s
            event_store.need_source(txn, source_name("default", topic), since, decoded=decoded)

    @asynccontextmanager
    async def at_work(
        self,
        *,
        make_consumer: Callable[..., Any] = AIOKafkaConsumer,
        may_read: Callable[[], bool] = lambda: True,
        **settings: Any,
    ) -> AsyncIterator[KafkaSource]:
        """A source that reads, until the end of the block."""
        used = KafkaSettings.parse("default", {**self.settings.plain(), **settings})
        source = KafkaSource(used, self.kv, self.told.append, may_read, make_consumer)
        run = asyncio.ensure_future(source.run())
        try:
            yield source
            assert await source.stop(), "it did not stop"
            await run
        finally:
            run.cancel()
            await asyncio.wait({run})

    def ask_for(self, topic: str) -> None:
        """As somebody who is about to be accepted."""
        with self.kv.write() as txn:
            beginnings.ask_for(txn, source_name("default", topic), decoded=True)

    def has_begun(self, topic: str) -> bool:
        """Whether it is fixed where its reading begins."""
        with self.kv.read() as txn:
            return beginnings.has_begun(txn, source_name("default", topic))

    def events(self, topic: str) -> list[StoredEvent]:
        with self.kv.read() as txn:
            source = event_store.find_source(txn, source_name("default", topic))
            assert source is not None
            return list(event_store.events_after(txn, source.number, 0))

    def values(self, topic: str) -> list[str]:
        return [(event.value or b"").decode() for event in self.events(topic)]

    def letters(self) -> list[DeadLetter]:
        with self.kv.read() as txn:
            return dead_letters.list_dead_letters(txn)

    def offset(self, topic: str, partition: int = 0) -> int | None:
        """The stored position."""
        with self.kv.read() as txn:
            found = event_store.positions(txn, source_name("default", topic)).get(str(partition))
        return None if found is None else int(found["offset"])

    async def until_events(self, topic: str, count: int) -> None:
        await until(lambda: len(self.events(topic)) >= count, lambda: f"{len(self.events(topic))} of {count} events")

    async def until_begun(self, topic: str, partition: int = 0) -> None:
        await until(lambda: self.offset(topic, partition) is not None, lambda: f"no position of {topic}")


async def until(condition: Callable[[], Any], otherwise: Callable[[], str] = lambda: "not in time") -> None:
    """Wait for what is to come true."""
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < end, otherwise()
        await asyncio.sleep(0.02)


def topic_health(source: KafkaSource, topic: str) -> TopicHealth | None:
    return next((found for found in source.health().topics if found.source.endswith(f"/{topic}")), None)


def partition_health(source: KafkaSource, topic: str, partition: int = 0) -> PartitionHealth | None:
    found = topic_health(source, topic)
    return next((at for at in found.partitions if at.partition == partition), None) if found is not None else None
