"""What a disk has spoiled in a real Kafka is said, and holds nothing else up."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.errors import DeadLetterNotReplayableError
from tests.kafka.reading import Reading, play
from tests.kafka.running_kafka import RunningKafka

pytestmark = pytest.mark.slow


@pytest.fixture
def reading(kafka: RunningKafka, tmp_path: Path) -> Iterator[Callable[..., Reading]]:
    made: list[Reading] = []

    def make(**settings: Any) -> Reading:
        made.append(Reading(kafka, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.kv.close()


def batches(log: bytes) -> list[tuple[int, int]]:
    """(First offset, place of the last byte) of each batch of a log segment."""
    found, at = [], 0
    while at < len(log):
        base, length = struct.unpack_from(">qi", log, at)
        if length <= 0:
            # What the server has reserved and not written.
            break
        at += 12 + length
        found.append((base, at - 1))
    return found


def test_batches_with_a_wrong_checksum_are_dead_letters_and_can_be_had_when_they_are_mended(
    kafka: RunningKafka, reading: Callable[..., Reading], caplog: pytest.LogCaptureFixture
) -> None:
    broker = kafka.broker

    async def scenario() -> None:
        topic, at = kafka.make_topic(partitions=2), reading()
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic, 1)
        written = [("k", str(number)) for number in range(30)]
        for some in (written[:10], written[10:15], written[15:20], written[20:25], written[25:]):
            kafka.produce(topic, some, partition=0)
        kafka.produce(topic, [("k", str(number)) for number in range(100, 150)], partition=1)
        broker.stop()
        (segment,) = (broker.folder / "logs" / f"{topic}-0").glob("*.log")
        whole = segment.read_bytes()
        log, found = bytearray(whole), batches(whole)
        # One among others, two in a row, and the last.
        spoiled = {base: at for base, at in found if base in (10, 15, 25)}
        assert len(spoiled) == 3, found
        for last_byte in spoiled.values():
            log[last_byte - 2] ^= 0xFF
        segment.write_bytes(bytes(log))
        ends = [base for base, _ in found] + [30]
        lost = {base: next(end for end in ends if end > base) for base in spoiled}
        left = [n for n in range(30) if not any(base <= n < end for base, end in lost.items())]
        await asyncio.to_thread(broker.start)

        async with at.at_work() as source:
            await at.until_events(topic, len(left) + 50)
            kafka.produce(topic, [("k", "30")], partition=0)
            await at.until_events(topic, len(left) + 51)
            of_first = [int(event.value or b"") for event in at.events(topic) if event.note["partition"] == 0]
            assert of_first == [*left, 30]
            letters = at.letters()
            assert [(letter.note["offset"], letter.note["went_on_at"]) for letter in letters] == sorted(lost.items())
            assert {(letter.reason, letter.note["partition"]) for letter in letters} == {("corrupt", 0)}
            assert "of partition 0 cannot be read: its checksum is wrong; reading goes on at" in letters[0].error
            # It was no reason to connect anew, as the start of the server may have been.
            assert not [record for record in caplog.records if "CRC" in record.getMessage()]

            with pytest.raises(DeadLetterNotReplayableError, match="still cannot be read"):
                await source.replay(letters[0].number, None)
            with pytest.raises(DeadLetterNotReplayableError, match="value="):
                await source.replay(letters[0].number, b"1")
            assert at.letters() == letters

            await asyncio.to_thread(broker.stop)
            segment.write_bytes(whole + segment.read_bytes()[len(whole) :])
            await asyncio.to_thread(broker.start)
            for letter in letters:
                await source.replay(letter.number, None)
        assert at.letters() == []
        assert sorted(int(event.value or b"") for event in at.events(topic)) == [*range(31), *range(100, 150)]

    play(scenario)
