"""A source of events that the test is: it takes them in and tells executors, as the process that reads Kafka does."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from holdfast.actors import names
from holdfast.actors.client import find_platform
from holdfast.actors.event_starter import EventStarter
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.virtual.event_calls import EventCalls
from holdfast.engine.selectors import Selector
from holdfast.listeners import EventListener, Stream
from holdfast.storage import dead_letters, event_readers, event_store
from holdfast.storage.dead_letters import DeadLetter
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.folder import StorageFolder


class Source:
    """A source read by this test."""

    def __init__(self, folder: StorageFolder) -> None:
        self.folder = folder
        self._count = 0

    def event(self, key: str, value: bytes) -> IncomingEvent:
        self._count += 1
        return IncomingEvent(key=key.encode(), value=value, time_unix_s=1.0, dedupe_id=str(self._count))

    def take_in(self, topic: str, *events: tuple[str, bytes]) -> event_store.Ingested:
        name = f"test/here/{topic}"
        with self.folder.kv.write() as txn:
            event_store.need_source(txn, name, 0.0)
            incoming = [self.event(key, value) for key, value in events]
            taken = event_store.ingest(txn, name, incoming, moves={}, now_unix_s=1.0)
        with self.folder.kv.read() as txn:
            wakes = event_readers.executors_of(txn, taken.wakes)
        for executor, seq in wakes:
            ray.get(ray.get_actor(executor, namespace=names.NAMESPACE).wake.remote([seq]))
        return taken

    def start_all(self) -> bool:
        """Start workflows and call actors. Returns whether nothing is left to be done."""
        platform = find_platform()
        assert platform is not None
        launcher = Launcher(self.folder, platform.address, "the test")
        calls = EventCalls(len(platform.executors))
        starter = EventStarter(self.folder, launcher, platform.executors, call_actors=calls.call)
        return asyncio.run(starter.start_all())

    def dead_letters(self, topic: str) -> list[DeadLetter]:
        with self.folder.kv.read() as txn:
            return dead_letters.list_dead_letters(txn, f"test/here/{topic}")

    def is_wanted(self, topic: str) -> bool:
        with self.folder.kv.read() as txn:
            return event_store.find_source(txn, f"test/here/{topic}") is not None


def listener() -> type[EventListener]:
    """Made in a function: a class of this module is not importable in workers."""

    class Heard(EventListener):
        @staticmethod
        def subscription(topic: str, key: str | None = None, **where: Any) -> Stream:
            selector = Selector(key=None if key is None else key.encode(), where=where or None)
            return Stream(f"test/here/{topic}", selector.text)

    return Heard
