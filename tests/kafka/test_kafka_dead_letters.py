"""What cannot be taken in is kept to be seen, and to be tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.errors import DeadLetterNotFoundError, DeadLetterNotReplayableError
from tests.kafka.reading import Reading, play, topic_health, until
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


def test_a_value_that_is_not_json_is_a_dead_letter_and_an_event_for_raw_readers(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, [("k", "1"), ("k", "{"), ("k", None), ("k", "2")], partition=0)
            await at.until_events(topic, 4)
        assert [event.undecodable for event in at.events(topic)] == [False, True, False, False]
        (letter,) = at.letters()
        assert (letter.reason, letter.note["offset"], letter.note["topic"]) == ("undecodable", 1, topic)
        assert "b'{'" in letter.error

    play(scenario)


def test_who_reads_raw_values_only_gets_no_dead_letters(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic, decoded=False)
        async with at.at_work():
            await at.until_begun(topic)
            kafka.produce(topic, [("k", "{")])
            await at.until_events(topic, 1)
        assert at.letters() == []

    play(scenario)


def test_an_undecodable_message_is_replayed_with_a_value_that_is_json(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.produce(topic, [("k", '{"a": 1,}')])
            await until(at.letters)
            (letter,) = at.letters()
            with pytest.raises(DeadLetterNotReplayableError, match="value="):
                await source.replay(letter.number, None)
            with pytest.raises(DeadLetterNotReplayableError, match="not JSON"):
                await source.replay(letter.number, b"{")
            assert at.letters() == [letter]
            done = await source.replay(letter.number, b'{"a": 1}')
            assert sum(done.accepted.values()) == 1
            with pytest.raises(DeadLetterNotFoundError):
                await source.replay(letter.number, b'{"a": 1}')
        assert at.letters() == []
        bad, good = at.events(topic)
        assert (bad.undecodable, good.undecodable) == (True, False)
        assert (good.key, good.value, good.note["offset"]) == (b"k", b'{"a": 1}', 0)
        assert at.told[-1] == done

    play(scenario)


def test_a_message_that_is_too_large_is_passed_by_and_replayed_from_the_topic(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading(max_message_bytes=1000)
        large = '"' + "x" * 5000 + '"'
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.produce(topic, [("k", "1"), ("k", large), ("k", "2")], partition=0)
            await at.until_events(topic, 2)
            assert at.values(topic) == ["1", "2"]
            (letter,) = at.letters()
            assert (letter.reason, letter.event, letter.note["offset"]) == ("oversized", None, 1)
            assert "max_message_bytes" in letter.error
            await source.replay(letter.number, None)
        assert at.values(topic) == ["1", "2", large]
        assert at.letters() == []

    play(scenario)


def test_a_message_larger_than_what_is_fetched_at_once_holds_nothing_up(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    assert kafka.broker, "librdkafka's broker has limits of its own"

    async def scenario() -> None:
        topic = kafka.make_topic(partitions=2, config={"max.message.bytes": "20000000"})
        at = reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic, 1)
            for partition in (0, 1):
                kafka.produce(topic, [("k", b"x" * 12_000_000)], partition=partition)
                kafka.produce(topic, [("k", str(partition))], partition=partition)
            await at.until_events(topic, 2)
        assert sorted(at.values(topic)) == ["0", "1"]
        assert [letter.reason for letter in at.letters()] == ["oversized", "oversized"]

    play(scenario)


def test_a_message_that_is_gone_from_the_topic_cannot_be_replayed(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker deletes no records"

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading(max_message_bytes=10)
        at.want(topic)
        async with at.at_work() as source:
            await at.until_begun(topic)
            kafka.produce(topic, [("k", "x" * 100), ("k", "1")], partition=0)
            await at.until_events(topic, 1)
            (letter,) = at.letters()
            kafka.delete_records(topic, 1)
            with pytest.raises(DeadLetterNotReplayableError, match="not in the topic any more"):
                await source.replay(letter.number, None)
        assert at.letters() == [letter]

    play(scenario)


async def with_a_gap(kafka: RunningKafka, at: Reading) -> str:
    """A topic of which offset 2 is to be read next, and 5 is the first there is."""
    assert kafka.broker, "librdkafka's broker deletes no records"
    topic = kafka.make_topic()
    at.want(topic)
    async with at.at_work():
        await at.until_begun(topic)
        kafka.produce(topic, [("k", str(number)) for number in range(2)])
        await at.until_events(topic, 2)
    kafka.produce(topic, [("k", str(number)) for number in range(2, 8)])
    kafka.delete_records(topic, 5)
    return topic


@pytest.mark.parametrize(
    ("policy", "read"), [("earliest", ["0", "1", "5", "6", "7", "8"]), ("latest", ["0", "1", "8"])]
)
def test_reading_goes_on_after_a_gap_where_the_policy_says_and_leaves_word_of_it(
    kafka: RunningKafka, reading: MakeReading, policy: str, read: list[str]
) -> None:
    async def scenario() -> None:
        at = reading(on_offset_out_of_range=policy)
        topic = await with_a_gap(kafka, at)
        async with at.at_work() as source:
            await until(at.letters)
            kafka.produce(topic, [("k", "8")])
            await at.until_events(topic, len(read))
            (letter,) = at.letters()
            assert letter.reason == "out-of-range"
            assert "offset 2 of partition 0 is gone: the server has 5 to 8" in letter.error
            with pytest.raises(DeadLetterNotReplayableError, match="Delete it"):
                await source.replay(letter.number, None)
        assert at.values(topic) == read

    play(scenario)


def test_a_gap_stops_the_partition_until_its_dead_letter_is_replayed(kafka: RunningKafka, reading: MakeReading) -> None:
    async def scenario() -> None:
        at = reading()
        topic = await with_a_gap(kafka, at)
        for _ in range(2):
            # Another source does not say it again.
            async with at.at_work() as source:
                await until(lambda: (found := topic_health(source, topic)) is not None and found.state == "stopped")
                assert len(at.letters()) == 1
        async with at.at_work() as source:
            await until(lambda: source.health().topics)
            assert at.values(topic) == ["0", "1"]
            await source.replay(at.letters()[0].number, None)
            await at.until_events(topic, 5)
        assert at.values(topic) == ["0", "1", "5", "6", "7"]
        assert at.letters() == []

    play(scenario)


def test_a_partition_that_was_stopped_goes_on_when_the_policy_changes(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    async def scenario() -> None:
        at = reading()
        topic = await with_a_gap(kafka, at)
        async with at.at_work():
            await until(at.letters)
        async with at.at_work(on_offset_out_of_range="earliest"):
            await at.until_events(topic, 5)
        assert at.values(topic) == ["0", "1", "5", "6", "7"]

    play(scenario)


def test_the_other_partitions_are_read_while_one_is_stopped(kafka: RunningKafka, reading: MakeReading) -> None:
    assert kafka.broker, "librdkafka's broker deletes no records"

    async def scenario() -> None:
        topic, at = kafka.make_topic(partitions=2), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic, 1)
        kafka.produce(topic, [("k", str(number)) for number in range(3)], partition=0)
        kafka.delete_records(topic, 2)
        kafka.produce(topic, [("k", "10")], partition=1)
        async with at.at_work():
            await at.until_events(topic, 1)
            kafka.produce(topic, [("k", "11")], partition=1)
            await at.until_events(topic, 2)
        assert at.values(topic) == ["10", "11"]
        assert [letter.note["partition"] for letter in at.letters()] == [0]

    play(scenario)
