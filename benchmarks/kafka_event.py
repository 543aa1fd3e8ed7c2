"""From an event to the result of the workflow that waited for it: `python -m benchmarks.kafka_event [--count N]`.

With `--others 10,10000` only messages, through Kafka, while so many other workflows wait for other keys of the topic.

In one run, taking turns: an event by `workflow.send_event`, a call of an actor of plain Ray, a message through Kafka,
and the same message to a plain consumer, which is as fast as Kafka is. The clock of a message starts before
`send_and_wait` of the producer and stops when the value is at the caller. The broker is a real one where there are Java
and Maven. One line of JSON; times in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.machine import machine_line
from benchmarks.workloads import Echo
from deploy.kafka.broker import Broker, why_none
from deploy.kafka.in_process import InProcessBroker
from holdfast import workflow
from holdfast.listeners import HTTPListener, KafkaListener

EVENTS = 200
WARM_UP = 10
TOPIC = "events"
_BEGINNING_S = 60.0
_LOOK_EVERY_S = 0.05
_SUBMITTED_AT_ONCE = 500


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kafka_event", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=EVENTS, help="how many events of each kind")
    parser.add_argument("--others", default="", help="measure while so many others wait, in turn: numbers, with commas")
    asked = parser.parse_args()
    others = [int(one) for one in asked.others.split(",") if one]
    missing = why_none()
    with InProcessBroker() if missing else Broker(auto_create_topics=True) as broker:
        named = f"librdkafka's, in the process ({missing})" if missing else "Apache Kafka, one node"
        figures = measure(broker.bootstrap_servers, asked.count, others)
    print(json.dumps({"machine": machine_line(), "broker": named, "load": os.getloadavg(), **figures}, indent=1))


def measure(servers: str, count: int, others: Sequence[int]) -> dict[str, Any]:
    """Send, call and wait."""
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        workflow.init(Path(folder) / "store", kafka={"default": {"bootstrap_servers": servers}})
        try:
            if others:
                return asyncio.run(_among_others(servers, count, others))
            taken = asyncio.run(_take_turns(servers, count))
        finally:
            workflow.shutdown()
            ray.shutdown()
    event, call = statistics.median(taken["event"]), statistics.median(taken["actor_call"])
    return {"events": count, "event_to_actor_call": round(event / call, 2)} | {
        name: {"median_ms": round(statistics.median(each) * 1e3, 2), "p99_ms": round(_p99(each) * 1e3, 2)}
        for name, each in taken.items()
    }


async def _take_turns(servers: str, count: int) -> dict[str, list[float]]:
    """Seconds that each kind took, each time."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=0)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=None, auto_offset_reset="latest")
    await producer.start()
    await consumer.start()
    try:
        # What the first message costs, as making the topic, is not what is measured.
        await producer.send_and_wait(TOPIC, b"0", key=b"first")
        partitions = [TopicPartition(TOPIC, each) for each in sorted(await producer.partitions_for(TOPIC))]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        for tp in partitions:
            await consumer.position(tp)
        turn = await _turns(producer, consumer, WARM_UP + count)
        taken: dict[str, list[float]] = {name: [] for name in turn}
        for at in range(WARM_UP + count):
            for name, work in turn.items():
                begun = time.perf_counter()
                await work(at)
                if at >= WARM_UP:
                    taken[name].append(time.perf_counter() - begun)
            # What the workflow took the plain consumer gets, too.
            await consumer.getone()
        return taken
    finally:
        await consumer.stop()
        await producer.stop()


async def _among_others(servers: str, count: int, numbers: Sequence[int]) -> dict[str, Any]:
    """How long a message takes to the result of its workflow among so many others that wait."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=0)
    await producer.start()
    figures: dict[str, Any] = {"events": count}
    waiting = 0
    try:
        await producer.send_and_wait(TOPIC, b"0", key=b"first")
        for number in numbers:
            begun = time.perf_counter()
            for first in range(waiting, number, _SUBMITTED_AT_ONCE):
                several = range(first, min(first + _SUBMITTED_AT_ONCE, number))
                await asyncio.gather(*(workflow.aio.submit(_other(at), workflow_id=f"other-{at}") for at in several))
            submitted_s, waiting = time.perf_counter() - begun, number
            taken = []
            for at in range(WARM_UP + count):
                key = f"{number}-{at}"
                event = workflow.wait_for_event(KafkaListener, topic=TOPIC, key=key)
                value = await _waiting(key, event)
                await _until_read()
                begun = time.perf_counter()
                await producer.send_and_wait(TOPIC, b"1", key=key.encode())
                _check(ray.get(value).key, key)
                if at >= WARM_UP:
                    taken.append(time.perf_counter() - begun)
            figures[f"among {number}"] = {
                "median_ms": round(statistics.median(taken) * 1e3, 2),
                "p99_ms": round(_p99(taken) * 1e3, 2),
                "submitted_s": round(submitted_s, 1),
            }
        running = len(await workflow.aio.list_all("RUNNING"))
        if running != max(numbers):
            raise AssertionError(f"{running} workflows wait where {max(numbers)} should: a message woke others")
        return figures
    finally:
        await producer.stop()


def _other(at: int) -> Any:
    return workflow.wait_for_event(KafkaListener, topic=TOPIC, key=f"other-{at}")


async def _until_read() -> None:
    deadline = time.monotonic() + _BEGINNING_S
    while not any(source.partitions for source in await workflow.aio.event_sources()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the topic is not read after {_BEGINNING_S:g} s: {workflow.event_sources()}")
        await asyncio.sleep(_LOOK_EVERY_S)


async def _turns(producer: Any, consumer: Any, count: int) -> dict[str, Callable[[int], Awaitable[None]]]:
    """What is done at each turn, by name; the workflows wait already."""
    echo = Echo.remote()
    by_event = [await _waiting(f"event-{at}", workflow.wait_for_event(HTTPListener, "key")) for at in range(count)]
    by_kafka = [
        await _waiting(f"kafka-{at}", workflow.wait_for_event(KafkaListener, topic=TOPIC, key=f"key-{at}"))
        for at in range(count)
    ]
    await _until_read()

    # Values are waited for by `ray.get`, as most callers do: only the clients of Kafka are in need of the loop.
    async def plain_consumer(at: int) -> None:
        await producer.send_and_wait(TOPIC, str(at).encode(), key=b"plain")
        _check((await consumer.getone()).value, str(at).encode())

    async def event(at: int) -> None:
        workflow.send_event(f"event-{at}", "key", at)
        _check(ray.get(by_event[at]), ("key", at))

    async def call(at: int) -> None:
        _check(ray.get(echo.say.remote(at)), at)

    async def through_kafka(at: int) -> None:
        await producer.send_and_wait(TOPIC, str(at).encode(), key=f"key-{at}".encode())
        _check(ray.get(by_kafka[at]).value, at)

    return {"kafka_plain_consumer": plain_consumer, "event": event, "actor_call": call, "through_kafka": through_kafka}


async def _waiting(workflow_id: str, event: Any) -> ray.ObjectRef[Any]:
    return await workflow.aio.run_async(event, workflow_id=workflow_id)


def _p99(taken_s: list[float]) -> float:
    return sorted(taken_s)[int(len(taken_s) * 0.99)]


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"the workload gave {found!r} where {expected!r} was expected")


if __name__ == "__main__":
    main()
