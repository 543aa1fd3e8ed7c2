"""Many messages, many workflows, while processes die: each effect once, by audit."""

from __future__ import annotations

import collections
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import KafkaListener
from tests.integration.leftovers import until
from tests.kafka.running_kafka import RunningKafka

WAITERS = 5_000
STARTED = 5_000
CHUNKS = 20
KILLS = 20
RESTARTS = 3


@pytest.fixture(scope="module")
def platform(local_ray: None, kafka: RunningKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("platform") / "storage"
    connection = {"bootstrap_servers": kafka.bootstrap_servers, "request_timeout_s": 10}
    workflow.init(str(folder), kafka={"default": connection})
    yield folder
    workflow.shutdown()


class Killer:
    """Kills the management actor again and again."""

    def __init__(self) -> None:
        self.kills = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = 0
        while not self._stop.is_set():
            try:
                pid = int(workflow.platform_status()["management"]["pid"])
            except ray.exceptions.RayError:
                continue
            if pid != last:
                os.kill(pid, signal.SIGKILL)
                self.kills += 1
                last = pid

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@ray.remote
def note(folder, message):
    """The effect: a line of its own for each time that it is had."""
    with open(f"{folder}/effects-{os.getpid()}", "a") as effects:
        effects.write(f"{message.key} {message.partition} {message.offset}\n")
    return message.value["n"], message.partition, message.offset


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_message_has_its_effect_once_while_everything_dies(
    kafka: RunningKafka, platform: Path, tmp_path: Path
) -> None:
    assert kafka.broker, "the server is restarted"
    topic = kafka.make_topic(partitions=6)
    folder = str(tmp_path)

    def start(message):
        return note.bind(folder, message)

    rule = workflow.on_event(
        KafkaListener, topic=topic, where={"kind": "order"}, start=start, workflow_id="order-{value[n]}"
    )
    for number in range(WAITERS):
        paid = workflow.wait_for_event(KafkaListener, topic=topic, key=f"pay-{number}")
        workflow.submit(note.bind(folder, paid), workflow_id=f"waiter-{number}")
    until(lambda: any(source.partitions for source in workflow.event_sources()), 120)

    # Each twice: a second payment is nobody's, a second order is one that is known.
    messages = [(f"pay-{number}", f'{{"kind": "payment", "n": {number}}}') for number in range(WAITERS)]
    messages += [(f"order-{number}", f'{{"kind": "order", "n": {number}}}') for number in range(STARTED)]
    messages = messages[::2] + messages[1::2]
    messages += messages
    size = len(messages) // CHUNKS
    first: dict[str, tuple[int, int]] = {}
    killer = Killer()
    try:
        for chunk in range(CHUNKS):
            sent = messages[chunk * size : (chunk + 1) * size]
            for partition in range(6):
                own = [message for message in sent if hash(message[0]) % 6 == partition]
                written = kafka.produce(topic, own, partition=partition)
                for (key, _), at in zip(own, written, strict=True):
                    first.setdefault(str(key), at)
            if chunk % (CHUNKS // RESTARTS) == 2:
                kafka.broker.restart(crash=chunk % 2 == 0)
            wanted = (chunk + 1) * KILLS // CHUNKS
            until(lambda wanted=wanted: killer.kills >= wanted, 120)
    finally:
        killer.stop()
    assert killer.kills >= KILLS

    began = time.monotonic()
    until(lambda: len(workflow.list_all(workflow.SUCCESSFUL)) == WAITERS + STARTED, 900)
    print(f"all {WAITERS + STARTED} ended {time.monotonic() - began:.1f} s after the last message")
    until(lambda: sum(s.started + s.repeated for s in workflow.list_event_subscriptions()) == 2 * STARTED, 300)
    (subscription,) = [found for found in workflow.list_event_subscriptions() if found.name == rule]
    assert (subscription.started, subscription.repeated) == (STARTED, STARTED)
    assert len(workflow.list_all()) == WAITERS + STARTED

    effects = collections.Counter(line for part in tmp_path.glob("effects-*") for line in part.read_text().splitlines())
    assert effects == {f"{key} {partition} {offset}": 1 for key, (partition, offset) in first.items()}
    for number in range(WAITERS):
        assert workflow.get_output(f"waiter-{number}") == (number, *first[f"pay-{number}"])
    for number in range(STARTED):
        assert workflow.get_output(f"order-{number}") == (number, *first[f"order-{number}"])
    (source,) = workflow.event_sources()
    assert (source.accepted, source.lag) == (len(messages), 0)
    assert workflow.dead_letters() == []
