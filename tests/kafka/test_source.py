"""What is read from Kafka is stored once, whatever happens to whom meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from deploy.kafka.in_process import InProcessBroker
from holdfast.storage import event_store
from tests.kafka.reading import Reading, partition_health, play, topic_health, until
from tests.kafka.running_kafka import RunningKafka

MakeReading = Callable[..., Reading]


@pytest.fixture
def reading(kafka: RunningKafka, tmp_path: Path) -> Iterator[MakeReading]:
    made: list[Reading] = []

    def make(**settings: Any) -> Reading:
        made.append(Reading(kafka, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.kv.close()


def numbered(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"k{number % 7}", str(number)) for number in range(start, start + count)]


def test_messages_are_stored_in_the_order_of_their_partition(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(partitions=3), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic, 2)
            written = kafka.produce(topic, numbered(1500))
            await at.until_events(topic, 1500)
        stored = at.events(topic)
        assert len(stored) == 1500
        for partition in {partition for partition, _ in written}:
            own = [event.note["offset"] for event in stored if event.note["partition"] == partition]
            assert own == sorted(own)
            assert at.offset(topic, partition) == len(own)

    play(scenario)


def test_a_message_is_stored_as_it_was_written(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, [("k", '{"a": 1}')], partition=0, headers={"h": b"\xff"}, timestamp_ms=1_500)
            await at.until_events(topic, 1)
        (event,) = at.events(topic)
        assert (event.key, event.value, event.time_unix_s) == (b"k", b'{"a": 1}', 1.5)
        note = dict(event.note)
        assert event.dedupe_id == f"{note.pop('topic_id')}/0/0"
        assert note == {
            "form": "kafka",
            "topic": topic,
            "partition": 0,
            "offset": 0,
            "timestamp_ms": 1500,
            "headers": [["h", "ÿ"]],
        }

    play(scenario)


def test_what_came_before_the_topic_was_first_asked_for_is_read_from_the_time_asked_for(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    assert kafka.broker, "librdkafka's broker does not look offsets up by time"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        now = time.time()
        kafka.produce(topic, [("k", '"old"')], timestamp_ms=int((now - 60) * 1000))
        kafka.produce(topic, [("k", '"early"')], timestamp_ms=int((now - 5) * 1000))
        at.want(topic, since_unix_s=now - 10)
        async with at.at_work():
            await at.until_events(topic, 1)
            kafka.produce(topic, [("k", '"late"')])
            await at.until_events(topic, 2)
        early, late = at.events(topic)
        assert (early.value, early.before_use) == (b'"early"', True)
        assert (late.value, late.before_use) == (b'"late"', False)

    play(scenario)


def test_a_topic_begins_at_its_end_for_somebody_whom_nobody_is_older_than(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        topic, at, now = kafka.make_topic(), reading(), time.time()
        kafka.produce(topic, [("k", '"before"')], partition=0, timestamp_ms=int((now + 3600) * 1000))
        at.ask_for(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, [("k", '"replayed"')], partition=0, timestamp_ms=int((now - 3600) * 1000))
            await at.until_events(topic, 1)
        (event,) = at.events(topic)
        assert (event.value, event.before_use) == (b'"replayed"', False)

    play(scenario)


def test_where_a_server_knows_no_times_all_there_is_is_read_for_somebody_who_may_be_older(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    if not kafka.missing:
        pytest.skip("a real server knows the times of its messages")

    async def scenario() -> None:
        topic, at, now = kafka.make_topic(), reading(), time.time()
        kafka.produce(topic, [("k", '"early"')], partition=0)
        at.want(topic, since_unix_s=now - 10)
        async with at.at_work():
            await at.until_events(topic, 1)
            kafka.produce(topic, [("k", '"late"')], partition=0)
            await at.until_events(topic, 2)
        events = [(event.value, event.before_use) for event in at.events(topic)]
        assert events == [(b'"early"', True), (b'"late"', False)]

    play(scenario)


def test_of_a_topic_that_was_not_there_everything_is_new_whatever_its_times_say(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    assert kafka.broker, "topics of librdkafka's broker make themselves"

    async def scenario() -> None:
        at, topic = reading(), f"later-{time.time_ns()}"
        at.ask_for(topic)
        async with at.at_work():
            await until(lambda: at.has_begun(topic))
            assert at.offset(topic) is None
            kafka.make_topic(name=topic)
            kafka.produce(topic, [("k", '"replayed"')], timestamp_ms=int((time.time() - 3600) * 1000))
            await at.until_events(topic, 1)
        (event,) = at.events(topic)
        assert not event.before_use

    play(scenario)


def test_a_topic_that_is_made_later_is_read_from_its_beginning(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "topics of librdkafka's broker make themselves"

    async def scenario() -> None:
        at, topic = reading(), f"later-{time.time_ns()}"
        at.want(topic)
        async with at.at_work() as source:
            await until(lambda: (found := topic_health(source, topic)) is not None and found.state == "missing")
            kafka.make_topic(name=topic)
            kafka.produce(topic, numbered(3))
            await at.until_events(topic, 3)

    play(scenario)


def test_another_source_goes_on_where_the_first_one_ended(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, numbered(10), partition=0)
            await at.until_events(topic, 10)
        kafka.produce(topic, numbered(10, 10), partition=0)
        async with at.at_work():
            await at.until_events(topic, 20)
        assert at.values(topic) == [str(number) for number in range(20)]
        assert sum(sum(told.accepted.values()) for told in at.told) == 20

    play(scenario)


def test_a_topic_that_is_asked_for_later_is_read_with_the_others(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        one, other, at = kafka.make_topic(), kafka.make_topic(), reading()
        at.want(one)
        async with at.at_work() as source:
            await at.until_begun(one)
            kafka.produce(one, numbered(5))
            at.want(other)
            source.look_again()
            await at.until_begun(other)
            kafka.produce(other, numbered(5))
            kafka.produce(one, numbered(5, 5))
            await at.until_events(other, 5)
            await at.until_events(one, 10)
        assert len(at.events(one)) == 10

    play(scenario)


def test_partitions_that_are_added_are_read_from_their_beginning(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker has a fixed number of partitions"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, numbered(2), partition=0)
            await at.until_events(topic, 2)
            kafka.add_partitions(topic, 2)
            kafka.produce(topic, numbered(3, 2), partition=1)
            await at.until_events(topic, 5)
        assert at.offset(topic, 1) == 3

    play(scenario)


def test_a_topic_that_was_deleted_and_made_again_is_another_one(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker deletes no topics"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.produce(topic, numbered(5), partition=0)
            await at.until_events(topic, 5)
            kafka.delete_topic(topic)
            await until(lambda: (found := topic_health(source, topic)) is not None and found.state == "missing")
            kafka.make_topic(name=topic)
            # More than the old one had: its positions and offsets are all there in the new one.
            kafka.produce(topic, numbered(8, 100), partition=0)
            await at.until_events(topic, 13)
        assert at.values(topic) == [str(n) for n in (*range(5), *range(100, 108))]
        assert at.letters() == []

    play(scenario)


def test_a_topic_that_is_made_again_at_once_loses_no_message_of_the_new_one(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    assert kafka.broker, "librdkafka's broker deletes no topics"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            for round_ in range(1, 4):
                kafka.produce(topic, numbered(20, round_ * 100), partition=0)
                await at.until_events(topic, 20 * round_)
                kafka.delete_topic(topic)
                kafka.make_topic(name=topic)
        expected = [str(number) for round_ in range(1, 4) for number in range(round_ * 100, round_ * 100 + 20)]
        assert at.values(topic) == expected

    play(scenario)


def test_a_transaction_that_was_aborted_is_not_seen(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker has no transactions to be aborted"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.transaction(topic, [("k", "1"), ("k", "2")], commit=False)
            kafka.transaction(topic, [("k", "3"), ("k", "4")], commit=True)
            kafka.transaction(topic, [("k", "5")], commit=False)
            await at.until_events(topic, 2)
            # What is no message counts as read, too, or there would be a lag for ever.
            await until(lambda: at.offset(topic) == 8)
            await until(lambda: (found := partition_health(source, topic)) is not None and found.end == 8)
            assert (found := partition_health(source, topic)) is not None
            assert found.lag == 0
        assert at.values(topic) == ["3", "4"]

    play(scenario)


@pytest.mark.parametrize(
    "crash", [pytest.param(False, id="stopped", marks=pytest.mark.slow), pytest.param(True, id="killed")]
)
def test_a_restart_of_the_server_loses_and_repeats_nothing(
    kafka: RunningKafka, reading: MakeReading, crash: bool
) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, numbered(200), partition=0)
            await asyncio.to_thread(kafka.broker.restart, crash=crash)
            kafka.produce(topic, numbered(200, 200), partition=0)
            await at.until_events(topic, 400)
        assert at.values(topic) == [str(number) for number in range(400)]

    play(scenario)


def test_a_member_that_joins_the_group_takes_nothing_away(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker has no groups to speak of"

    async def scenario() -> None:
        topic = kafka.make_topic(partitions=2)
        group = f"group-{topic}"
        at = reading(group_id=group)
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic, 1)
            kafka.produce(topic, numbered(100))
            await at.until_events(topic, 100)
            member = await asyncio.to_thread(kafka.member_of, group, topic)
            kafka.produce(topic, numbered(100, 100))
            await at.until_events(topic, 200)
            await until(lambda: source.health().commit_error != "")
            await asyncio.to_thread(member.close)
        assert len(at.events(topic)) == 200

    play(scenario)


def test_positions_are_committed_to_the_group_for_dashboards(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic = kafka.make_topic()
        at = reading(group_id=f"group-{topic}")
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, numbered(10), partition=0)
            await at.until_events(topic, 10)
            end = time.monotonic() + 30
            while await asyncio.to_thread(kafka.committed, f"group-{topic}", topic) != 10:
                assert time.monotonic() < end

    play(scenario)


def test_two_sources_over_one_store_store_each_message_once(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work(), at.at_work():
            await at.until_begun(topic)
            for start in range(0, 500, 100):
                kafka.produce(topic, numbered(100, start), partition=0)
            await at.until_events(topic, 500)
        assert at.values(topic) == [str(number) for number in range(500)]

    play(scenario)


def test_health_shows_position_end_lag_and_rate(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.produce(topic, numbered(30), partition=0)
            await until(lambda: (found := partition_health(source, topic)) is not None and found.end == 30)
            found, health = topic_health(source, topic), source.health()
            assert found is not None
            assert found.state == "reading"
            assert found.rate_per_s > 0
            assert found.partitions[0].position == 30
            assert found.partitions[0].lag == 0
            assert health.connected
            assert health.assignment_age_s is not None
            assert health.consumers_made == 1
            assert health.last_error == ""

    play(scenario)


def test_a_cluster_that_is_away_is_said_and_tried_again(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        kafka.broker.stop()
        async with at.at_work() as source:
            await until(lambda: source.health().consumers_made > 1)
            health = source.health()
            assert not health.connected
            assert f"'default' to {kafka.bootstrap_servers} fails: it does not answer" in health.last_error
            assert "Check bootstrap_servers" in health.last_error
            await asyncio.to_thread(kafka.broker.start)
            await at.until_begun(topic)

    play(scenario)


def test_a_flood_is_taken_in_bounded_steps(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
        kafka.produce(topic, [("k", '"' + "x" * 1000 + '"')] * 3000, partition=0)
        async with at.at_work():
            await at.until_events(topic, 3000)
        assert max(sum(told.accepted.values()) for told in at.told) <= 500

    play(scenario)


def test_events_are_kept_as_long_as_the_connection_says(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading(retention_s=60, retention_bytes=None)
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
        with at.kv.read() as txn:
            (source,) = event_store.list_sources(txn)
        assert (source.retention_s, source.retention_bytes) == (60.0, None)

    play(scenario)


def test_nothing_is_read_while_those_who_take_the_events_do_not_keep_up(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        topic, at, open_ = kafka.make_topic(), reading(stall_s=1), asyncio.Event()
        at.want(topic)
        async with at.at_work(may_read=open_.is_set) as source:
            await at.until_begun(topic)
            kafka.produce(topic, numbered(10), partition=0)
            await until(lambda: (found := partition_health(source, topic)) is not None and found.lag == 10)
            assert at.events(topic) == []
            open_.set()
            await at.until_events(topic, 10)
            # Held back is not stalled.
            assert source.health().consumers_made == 1

    play(scenario)


def test_partitions_are_read_from_the_servers_that_have_them(tmp_path: Path) -> None:
    with InProcessBroker(brokers=3) as cluster:
        at = Reading(cluster, tmp_path)
        producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})

        def leaders(topic: str) -> set[int]:
            partitions = producer.list_topics(topic, timeout=30).topics[topic].partitions
            return {partition.leader for partition in partitions.values()}

        # Which server gets which partition is by chance.
        topic = next(name for name in map("spread-{}".format, range(100)) if len(leaders(name)) > 1)

        async def scenario() -> None:
            at.want(topic)
            async with at.at_work():
                await at.until_begun(topic, 3)
                for number in range(400):
                    producer.produce(topic, str(number), partition=number % 4)
                assert producer.flush(30) == 0
                await at.until_events(topic, 400)
            assert sorted(map(int, at.values(topic))) == list(range(400))

        play(scenario)
        at.kv.close()
