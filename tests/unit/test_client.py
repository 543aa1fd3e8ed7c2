"""Asking from an event loop when another actor than the first answers for what is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from holdfast.actors.client import Platform
from holdfast.actors.management import PlatformConfig
from holdfast.actors.operations import Elsewhere
from holdfast.actors.storage_access import StorageAddress

ASKED = 200


def actor_that(answers: Callable[[], Awaitable[Any]]) -> Any:
    """What looks like the handle of an actor with a method `run`."""
    return SimpleNamespace(run=SimpleNamespace(remote=answers))


def test_who_is_sent_on_and_waits_for_long_holds_no_thread() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        over, asked = asyncio.Event(), 0

        async def sends_on() -> Any:
            return Elsewhere(executor="other")

        async def waits() -> str:
            nonlocal asked
            asked += 1
            await over.wait()
            return "answer"

        handles = {"first": actor_that(sends_on), "other": actor_that(waits)}
        address = StorageAddress(path="storage", node_id="node", cluster="cluster")
        platform = Platform(None, PlatformConfig(storage="storage", executors=1), address, ("first",), _handles=handles)
        calls = [asyncio.ensure_future(platform.ask_async(f"w{number}", "run")) for number in range(ASKED)]
        while asked < ASKED:
            # One of the caller's own threads, of which there is one: not theirs.
            assert await asyncio.to_thread(threading.current_thread) is not threading.main_thread()
        over.set()
        assert await asyncio.gather(*calls) == ["answer"] * ASKED

    asyncio.run(asyncio.wait_for(main(), 30))
