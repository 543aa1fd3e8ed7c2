"""What async code waits for when the process that it asked over a local socket is killed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from holdfast import workflow
from holdfast.listeners import HTTPListener
from tests.recovery.processes import end, of_role, replaced, the_one, until

WAIT_S = 120.0
HOST = "virtual actor host"
ACTORS = 10
CALLS = 300
HELD_AT = 15


@workflow.virtual_actor
class Counter:
    def __init__(self, gate: str) -> None:
        self.count = 0
        self.gate = gate

    def add(self, by: int) -> int:
        # So some are called and not done whenever a kill comes.
        while self.count >= HELD_AT and not os.path.exists(self.gate):
            Path(self.gate).with_name("held").touch()
            time.sleep(0.01)
        self.count += by
        return self.count

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        return self.count


def waits() -> Any:
    return workflow.wait_for_event(HTTPListener, event_key="k")


def test_workflows_that_are_awaited_outlive_their_executor(storage: Path) -> None:
    ids = [f"w{number}" for number in range(100)]

    async def main() -> None:
        running = [asyncio.ensure_future(workflow.aio.run(waits(), workflow_id=one)) for one in ids]
        await asyncio.to_thread(until, lambda: len(workflow.list_all("RUNNING")) == len(ids), "all run")
        await asyncio.to_thread(the_one("executor").kill)
        # Asked of a process that is not there, or not yet.
        assert await asyncio.gather(*(workflow.aio.send_event(one, "k", one) for one in ids)) == [True] * len(ids)
        assert await asyncio.gather(*running) == [("k", one) for one in ids]

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_calls_that_are_awaited_count_once_whatever_becomes_of_their_host(storage: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    counters = [Counter.get_or_create(f"counter-{number}", str(gate)) for number in range(ACTORS)]

    async def kill_when(condition: Callable[[], bool], what: str) -> None:
        await asyncio.to_thread(until, condition, what)
        # Also the one in which those run that ran when the first was killed.
        hosts = of_role(HOST)
        await asyncio.to_thread(end, hosts)
        await asyncio.to_thread(replaced, HOST, hosts)

    async def main() -> list[int]:
        # The caller's own, which calls that wait for whoever has their actor now leave alone: it opens the gate.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        calls = [asyncio.ensure_future(counters[at % ACTORS].add.aio.run(1)) for at in range(CALLS)]
        await kill_when(lambda: counters[0].value.run() >= 3, "three calls are done")
        await kill_when(gate.with_name("held").exists, "a call is held")
        await asyncio.to_thread(until, lambda: len(of_role(HOST)) > 1, "who ran has a host of its own")
        await asyncio.to_thread(gate.touch)
        return await asyncio.gather(*calls)

    got = asyncio.run(asyncio.wait_for(main(), WAIT_S))
    each = CALLS // ACTORS
    assert [sorted(got[at::ACTORS]) for at in range(ACTORS)] == [list(range(1, each + 1))] * ACTORS
    assert [counter.value.run() for counter in counters] == [each] * ACTORS
