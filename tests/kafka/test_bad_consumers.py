"""A consumer that does not do what it should is found out, and made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, RecordTooLargeError

from tests.kafka.reading import Reading, play, until
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


def first_one(bad: type[AIOKafkaConsumer]) -> Callable[..., AIOKafkaConsumer]:
    """The first consumer is a bad one, the others are not."""
    kinds = iter([bad])

    def make(**arguments: Any) -> AIOKafkaConsumer:
        return next(kinds, AIOKafkaConsumer)(**arguments)

    return make


class BringsNothing(AIOKafkaConsumer):
    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        await asyncio.sleep(timeout_ms / 1000)
        return {}


class NeverAnswers(AIOKafkaConsumer):
    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        await asyncio.Event().wait()


class LosesWhatItRead(AIOKafkaConsumer):
    """Steps over records and raises, as aiokafka does when a later one of the same fetch is corrupt."""

    async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
        if await super().getmany(timeout_ms=timeout_ms, max_records=2):
            raise CorruptRecordException("Invalid CRC")
        return {}


@pytest.mark.parametrize("bad", [BringsNothing, NeverAnswers, LosesWhatItRead])
def test_a_consumer_that_fails_is_replaced_and_nothing_is_lost(
    kafka: RunningKafka, reading: MakeReading, bad: type[AIOKafkaConsumer]
) -> None:
    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading(stall_s=1, request_timeout_s=1)
        at.want(topic)
        async with at.at_work(make_consumer=first_one(bad)) as source:
            await at.until_begun(topic)
            kafka.produce(topic, [("k", str(number)) for number in range(5)], partition=0)
            await at.until_events(topic, 5)
            health = source.health()
            assert health.consumers_made > 1
            assert health.last_error
        assert at.values(topic) == [str(number) for number in range(5)]

    play(scenario)


def test_a_record_that_the_server_gives_only_in_part_is_a_dead_letter(
    kafka: RunningKafka, reading: MakeReading
) -> None:
    """Servers since 0.10.1 give it whole. aiokafka raises, and has stepped over it by then."""

    async def scenario() -> None:
        topic, at = kafka.make_topic(), reading()
        tp = TopicPartition(topic, 0)

        class CutsTheSecond(AIOKafkaConsumer):
            async def getmany(self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None) -> Any:
                if self.assignment() and await self.position(tp) == 1:
                    self.seek(tp, 2)
                    raise RecordTooLargeError("%s=%s is larger than %s", tp, 1, 1000)
                return await super().getmany(timeout_ms=timeout_ms, max_records=1)

        at.want(topic)
        async with at.at_work(make_consumer=CutsTheSecond) as source:
            await at.until_begun(topic)
            kafka.produce(topic, [("k", str(number)) for number in range(4)], partition=0)
            await at.until_events(topic, 3)
            assert at.values(topic) == ["0", "2", "3"]
            (letter,) = at.letters()
            assert (letter.reason, letter.note["offset"]) == ("oversized", 1)
            await source.replay(letter.number, None)
            await until(lambda: at.values(topic) == ["0", "2", "3", "1"])

    play(scenario)
