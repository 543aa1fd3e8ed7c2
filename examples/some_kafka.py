"""A Kafka for the examples, and how they write to it and wait until it is read.

It is that of `KAFKA_BOOTSTRAP_SERVERS`, which has to make topics by itself, or else one inside this process. That one
cannot tell which of its messages are young, so nothing is written to a topic before it is read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer

from holdfast import workflow

LONGEST_S = 60.0


@contextmanager
def kafka() -> Iterator[str]:
    """Servers to connect to."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    from deploy.kafka.in_process import InProcessBroker  # noqa: PLC0415 - needs a package that only it needs

    with InProcessBroker() as broker:
        yield broker.bootstrap_servers


async def make_topics(servers: str, *topics: str) -> None:
    """Ask for topics, which makes them: Holdfast reads those that are there."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for topic in topics:
            await producer.partitions_for(topic)


async def produce(servers: str, topic: str, messages: list[tuple[str, Any]]) -> None:
    """Send (key, value) each, as JSON."""
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for key, value in messages:
            await producer.send_and_wait(topic, json.dumps(value).encode(), key=key.encode())


def wait_until_read(topic: str) -> None:
    """Wait until a topic, which somebody has asked for, is being read."""

    def is_read() -> bool:
        sources = {source.name: source for source in workflow.event_sources()}
        source = sources.get(f"kafka/default/{topic}")
        # Reading has begun where the partitions have positions.
        return source is not None and source.state == "reading" and len(source.partitions) > 0

    wait_until(is_read, f"{topic} is not read")


def wait_until(true: Callable[[], bool], problem: str) -> None:
    """Wait for a condition; give up with the problem when it takes too long."""
    deadline = time.monotonic() + LONGEST_S
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem}, and {LONGEST_S:g} s have passed")
        time.sleep(0.1)
