"""Workflows that wait for Kafka messages, and that messages start, through a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from holdfast.listeners import KafkaListener
from tests.integration.leftovers import until
from tests.kafka.running_kafka import RunningKafka
from tests.printed import own_lines

wait_for_event = workflow.wait_for_event


def default_connection(kafka: RunningKafka) -> dict[str, Any]:
    return {"bootstrap_servers": kafka.bootstrap_servers, "request_timeout_s": 10, "max_message_bytes": 100_000}


@pytest.fixture(scope="module")
def platform(local_ray: None, kafka: RunningKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("platform") / "storage"
    connection = default_connection(kafka)
    workflow.init(str(folder), kafka={"default": connection, "strict": {**connection, "max_message_bytes": 100}})
    yield folder
    workflow.shutdown()


@pytest.fixture
def wid(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def topic(kafka: RunningKafka, platform: Path) -> str:
    return kafka.make_topic(partitions=2)


@ray.remote(num_cpus=0)
def both(*values):
    return values


@ray.remote(num_cpus=0)
def value_of(message):
    return message.value


def is_read(topic: str, cluster: str = "default") -> bool:
    """Whether the topic is read already: what is written from now on comes after it was asked for."""
    return any(s.name == f"kafka/{cluster}/{topic}" and s.partitions for s in workflow.event_sources())


def start_waiting(wid: str, topic: str, *nodes: Any) -> ray.ObjectRef[Any]:
    value = workflow.run_async(both.bind(*nodes), workflow_id=wid)
    until(lambda: is_read(topic))
    return value


AN_HOUR_MS = 3_600_000


def now_ms() -> int:
    return int(time.time() * 1000)


def test_what_is_written_right_after_the_acceptance_is_read_whatever_its_time_says(kafka, platform, wid) -> None:
    topic = kafka.make_topic()
    kafka.produce(topic, [("k", '"before"')], timestamp_ms=now_ms() + AN_HOUR_MS)
    value = workflow.run_async(both.bind(wait_for_event(KafkaListener, topic=topic)), workflow_id=wid)
    kafka.produce(topic, [("k", '"after"')], timestamp_ms=now_ms() - AN_HOUR_MS)
    (message,) = ray.get(value, timeout=60)
    assert message.value == "after"


def test_a_rule_starts_workflows_from_what_is_written_right_after_it_was_made(kafka, platform, wid) -> None:
    topic = kafka.make_topic()
    kafka.produce(topic, [("before", "1")], timestamp_ms=now_ms() + AN_HOUR_MS)
    workflow.on_event(KafkaListener, topic, start=value_of, workflow_id=wid + "-{key}", name=wid)
    kafka.produce(topic, [("after", "2")], timestamp_ms=now_ms() - AN_HOUR_MS)
    until(lambda: f"{wid}-after" in dict(workflow.list_all()))
    assert workflow.get_output(f"{wid}-after") == 2
    assert f"{wid}-before" not in dict(workflow.list_all())
    workflow.delete_event_subscription(wid)


def test_a_connection_that_is_not_there_keeps_nobody_from_being_accepted_and_that_is_said(platform, wid) -> None:
    node = both.bind(wait_for_event(KafkaListener, topic=wid, cluster="nowhere"))
    workflow.run_async(node, workflow_id=wid)
    (source,) = [each for each in workflow.event_sources() if each.name == f"kafka/nowhere/{wid}"]
    assert source.state == "unconfigured"
    assert "not reached in time" in source.last_error
    workflow.cancel(wid)


def test_a_message_is_waited_for_by_key(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="b"))
    kafka.produce(topic, [("a", "1")])
    kafka.produce(topic, [("b", '{"paid": true}')], headers={"from": b"bank"}, timestamp_ms=int(time.time() * 1000))
    (message,) = ray.get(value, timeout=60)
    assert (message.topic, message.key, message.value) == (topic, "b", {"paid": True})
    assert message.headers == (("from", b"bank"),)
    assert abs(message.timestamp - time.time()) < 60
    assert (message.partition in (0, 1), message.offset in (0, 1)) == (True, True)


def test_a_message_is_waited_for_by_the_fields_of_its_value(kafka, topic, wid) -> None:
    value = start_waiting(
        wid, topic, value_of.bind(wait_for_event(KafkaListener, topic=topic, where={"order": 7, "state": "paid"}))
    )
    for sent in ('{"order": 7, "state": "new"}', '{"order": 8, "state": "paid"}', "[7]"):
        kafka.produce(topic, [("k", sent)])
    kafka.produce(topic, [("k", '{"order": 7, "state": "paid", "by": "card"}')])
    assert ray.get(value, timeout=60) == ({"order": 7, "state": "paid", "by": "card"},)


def test_any_message_of_a_topic_is_waited_for(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, value_of.bind(wait_for_event(KafkaListener, topic)))
    kafka.produce(topic, [(None, '"first"')])
    assert ray.get(value, timeout=60) == ("first",)


def test_a_message_that_comes_before_its_waiter_waits_for_it(kafka, topic, wid, tmp_path) -> None:
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=0)
    def when_open():
        while not gate.exists():
            time.sleep(0.02)
        return "k"

    @ray.remote(num_cpus=0)
    def then_wait(key):
        return workflow.continuation(value_of.bind(wait_for_event(KafkaListener, topic=topic, key=key)))

    value = workflow.run_async(then_wait.bind(when_open.bind()), workflow_id=wid)
    kafka.produce(topic, [("k", '"early"')])
    gate.touch()
    assert ray.get(value, timeout=60) == "early"


def test_raw_values_come_as_bytes_whatever_they_are(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, value_of.bind(wait_for_event(KafkaListener, topic=topic, key="k", raw=True)))
    kafka.produce(topic, [("k", b"\xff{")])
    assert ray.get(value, timeout=60) == (b"\xff{",)
    assert workflow.dead_letters(f"kafka/default/{topic}") == []


def test_a_deserializer_makes_the_event_of_the_bytes_in_a_task(kafka, topic, wid) -> None:
    def split(value):
        return value.decode().split(";"), os.getpid()

    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="k", deserializer=split))
    kafka.produce(topic, [("k", "a;b")])
    ((parts, pid),) = ray.get(value, timeout=60)
    assert parts == ["a", "b"]
    status = workflow.platform_status()
    assert pid not in {status["management"]["pid"], *(executor["pid"] for executor in status["executors"])}


def test_a_deserializer_that_fails_fails_the_workflow_which_can_be_resumed(kafka, topic, wid, tmp_path) -> None:
    repaired = tmp_path / "repaired"

    def parse(value):
        if not repaired.exists():
            raise ValueError("not this version")
        return value.decode()

    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, deserializer=parse))
    kafka.produce(topic, [("k", "v2")])
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        ray.get(value, timeout=60)
    assert "not this version" in str(caught.value.__cause__)
    repaired.touch()
    assert workflow.resume(wid) == ("v2",)


def test_workflows_are_started_with_what_a_deserializer_makes(kafka, topic, wid) -> None:
    rule = workflow.on_event(
        KafkaListener,
        topic=topic,
        deserializer=lambda value: value.decode(),
        start=lambda text: text * 2,
        workflow_id=wid + "-{offset}",
    )
    with pytest.raises(TypeError, match="plain function"):
        workflow.on_event(KafkaListener, topic=topic, deserializer=bytes.decode, start=value_of)
    until(lambda: is_read(topic))
    kafka.produce(topic, [("k", "ab")])
    until(lambda: f"{wid}-0" in dict(workflow.list_all()))
    assert workflow.get_output(f"{wid}-0") == "abab"
    workflow.delete_event_subscription(rule)


def test_several_workflows_read_one_stream_in_order_each_message_once(kafka, topic, wid) -> None:
    @ray.remote(num_cpus=0)
    def three(topic, *values):
        if len(values) == 3:
            return values
        message = value_of.bind(workflow.wait_for_event(KafkaListener, topic=topic, key="k"))
        return workflow.continuation(three.bind(topic, *values, message))

    refs = [workflow.run_async(three.bind(topic), workflow_id=f"{wid}-{number}") for number in range(5)]
    until(lambda: is_read(topic))
    kafka.produce(topic, [("k", str(number)) for number in range(4)])
    assert ray.get(refs, timeout=60) == [(0, 1, 2)] * 5


def test_each_message_starts_its_workflow(kafka, topic, wid) -> None:
    rule = workflow.on_event(
        KafkaListener, topic=topic, start=lambda message: message.value["n"], workflow_id=wid + "-{value[n]}"
    )
    until(lambda: is_read(topic))
    kafka.produce(topic, [("k", f'{{"n": {number % 40}}}') for number in range(50)])
    until(lambda: sum((s.started, s.repeated) == (40, 10) for s in workflow.list_event_subscriptions()) == 1)
    assert [workflow.get_output(f"{wid}-{number}") for number in range(40)] == list(range(40))
    workflow.delete_event_subscription(rule)


def test_a_value_that_is_not_json_is_seen_and_replayed_with_one_that_is(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="k"))
    kafka.produce(topic, [("k", "{oops")])
    source = f"kafka/default/{topic}"
    until(lambda: workflow.dead_letters(source))
    (letter,) = workflow.dead_letters(source)
    assert letter.reason == "undecodable"
    shown = workflow.show_dead_letter(letter.id)
    assert shown.message is not None
    assert (shown.message.raw_value, shown.message.key, shown.details["offset"]) == (b"{oops", "k", 0)
    with pytest.raises(workflow.exceptions.DeadLetterNotReplayableError, match="value="):
        workflow.replay_dead_letter(letter.id)
    workflow.replay_dead_letter(letter.id, value={"mended": True})
    (message,) = ray.get(value, timeout=60)
    assert (message.value, message.offset) == ({"mended": True}, 0)
    assert workflow.dead_letters(source) == []
    with pytest.raises(workflow.exceptions.DeadLetterNotFoundError):
        workflow.show_dead_letter(letter.id)


def test_a_message_that_is_too_large_is_seen_and_replayed(kafka, topic, wid) -> None:
    value = workflow.run_async(wait_for_event(KafkaListener, topic=topic, cluster="strict"), workflow_id=wid)
    until(lambda: is_read(topic, "strict"))
    kafka.produce(topic, [("k", '"' + "x" * 200 + '"')])
    source = f"kafka/strict/{topic}"
    until(lambda: workflow.dead_letters(source))
    (letter,) = workflow.dead_letters(source)
    assert (letter.reason, letter.message) == ("oversized", None)
    workflow.replay_dead_letter(letter.id)
    assert ray.get(value, timeout=60).value == "x" * 200
    with pytest.raises(workflow.exceptions.DeadLetterNotFoundError):
        workflow.delete_dead_letter(letter.id)


def test_an_event_that_could_not_start_its_workflow_is_started_by_a_replay(kafka, topic, wid) -> None:
    def named(message):
        if message.value["n"] == 2:
            raise LookupError("no such customer")
        return f"{wid}-{message.value['n']}"

    def start(message):
        return message.value["n"]

    rule = workflow.on_event(KafkaListener, topic, start=start, workflow_id=named, name=wid)
    until(lambda: is_read(topic))
    kafka.produce(topic, [("k", '{"n": 1}'), ("k", '{"n": 2}'), ("k", '{"n": 3}')])
    source = f"kafka/default/{topic}"
    until(lambda: workflow.dead_letters(source))
    (letter,) = workflow.dead_letters(source)
    assert (letter.reason, "no such customer" in letter.error) == ("start-failed", True)
    workflow.on_event(KafkaListener, topic, start=start, workflow_id=wid + "-{value[n]}", name=wid)
    workflow.replay_dead_letter(letter.id)
    until(lambda: f"{wid}-2" in dict(workflow.list_all()))
    assert [workflow.get_output(f"{wid}-{number}") for number in (1, 2, 3)] == [1, 2, 3]
    assert workflow.dead_letters(source) == []
    workflow.delete_event_subscription(rule)


def test_how_reading_goes_is_seen_from_python(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="last"))
    kafka.produce(topic, [("k", str(number)) for number in range(20)])
    kafka.produce(topic, [("last", "1")])
    ray.get(value, timeout=60)

    def found() -> Any:
        return next(s for s in workflow.event_sources() if s.name == f"kafka/default/{topic}")

    until(lambda: found().lag == 0 and sum(p.end or 0 for p in found().partitions) == 21)
    source = found()
    assert (source.state, source.accepted, source.kept, source.expired) == ("reading", 21, 21, 0)
    assert source.rate_per_s > 0
    assert source.assignment_age_s is not None
    assert source.last_event_unix_s is not None


def test_a_topic_or_a_connection_that_is_not_there_is_said(kafka, platform, wid) -> None:
    workflow.run_async(wait_for_event(KafkaListener, topic="nowhere"), workflow_id=f"{wid}-1")
    workflow.run_async(wait_for_event(KafkaListener, topic="x", cluster="unheard-of"), workflow_id=f"{wid}-2")

    def states() -> dict[str, str]:
        return {s.name: s.state for s in workflow.event_sources()}

    until(lambda: states().get("kafka/unheard-of/x") == "unconfigured")
    if not kafka.missing:
        until(lambda: states().get("kafka/default/nowhere") == "missing")
    for number in (1, 2):
        workflow.cancel(f"{wid}-{number}")


def test_arguments_that_make_no_sense_are_refused_when_they_are_known(platform, wid) -> None:
    with pytest.raises(ValueError, match="'a/b' cannot be the name of a topic"):
        workflow.run(wait_for_event(KafkaListener, topic="a/b"), workflow_id=wid)
    assert wid not in dict(workflow.list_all())


def test_arguments_that_make_no_sense_fail_the_workflow_when_they_are_made_by_it(platform, wid) -> None:
    @ray.remote(num_cpus=0)
    def name():
        return "a/b"

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(wait_for_event(KafkaListener, topic=name.bind()), workflow_id=wid)
    assert isinstance(caught.value.__cause__, ValueError)


def kill_actor(name: str, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: ray.get(ray.get_actor(name, namespace=names.NAMESPACE).ping.remote()) != pid)


def test_a_death_of_the_reading_process_loses_and_repeats_nothing(kafka, topic, wid) -> None:
    @ray.remote(num_cpus=0)
    def count(topic, seen):
        if len(seen) == 6:
            return seen
        message = workflow.wait_for_event(KafkaListener, topic=topic, key="k")
        return workflow.continuation(add.bind(topic, seen, message))

    @ray.remote(num_cpus=0)
    def add(topic, seen, message):
        return count.bind(topic, [*seen, message.value])

    value = start_waiting(wid, topic, count.bind(topic, []))
    name = names.event_source_host_name("default")
    for number in range(0, 6, 2):
        kafka.produce(topic, [("k", str(number))])
        host = ray.get_actor(name, namespace=names.NAMESPACE)
        try:
            pid = ray.get(host.ping.remote())
            os.kill(pid, signal.SIGKILL)
        except ray.exceptions.RayError:
            pass
        kafka.produce(topic, [("k", str(number + 1))])
    assert ray.get(value, timeout=90) == ([0, 1, 2, 3, 4, 5],)


def test_the_status_of_the_platform_names_the_process_that_reads(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="k"))
    killed = _reader_of_default()
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    until(lambda: _reader_of_default() not in (None, killed))
    kafka.produce(topic, [("k", "1")])
    assert ray.get(value, timeout=60)[0].value == 1


def _reader_of_default() -> int | None:
    """The process that reads the connection `default`; other tests may have asked for others."""
    readers = {one["connection"]: one["pid"] for one in workflow.platform_status()["event_sources"]}
    return readers.get("default")


def test_a_death_of_the_management_actor_is_not_noticed(kafka, topic, wid) -> None:
    value = start_waiting(wid, topic, wait_for_event(KafkaListener, topic=topic, key="k"))
    os.kill(workflow.platform_status()["management"]["pid"], signal.SIGKILL)
    kafka.produce(topic, [("k", "1")])
    assert ray.get(value, timeout=60)[0].value == 1
    until(lambda: is_read(topic))


@pytest.mark.slow
def test_a_restart_of_the_server_is_survived(kafka, topic, wid) -> None:
    value = start_waiting(
        wid,
        topic,
        wait_for_event(KafkaListener, topic=topic, key="a"),
        wait_for_event(KafkaListener, topic=topic, key="b"),
    )
    kafka.produce(topic, [("a", "1")])
    kafka.broker.restart(crash=True)
    kafka.produce(topic, [("b", "2")])
    assert [message.value for message in ray.get(value, timeout=90)] == [1, 2]


@pytest.mark.slow
def test_what_was_waited_for_is_waited_for_after_a_loss_of_the_cluster(kafka, tmp_path) -> None:
    """In a process of its own: the module's platform stays what it is."""
    assert kafka.broker, "the message is written while nothing runs"
    topic = kafka.make_topic()
    script = """
import sys, ray
from holdfast import workflow
from holdfast.listeners import KafkaListener
folder, servers, topic, phase = sys.argv[1:]
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
if phase == "begin":
    workflow.init(folder, kafka={"default": {"bootstrap_servers": servers}})
    workflow.run_async(workflow.wait_for_event(KafkaListener, topic=topic, key="k"), workflow_id="w")
    while not any(source.partitions for source in workflow.event_sources()):
        pass
else:
    # The connection is known to the storage.
    workflow.init(folder, resume="auto")
    print(workflow.get_output("w").value, flush=True)
    workflow.shutdown()
ray.shutdown()
"""

    def play(phase: str) -> list[str]:
        command = [sys.executable, "-c", script, str(tmp_path / "storage"), kafka.bootstrap_servers, topic, phase]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        return own_lines(ran.stdout)

    play("begin")
    kafka.produce(topic, [("k", '"meanwhile"')])
    assert play("resume") == ["meanwhile"]


def test_a_connection_that_is_changed_is_read_by_its_new_settings(kafka, topic, wid) -> None:
    workflow.init(kafka={"moving": {"bootstrap_servers": "127.0.0.1:1"}})
    value = workflow.run_async(wait_for_event(KafkaListener, topic=topic, cluster="moving"), workflow_id=wid)

    def source() -> Any:
        return next((s for s in workflow.event_sources() if s.name == f"kafka/moving/{topic}"), None)

    until(lambda: (found := source()) is not None and found.state == "connecting")
    workflow.init(kafka={"moving": {"bootstrap_servers": kafka.bootstrap_servers}})
    until(lambda: is_read(topic, "moving"))
    kafka.produce(topic, [("k", "1")])
    assert ray.get(value, timeout=60).value == 1


def test_the_example_in_the_manual_does_what_it_says(kafka, platform) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()
    example = manual.split("```python\n")[1].split("```")[0]
    payments, orders = kafka.make_topic(name="payments"), kafka.make_topic(name="orders")
    try:
        exec(example.replace("broker1:9092,broker2:9092", kafka.bootstrap_servers), {"__name__": "example"})
        until(lambda: is_read(payments) and is_read(orders))
        kafka.produce(orders, [("order-8", "{}")])
        # A workflow reads from its submission: what it waits for comes after the message that starts it.
        until(lambda: "order-order-8" in dict(workflow.list_all()))
        kafka.produce(payments, [("order-7", '{"amount": 10}'), ("order-8", '{"amount": 20}')])
        assert workflow.get_output("settle-order-7") == "order-7 paid 10"
        assert workflow.get_output("order-order-8") == "order-8 paid 20"
    finally:
        workflow.init(kafka={"default": default_connection(kafka)})


def test_events_that_nobody_takes_go_when_there_are_too_many(kafka, topic, wid) -> None:
    workflow.init(kafka={"brief": {"bootstrap_servers": kafka.bootstrap_servers, "retention_bytes": 20_000}})
    workflow.submit(wait_for_event(KafkaListener, topic=topic, cluster="brief", key="never"), workflow_id=wid)
    until(lambda: is_read(topic, "brief"))
    kafka.produce(topic, [("k", '"' + "x" * 1000 + '"')] * 100)

    def source() -> Any:
        return next(s for s in workflow.event_sources() if s.name == f"kafka/brief/{topic}")

    until(lambda: source().expired > 0 and source().kept_bytes <= 20_000)
    assert (source().accepted, source().kept + source().expired) == (100, 100)
    workflow.cancel(wid)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"east": {}}, "'east' needs \"bootstrap_servers\""),
        ({"east": {"bootstrap_servers": "a:1", "sasl_plain_password": "hunter2"}}, "must not be written out"),
    ],
)
def test_a_connection_that_makes_no_sense_is_refused_by_init(platform, given, said) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        workflow.init(kafka=given)
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_a_flood_does_not_fill_the_memory_of_the_reading_process(kafka, topic, wid) -> None:
    connection = {"bootstrap_servers": kafka.bootstrap_servers, "retention_bytes": 20_000_000}
    workflow.init(kafka={"flood": connection})
    workflow.submit(wait_for_event(KafkaListener, topic=topic, cluster="flood", key="never"), workflow_id=wid)
    until(lambda: is_read(topic, "flood"))
    host = ray.get_actor(names.event_source_host_name("flood"), namespace=names.NAMESPACE)
    pid = ray.get(host.ping.remote())

    def anonymous_mb() -> float:
        (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) / 1024

    before, most = anonymous_mb(), 0.0
    value = '"' + "x" * 4000 + '"'
    for _ in range(10):
        kafka.produce(topic, [("k", value)] * 5000)
        most = max(most, anonymous_mb())

    def source() -> Any:
        nonlocal most
        most = max(most, anonymous_mb())
        return next(s for s in workflow.event_sources() if s.name == f"kafka/flood/{topic}")

    until(lambda: source().accepted == 50_000, 240)
    print(f"200 MB flooded in: the process had {before:.0f} MB before and {most:.0f} MB at most")
    assert most - before < 100
    workflow.cancel(wid)


def test_no_secret_is_in_the_storage(kafka, platform, wid, tmp_path) -> None:
    secret, cluster = "correct-horse-battery-staple", f"closed-{uuid.uuid4().hex}"
    (tmp_path / "secret").write_text(secret)
    workflow.init(
        kafka={
            cluster: {
                "bootstrap_servers": kafka.bootstrap_servers,
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": "shop",
                "sasl_plain_password": {"file": str(tmp_path / "secret")},
            }
        }
    )
    workflow.run_async(wait_for_event(KafkaListener, topic="any", cluster=cluster), workflow_id=wid)
    # It has tried, so it has read the secret; the server knows no SASL.
    until(lambda: any(s.name == f"kafka/{cluster}/any" and s.last_error for s in workflow.event_sources()))
    stored = b"".join(path.read_bytes() for path in platform.rglob("*") if path.is_file())
    assert str(tmp_path / "secret").encode() in stored
    assert secret.encode() not in stored
    workflow.cancel(wid)
