"""Workflows of every shape, with the value each has to come to.

Their tasks take a little time, so that kills meet them at work, note every attempt in the audit file, and survive
any number of deaths of their workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import ray

from holdfast import workflow
from tests.recovery.audit import note

BRIEFLY_S = 0.1


@ray.remote(max_retries=-1)
def add(audit: str, *terms: int) -> int:
    note(audit)
    time.sleep(BRIEFLY_S)
    return sum(terms)


@ray.remote(max_retries=-1)
def count_down(audit: str, left: int, total: int) -> Any:
    note(audit)
    time.sleep(BRIEFLY_S)
    if left == 0:
        return total
    return workflow.continuation(count_down.bind(audit, left - 1, total + left))


@ray.remote(max_retries=-1, **workflow.options(allow_inplace=True))
def count_down_in_place(audit: str, left: int, total: int) -> Any:
    note(audit)
    time.sleep(BRIEFLY_S)
    if left == 0:
        return total
    return workflow.continuation(count_down_in_place.bind(audit, left - 1, total + left))


@ray.remote(max_retries=-1)
def spread(audit: str, depth: int) -> Any:
    """A tree of additions that grows as it runs: 2 ** depth leaves, each worth 1."""
    note(audit)
    if depth == 0:
        return 1
    halves = (spread.bind(audit, depth - 1), spread.bind(audit, depth - 1))
    return workflow.continuation(add.bind(audit, *halves))


@ray.remote(max_retries=-1)
def gather(audit: str, split: tuple[list[int], list[Any]], total: int) -> Any:
    note(audit)
    ready, remaining = split
    total += sum(ready)
    if not remaining:
        return total
    return workflow.continuation(gather.bind(audit, workflow.wait(remaining, num_returns=1), total))


@ray.remote(max_retries=-1)
def stumble(audit: str) -> int:
    note(audit)
    raise ValueError("on purpose")


@ray.remote(max_retries=-1)
def recognise(audit: str, caught: tuple[Any, Exception | None]) -> str:
    note(audit)
    return f"{caught[0]} {caught[1]}"


@ray.remote(max_retries=-1)
def tell(audit: str, event: Any) -> Any:
    note(audit)
    return event


class AfterAWhile(workflow.EventListener):
    """Hears its event a while after it began to listen, and says the same whoever asks, as a source must."""

    async def poll_for_event(self, acknowledged: str, key: int) -> tuple[str, int]:
        await asyncio.sleep(0.5)
        return acknowledged, key

    async def event_checkpointed(self, event: tuple[str, int]) -> None:
        with Path(event[0]).open("a") as file:
            file.write(f"{event[1]}\n")


def chain(audit: str, random: Random) -> tuple[Any, int]:
    terms = [random.randint(1, 100) for _ in range(random.randint(4, 10))]
    node: Any = 0
    for term in terms:
        node = add.bind(audit, node, term)
    return node, sum(terms)


def fan_out(audit: str, random: Random) -> tuple[Any, int]:
    terms = [random.randint(1, 100) for _ in range(random.randint(4, 10))]
    return add.bind(audit, *(add.bind(audit, term) for term in terms)), sum(terms)


def recursion(audit: str, random: Random) -> tuple[Any, int]:
    left = random.randint(3, 9)
    return count_down.bind(audit, left, 0), left * (left + 1) // 2


def recursion_in_place(audit: str, random: Random) -> tuple[Any, int]:
    left = random.randint(6, 16)
    return count_down_in_place.bind(audit, left, 0), left * (left + 1) // 2


def tree(audit: str, random: Random) -> tuple[Any, int]:
    depth = random.randint(1, 3)
    return spread.bind(audit, depth), 2**depth


def waiting(audit: str, random: Random) -> tuple[Any, int]:
    terms = [random.randint(1, 100) for _ in range(4)]
    split = workflow.wait([add.bind(audit, term) for term in terms], num_returns=2)
    return gather.bind(audit, split, 0), sum(terms)


def sleeping(audit: str, random: Random) -> tuple[Any, int]:
    term = random.randint(1, 100)
    awake = workflow.sleep(random.uniform(0.5, 2.0))
    return add.bind(audit, add.bind(audit, term), when.bind(audit, awake)), term


@ray.remote(max_retries=-1)
def when(audit: str, _: Any) -> int:
    note(audit)
    return 0


def listening(audit: str, random: Random) -> tuple[Any, Any]:
    key = random.randint(1, 10**9)
    acknowledged = f"{audit}.acknowledged"
    return tell.bind(audit, workflow.wait_for_event(AfterAWhile, acknowledged, key)), (acknowledged, key)


def catching(audit: str, random: Random) -> tuple[Any, str]:
    caught = stumble.options(**workflow.options(catch_exceptions=True)).bind(audit)
    return recognise.bind(audit, caught), "None on purpose"


SHAPES: tuple[Callable[[str, Random], tuple[Any, Any]], ...] = (
    chain,
    fan_out,
    recursion,
    recursion_in_place,
    tree,
    waiting,
    sleeping,
    listening,
    catching,
)


def make(audit: Path, serial: int, seed: int) -> tuple[str, Any, Any]:
    """(workflow id, graph, value it has to come to) number `serial` of a seed: every shape in turn."""
    shape = SHAPES[serial % len(SHAPES)]
    node, value = shape(str(audit), Random(f"{seed}/{serial}"))
    return f"{shape.__name__}-{serial}", node, value
