"""Tasks of executors that have died: whether they are over.

Ray ends the tasks of a process that died, on every node, a moment later: who
takes its place cannot ask them to end, only see that they have. A worker shows
the name of the task it runs as the title of its process, and ours bear the
executor that started them. Nothing here ends a process.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors.operating_system import Process

log = logging.getLogger("holdfast")

_PATIENCE_S = 30.0
_ANOTHER_NODE_S = 10.0
_LOOK_EVERY_S = 0.05
_TITLE = re.compile(rb"ray::run_task (\S+)#(\d+)\.(\d+)")

# As the system cuts it, in the place that outlives the title; and the states of a process that has let go of all.
_SHORT_TITLE, _OVER = "ray::run_task", ("Z", "X", "x")
_ANYBODY = "?"

Starter: TypeAlias = tuple[str, Process]
"""An executor, and the process that it was."""


def task_title(executor: str, process: Process) -> str:
    """The name under which Ray runs the tasks that a process of an executor starts."""
    return f"run_task {executor}#{process.pid}.{process.started}"


def starters_here() -> set[Starter]:
    """Who started the tasks that run on this node; empty where the system does not tell.

    A worker that is ending has lost its title already, and may hold files and locks still: it counts as one of
    `_ANYBODY`'s until it is over.
    """
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes()
            if not said and _is_ending_task((process / "stat").read_text()):
                found.add((_ANYBODY, Process(int(process.name), 0)))
        except OSError:
            # It has ended meanwhile.
            continue
        title = _TITLE.match(said)
        if title is not None:
            found.add((title[1].decode(), Process(int(title[2]), int(title[3]))))
    return found


def _is_ending_task(stat: str) -> bool:
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    # The first thread may be over before the others, which share its files.
    over = fields[0] in _OVER and int(fields[17]) <= 1
    return name.startswith(_SHORT_TITLE) and not over


@ray.remote(num_cpus=0, max_retries=0)
def _starters_there() -> set[Starter]:
    return starters_here()


class Orphans:
    """What the dead have left running.

    Args:
        executor: The executor that asks.
        node_id: Its node, hex: that of all executors.
        replaced: Whether it has taken the place of another process.
    """

    def __init__(self, executor: str, node_id: str, *, replaced: bool) -> None:
        self._executor, self._node_id, self._replaced = executor, node_id, replaced

    async def wait_until_over(self, executor: str, timeout_s: float = _PATIENCE_S) -> bool:
        """Wait until no task runs any more that a dead process of an executor has started.

        Args:
            executor: Whose tasks.
            timeout_s: How long at most.

        Returns:
            Whether they are over; when not, the log says so.
        """
        if executor == self._executor and not self._replaced:
            return True
        deadline = time.monotonic() + timeout_s
        nodes: list[Any] = await asyncio.to_thread(ray.nodes)
        others = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != self._node_id]
        over = await asyncio.gather(
            self._wait_here(executor, deadline), *(self._wait_there(executor, node, deadline) for node in others)
        )
        if not all(over):
            return False
        if executor == self._executor:
            # They cannot become more.
            self._replaced = False
        return True

    async def _wait_here(self, executor: str, deadline: float) -> bool:
        while left := _left(executor, await asyncio.to_thread(starters_here)):
            if time.monotonic() > deadline:
                log.error("tasks of a dead executor go on executor=%s processes=%s", executor, left)
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        return True

    async def _wait_there(self, executor: str, node_id: str, deadline: float) -> bool:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        while True:
            asked: Any = _starters_there.options(scheduling_strategy=there).remote()
            try:
                left = _left(executor, await asyncio.wait_for(asked, _ANOTHER_NODE_S))
            except (RayError, asyncio.TimeoutError) as error:
                # The node has died, and its tasks with it; or is not to be asked.
                log.warning("a node does not tell whose tasks it runs node_id=%s error=%r", node_id, error)
                return False
            if not left:
                return True
            if time.monotonic() > deadline:
                log.error("tasks of a dead executor go on executor=%s node_id=%s", executor, node_id)
                return False
            await asyncio.sleep(_LOOK_EVERY_S)


def _left(executor: str, starters: Iterable[Starter]) -> list[int]:
    """Dead processes of an executor whose tasks are among these, and tasks that are ending and may be such."""
    return [process.pid for name, process in starters if name == _ANYBODY or (name == executor and not process.alive)]
