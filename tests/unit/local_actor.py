"""A service for calls over a local socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.actors.local_service import LocalService


class LocalActor:
    """A service on an event loop of its own, as an actor has one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.held, self.holding = asyncio.Event(), threading.Event()
        self.found = self.count = 0
        methods = {"echo": self.echo, "fail": self.fail, "hold": self.hold, "odd": self.odd, "count_up": self.count_up}
        self.service = LocalService(methods)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def echo(self, *what: Any) -> Any:
        return what

    async def fail(self) -> None:
        raise ValueError("no such luck")

    async def hold(self, what: str) -> str:
        self.holding.set()
        await self.held.wait()
        return what

    async def count_up(self) -> int:
        """How many calls have come, when those are counted that came in the same go."""
        self.count += 1
        await asyncio.sleep(0)
        return self.count

    async def odd(self) -> Any:
        return threading.Lock()

    def run(self, call: Callable[[], Any]) -> None:
        """Run a function on the loop."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (call(), done.set()))
        assert done.wait(10)

    def end(self) -> None:
        """As if its process had been killed: all its connections break off."""

        async def stop() -> None:
            self.service.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(10)

    def close(self) -> None:
        self.end()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def find(actor: LocalActor) -> str:
    actor.found += 1
    return asyncio.run_coroutine_threadsafe(actor.service.open(), actor.loop).result(10)


@pytest.fixture
def actor() -> Iterator[LocalActor]:
    """One for a test."""
    made = LocalActor()
    yield made
    made.close()
