"""A Kafka for the tests, and what they do to it through a client that is not ours."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from deploy.kafka.broker import Broker, why_none
from deploy.kafka.in_process import InProcessBroker

_ANSWERING_S = 60.0

Message = tuple[str | bytes | None, str | bytes | None]


class RunningKafka:
    """One node: a real Apache Kafka, or without Java librdkafka's broker in this process.

    Args:
        broker: A real one, not started yet, that is set up in some other way than usual; closed with this.
    """

    def __init__(self, broker: Broker | None = None) -> None:
        self.missing = why_none()
        self._broker: Broker | InProcessBroker = broker or (InProcessBroker() if self.missing else Broker())
        if isinstance(self._broker, Broker):
            self._broker.start()
        self.bootstrap_servers = self._broker.bootstrap_servers
        # What a broker that is restarted does to a client is not worth a line of log here.
        self._settings = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        self._admin = AdminClient(self._settings)

    @property
    def broker(self) -> Broker:
        """The real one; a test that asks for it is skipped where there is none."""
        if not isinstance(self._broker, Broker):
            pytest.skip(f"needs a real Kafka, and {self.missing}")
        return self._broker

    def make_topic(self, *, partitions: int = 1, name: str = "", config: Mapping[str, str] | None = None) -> str:
        """A new topic, under a name of its own when none is given. Without a real Kafka it has four partitions."""
        name = name or f"topic-{uuid.uuid4().hex[:12]}"
        if isinstance(self._broker, Broker):
            topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
            self._settle(lambda: self._admin.create_topics([topic]))
        self._writer().list_topics(name, timeout=_ANSWERING_S)
        return name

    def delete_topic(self, name: str) -> None:
        self._settle(lambda: self._admin.delete_topics([name]))

    def add_partitions(self, name: str, total: int) -> None:
        self._settle(lambda: self._admin.create_partitions([NewPartitions(name, total)]))

    def delete_records(self, name: str, before: int, *, partition: int = 0) -> None:
        """Have the server forget what came before an offset, as its retention would."""
        self._settle(lambda: self._admin.delete_records([TopicPartition(name, partition, before)]))

    def produce(
        self,
        topic: str,
        messages: Iterable[Message],
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
        timestamp_ms: int | None = None,
    ) -> list[tuple[int, int]]:
        """Write messages, (key, value) each, and wait until the server has them: (partition, offset) of each."""
        written: list[tuple[int, int]] = []
        more: dict[str, Any] = {}
        if partition is not None:
            more["partition"] = partition
        if headers is not None:
            more["headers"] = list(headers.items())
        if timestamp_ms is not None:
            more["timestamp"] = timestamp_ms

        def tell(error: Any, message: Any) -> None:
            assert error is None, error
            written.append((message.partition(), message.offset()))

        producer = self._writer()
        for key, value in messages:
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=tell, **more)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(_ANSWERING_S) == 0, "the server did not take all messages"
        return written

    def transaction(self, topic: str, messages: Iterable[Message], *, commit: bool, partition: int = 0) -> None:
        """Write messages in one transaction, and end it."""
        producer = Producer({**self._settings, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(_ANSWERING_S)
        producer.begin_transaction()
        for key, value in messages:
            producer.produce(topic, value, key, partition=partition)
        producer.flush(_ANSWERING_S)
        if commit:
            producer.commit_transaction(_ANSWERING_S)
        else:
            producer.abort_transaction(_ANSWERING_S)

    def member_of(self, group: str, topic: str) -> Consumer:
        """A member of a consumer group that has joined it; to be closed."""
        consumer = Consumer({**self._settings, "group.id": group, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        while not consumer.assignment():
            consumer.poll(0.1)
        return consumer

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """The offset that a group has committed; negative for none."""
        consumer = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})
        try:
            (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=_ANSWERING_S)
            return int(found.offset)
        finally:
            consumer.close()

    def close(self) -> None:
        self._broker.close()

    def _writer(self) -> Producer:
        # A new one each time: one that is older may know a topic as it was before it was changed.
        settings = {"linger.ms": 1, "acks": "all", "enable.idempotence": True, "message.max.bytes": 50_000_000}
        return Producer({**self._settings, **settings})

    def _settle(self, ask: Callable[[], Mapping[Any, Any]]) -> None:
        """Ask for one thing, and wait until it is done."""
        deadline = time.monotonic() + _ANSWERING_S
        while True:
            (future,) = ask().values()
            try:
                future.result(timeout=_ANSWERING_S)
                return
            except KafkaException as error:
                # A machine that is busy may keep the only server from saying in time that it lives: it says so soon.
                fenced = error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR
                if not fenced or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
