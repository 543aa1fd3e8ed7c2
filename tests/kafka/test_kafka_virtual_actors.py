"""Virtual actors that Kafka messages call, through a real server: each message counts once, in the order of its key."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import KafkaListener, KafkaMessage
from tests.integration.leftovers import until
from tests.kafka.running_kafka import RunningKafka
from tests.recovery.chaos import seed_or
from tests.recovery.processes import of_role

DEVICES = 12
CHUNKS = 24
A_CHUNK = 60
KILLED = ("virtual actor host", "event source host", "management")
KILLS_OF_EACH = 6
SEED = 71120


@pytest.fixture(scope="module")
def platform(local_ray: None, kafka: RunningKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("platform") / "storage"
    connection = {"bootstrap_servers": kafka.bootstrap_servers, "request_timeout_s": 10}
    workflow.init(str(folder), kafka={"default": connection})
    yield folder
    workflow.shutdown()


@pytest.fixture
def wid(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def topic(kafka: RunningKafka, platform: Path) -> str:
    return kafka.make_topic(partitions=4)


def is_read(topic: str) -> bool:
    """Whether the topic is read already: what is written from now on comes after it was asked for."""
    return any(one.name == f"kafka/default/{topic}" and one.partitions for one in workflow.event_sources())


def device_of(topic: str, prefix: str, **rule: Any) -> Any:
    given: dict[str, Any] = {"actor_id": prefix + "-{key}", **rule}

    @workflow.virtual_actor
    class Device:
        def __init__(self) -> None:
            self.read: list[Any] = []

        @workflow.on_event(KafkaListener, topic=topic, **given)
        def measured(self, message: Any) -> None:
            taken = (message.partition, message.offset, message.value) if isinstance(message, KafkaMessage) else message
            self.read.append(taken)

        @workflow.virtual_actor.readonly
        def all_read(self) -> list[Any]:
            return self.read

    return Device


def count_of(rule: str) -> int:
    (found,) = [one for one in workflow.list_event_subscriptions() if one.name == rule]
    return found.started


def all_read(actor_id: str) -> list[Any]:
    """What an actor has read when its mailbox is empty."""
    until(lambda: workflow.get_status(actor_id) != workflow.RUNNING, 60)
    read: list[Any] = workflow.get_actor(actor_id).all_read.run()
    return read


def test_a_message_calls_the_actor_of_its_key(kafka, topic, wid) -> None:
    (rule,) = workflow.subscribe(device_of(topic, wid))
    until(lambda: is_read(topic))
    written = kafka.produce(topic, [("x", "1"), ("x", "2")]), kafka.produce(topic, [("y", "3")])
    until(lambda: count_of(rule) == 3)
    (first, second), (third,) = written
    assert all_read(f"{wid}-x") == [(*first, 1), (*second, 2)]
    assert all_read(f"{wid}-y") == [(*third, 3)]
    workflow.delete_event_subscription(rule)


def test_a_method_gets_what_a_deserializer_makes(kafka, topic, wid) -> None:
    (rule,) = workflow.subscribe(
        device_of(
            topic, wid, deserializer=lambda value: value.decode(), actor_id=lambda message: f"{wid}-{message.key}"
        )
    )
    until(lambda: is_read(topic))
    kafka.produce(topic, [("x", "not json")])
    until(lambda: count_of(rule) == 1)
    assert all_read(f"{wid}-x") == ["not json"]
    workflow.delete_event_subscription(rule)


def test_messages_for_an_actor_that_takes_none_are_in_its_mailbox(kafka, topic, wid, tmp_path) -> None:
    gate = tmp_path / "gate"

    @workflow.virtual_actor(on_error="suspend", mailbox_limit=2)
    class Held:
        def __init__(self) -> None:
            self.read: list[Any] = []

        @workflow.on_event(KafkaListener, topic=topic, actor_id=lambda message: f"{wid}-{message.key}")
        def measured(self, message: Any) -> None:
            if not gate.exists():
                raise ValueError(message.value)
            self.read.append(message.value)

        @workflow.virtual_actor.readonly
        def all_read(self) -> list[Any]:
            return self.read

    (rule,) = workflow.subscribe(Held)
    until(lambda: is_read(topic))
    kafka.produce(topic, [("x", str(number)) for number in range(6)])
    source = f"kafka/default/{topic}"
    until(lambda: [one.accepted for one in workflow.event_sources() if one.name == source] == [6])
    until(lambda: workflow.list_actors(prefix=wid))
    until(lambda: workflow.get_status(f"{wid}-x") == workflow.RESUMABLE)
    # As many as there is room for have a number already, and the others come after them.
    assert workflow.describe(f"{wid}-x").mailbox_length == 6
    gate.touch()
    workflow.resume(f"{wid}-x")
    until(lambda: count_of(rule) == 6)
    assert all_read(f"{wid}-x") == list(range(6))
    assert workflow.describe(f"{wid}-x").mailbox_length == 0
    workflow.delete_event_subscription(rule)


def test_a_method_waits_for_a_message_by_returning_it(kafka, topic, wid) -> None:
    @workflow.virtual_actor
    class Order:
        def pay(self, topic: str) -> Any:
            return workflow.wait_for_event(KafkaListener, topic=topic, key="paid")

    value = Order.get_or_create(wid).pay.run_async(topic)
    until(lambda: is_read(topic))
    kafka.produce(topic, [("other", "1"), ("paid", "2")])
    assert ray.get(value, timeout=60).value == 2


def test_the_example_in_the_manual_does_what_it_says(kafka, platform) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
    example = manual.partition("## Virtual actors")[2].split("```python\n")[1].split("```")[0]
    topic = kafka.make_topic(name="readings")
    exec(example, {"__name__": "example", "workflow": workflow, "KafkaListener": KafkaListener})
    until(lambda: is_read(topic))
    kafka.produce(topic, [("north", "21"), ("north", "23"), ("north", "22")])
    until(lambda: sum(one.started for one in workflow.list_event_subscriptions()) == 3)
    until(lambda: workflow.get_status("device-north") == workflow.SUCCESSFUL)
    found = workflow.describe("device-north")
    assert (found.state_version, found.last_call, found.last_error) == (4, "measured_2", "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_message_counts_once_in_order_while_what_reads_and_calls_is_killed(kafka, topic, wid) -> None:
    random = Random(seed_or(SEED))
    (rule,) = workflow.subscribe(device_of(topic, wid))
    until(lambda: is_read(topic), 60)
    sent: dict[str, list[tuple[int, int, int]]] = {f"device-{number}": [] for number in range(DEVICES)}
    killed: Counter[str] = Counter()
    numbers = Counter[str]()
    began = time.monotonic()
    for _ in range(CHUNKS):
        chunk: dict[int, list[tuple[str, str]]] = {}
        for _ in range(A_CHUNK):
            key = random.choice(list(sent))
            numbers[key] += 1
            # The keys of a partition are its own.
            chunk.setdefault(int(key.rpartition("-")[2]) % 4, []).append((key, str(numbers[key])))
        for partition, messages in chunk.items():
            for (key, value), at in zip(messages, kafka.produce(topic, messages, partition=partition), strict=True):
                sent[key].append((*at, int(value)))
        wanted = [role for role in KILLED if killed[role] < KILLS_OF_EACH]
        if wanted:
            role = random.choice(wanted)
            until(lambda role=role: of_role(role), 60)
            killed[role] += random.choice(of_role(role)).kill()
    total = CHUNKS * A_CHUNK
    until(lambda: count_of(rule) == total, 90)
    took_s = time.monotonic() - began
    found = {key: all_read(f"{wid}-{key}") for key in sent if sent[key]}
    print(f"{total} messages, killed {dict(killed)}, {took_s:.1f} s")
    assert found == {key: taken for key, taken in sent.items() if taken}
    assert killed.total() == KILLS_OF_EACH * len(KILLED)
    (source,) = [one for one in workflow.event_sources() if one.name == f"kafka/default/{topic}"]
    assert source.accepted == total
    assert workflow.dead_letters(source.name) == []
    workflow.delete_event_subscription(rule)
