"""The line by which customers' confirmations come: a Kafka topic, and the one who writes to it.

The Kafka is that of `KAFKA_BOOTSTRAP_SERVERS`, or else one inside this process, which forgets everything when the demo
ends. For that one a journal is kept, and at the next start all of it is said again. Nothing in here reads messages:
that is Holdfast's part.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # not re-exported by name

from deploy.kafka.in_process import InProcessBroker
from holdfast import workflow
from holdfast.listeners import KafkaListener

TOPIC = "topic"
JOURNAL = "confirmations.jsonl"
CONFIRMED = {"confirmed": True}
LINE_TEST = "line-test"
ACTIVE = ("RUNNING", "PENDING")

PARTITIONS = 4
PATIENCE_S = 10.0
LOOK_EVERY_S = 0.2
LINE_TEST_INTERVAL_S = 0.5
LINE_TEST_PATIENCE_S = 60.0


class LineError(Exception):
    """Kafka does not take messages, or they do not arrive."""


class Confirmations:
    """Opens the line, and says on it who has confirmed.

    Args:
        folder: The demo's, which remembers the topic and, where it is needed, what was said.

    Attributes:
        servers: Where Kafka answers.
        topic: Made anew for a demo that starts afresh, kept by one that goes on.
        where: What Kafka that is, for people.

    Raises:
        LineError: Kafka cannot be reached, or has no topic for us.
    """

    def __init__(self, folder: Path) -> None:
        given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        self._broker = None if given else InProcessBroker()
        self.servers = given or self._bootstrap_servers()
        self.where = f"the servers {given}" if given else "in this process"
        self.topic = _kept_topic(folder / TOPIC)
        # Nothing is sent twice or overtakes, also when an answer of the server is lost.
        self._producer: Any = Producer({"bootstrap.servers": self.servers, "enable.idempotence": True, "log_level": 0})
        try:
            if given:
                _make_topic(given, self.topic)
            self._partitions = self._count_partitions()
        except KafkaException as error:
            raise LineError(f"Kafka at {self.servers} gives no topic {self.topic}: {error}") from error
        self._journal = folder / JOURNAL
        if self._broker is not None:
            self._say_all_again()

    def _bootstrap_servers(self) -> str:
        assert self._broker is not None
        return self._broker.bootstrap_servers

    def tell(self, keys: Iterable[str]) -> None:
        """Say that these customers have confirmed; returns when Kafka has it. Safe to say again.

        Raises:
            LineError: Kafka did not take it.
        """
        said = [(zlib.crc32(key.encode()) % self._partitions, key, CONFIRMED) for key in keys]
        if not said:
            return
        if self._broker is not None:
            # First: what was said and not written down would be lost with the broker.
            with self._journal.open("a") as journal:
                journal.writelines(json.dumps(entry) + "\n" for entry in said)
        self._send(said)

    def close(self) -> None:
        """End the broker, if it is ours."""
        self._producer = None
        if self._broker is not None:
            self._broker.close()

    def __enter__(self) -> Confirmations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say_all_again(self) -> None:
        """Give a new broker all messages of the old one, in the same partitions and order.

        So a confirmation that was not read before the demo was stopped is read now. Those that were read find nobody
        who waits for them any more.
        """
        if not self._journal.exists():
            return
        lines = self._journal.read_text().splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            # Stopped in the middle of writing it down, so it was not said.
            lines.pop()
            self._journal.write_text("".join(lines))
        self._send([tuple(json.loads(line)) for line in lines])

    def _send(self, messages: Iterable[tuple[int, str, Any]]) -> None:
        problems: list[Any] = []
        for partition, key, value in messages:
            self._producer.produce(
                self.topic,
                json.dumps(value).encode(),
                key.encode(),
                partition=partition,
                on_delivery=lambda error, _message: problems.append(error) if error is not None else None,
            )
        deadline_s = time.monotonic() + PATIENCE_S
        # In short pieces: a Ctrl-C is heard in between.
        while self._producer.flush(LOOK_EVERY_S) > 0:
            if time.monotonic() > deadline_s:
                raise LineError(f"Kafka at {self.servers} has not taken messages for {PATIENCE_S:g} s.")
        if problems:
            raise LineError(f"Kafka at {self.servers} did not take a message: {problems[0]}")

    def _count_partitions(self) -> int:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            # Asked for a topic, the broker in this process makes it.
            found = self._producer.list_topics(self.topic, timeout=PATIENCE_S).topics[self.topic]
            if found.error is None and found.partitions:
                return len(found.partitions)
            if time.monotonic() > deadline_s:
                raise LineError(f"Kafka at {self.servers} has no topic {self.topic}: {found.error}")
            time.sleep(LOOK_EVERY_S)


def open_line(line: Confirmations) -> None:
    """Talk on the line until a workflow hears it.

    A topic is read from when somebody first asked for it, by the times of its messages. The broker in this process
    cannot look messages up by their time: there, what was said before the first reading is not heard. So nothing that
    matters is said before this returns.

    Raises:
        LineError: Nothing is heard.
    """
    status = str(dict(workflow.list_all()).get(LINE_TEST))
    if status == "SUCCESSFUL":
        # Stopped before it was deleted: this run tests anew.
        workflow.delete(LINE_TEST)
    if status not in ACTIVE:
        heard = workflow.wait_for_event(KafkaListener, topic=line.topic, key=LINE_TEST)
        workflow.submit(heard, workflow_id=LINE_TEST)
    deadline_s = time.monotonic() + LINE_TEST_PATIENCE_S
    while str(workflow.get_status(LINE_TEST)) in ACTIVE:
        if time.monotonic() > deadline_s:
            raise LineError(
                f"nothing said on topic {line.topic} at {line.servers} was heard: {workflow.event_sources()}"
            )
        line.tell([LINE_TEST])
        time.sleep(LINE_TEST_INTERVAL_S)
    workflow.delete(LINE_TEST)


def _kept_topic(path: Path) -> str:
    name = path.read_text() if path.exists() else ""
    if not name:
        name = f"confirmations-{uuid4().hex[:8]}"
        path.write_text(name)
    return name


def _make_topic(servers: str, topic: str) -> None:
    """Servers may not make topics by themselves."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    if topic not in admin.list_topics(timeout=PATIENCE_S).topics:
        for made in admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS)]).values():
            made.result(timeout=PATIENCE_S)
