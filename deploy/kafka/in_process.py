"""A Kafka of no process of its own: librdkafka's broker for tests, in this process.

For a demo, and for machines without Java. It speaks the protocol and keeps everything in memory, so it forgets
all when it is closed. Topics make themselves when they are first asked for, with four partitions. Needs
`confluent-kafka`, which the `dev` extra brings. Not for what only a real server does: transactions, retention,
restarts.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from confluent_kafka import Producer

_STARTING_S = 30.0


class InProcessBroker:
    """Brokers on free loopback ports, until they are closed.

    Args:
        brokers: How many.

    Attributes:
        bootstrap_servers: Where clients connect to: host and port of each.
    """

    def __init__(self, brokers: int = 1) -> None:
        # The broker belongs to the client that asks for it, and ends with it.
        self._owner: Any = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": brokers, "log_level": 0})
        found = self._owner.list_topics(timeout=_STARTING_S).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in found)

    def close(self) -> None:
        """End it; again: no effect."""
        self._owner = None

    def __enter__(self) -> InProcessBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
