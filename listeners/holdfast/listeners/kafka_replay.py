"""Trying a dead letter of Kafka again. One that was taken in is no dead letter any more, in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from holdfast.engine.errors import DeadLetterNotFoundError, DeadLetterNotReplayableError
from holdfast.listeners import kafka_intake as intake
from holdfast.listeners.kafka_cluster import EARLIEST, KafkaCluster
from holdfast.listeners.kafka_damage import is_of_a_record
from holdfast.listeners.kafka_intake import Batch, Position, TakenIn
from holdfast.listeners.kafka_message import is_json
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.storage.dead_letters import DeadLetter, drop_dead_letter
from holdfast.storage.interface import KeyValueStore

_LARGEST_BYTES = 256 << 20
_READING_S = 60.0
_POLL_MS = 200


async def replay(settings: KafkaSettings, kv: KeyValueStore, letter: DeadLetter, value: bytes | None) -> TakenIn:
    """Try a dead letter again.

    Args:
        settings: The connection it came by.
        kv: The store.
        letter: The dead letter.
        value: Take the message in with this value; None for its own.

    Raises:
        DeadLetterNotReplayableError: It cannot be; says what to do.
        DeadLetterNotFoundError: It is gone meanwhile.
        KafkaError: The message has to be read again, and the cluster does not answer.
    """
    if letter.reason == intake.OUT_OF_RANGE:
        return await _go_on(settings, kv, letter)
    if letter.reason == intake.CORRUPT:
        if value is not None:
            raise DeadLetterNotReplayableError(
                letter.number, "whose value that would be is not known", "Leave value= out, or delete it."
            )
        batch = Batch(source=letter.source)
        for record in await _read_again(settings, letter):
            position = _position_at(letter, record.offset)
            intake.add_record(batch, record, position, max_bytes=settings.max_message_bytes, now_unix_s=time.time())
        return await asyncio.to_thread(_take_in, kv, letter, batch)
    if letter.reason == intake.OVERSIZED:
        (record,) = await _read_again(settings, letter)
        batch = Batch(source=letter.source)
        position = _position_at(letter, record.offset)
        intake.add_record(batch, record, position, max_bytes=None, now_unix_s=time.time())
        (event,) = batch.events
    elif letter.event is not None:
        event = letter.event
    else:
        raise DeadLetterNotReplayableError(
            letter.number, f"{letter.reason!r} is not a matter of what Kafka sent", "Delete it when it has been seen."
        )
    if value is not None:
        # Another value is another event: the one that was stored may have been read by those who read raw values.
        event = replace(event, value=value, undecodable=False, dedupe_id=f"{event.dedupe_id}/replay-{letter.number}")
    if not is_json(event.value):
        raise DeadLetterNotReplayableError(
            letter.number, "its value is not JSON", "Give one that is: workflow.replay_dead_letter(number, value=...)."
        )
    return await asyncio.to_thread(_take_in, kv, letter, Batch(source=letter.source, events=[event]))


async def _go_on(settings: KafkaSettings, kv: KeyValueStore, letter: DeadLetter) -> TakenIn:
    """Read a partition that was stopped on from the first record there is."""
    topic, partition = letter.note["topic"], int(letter.note["partition"])
    position = intake.load_positions(kv, letter.source).get(partition)
    if position is None or not position.stopped or position.topic_id != letter.note["topic_id"]:
        raise DeadLetterNotReplayableError(
            letter.number, "the partition is read, and what is gone cannot be had again", "Delete it."
        )
    async with _connected(settings) as cluster:
        found, _ = await cluster.topics([topic])
        if topic not in found or found[topic].topic_id != position.topic_id:
            raise DeadLetterNotReplayableError(letter.number, "the topic is not there any more", "Delete it.")
        first = await cluster.offsets(topic, found[topic], {partition: EARLIEST})
    new = Position(topic_id=position.topic_id, offset=first[partition] or 0)
    return await asyncio.to_thread(
        _take_in, kv, letter, Batch(source=letter.source, moves={partition: (position, new)})
    )


async def _read_again(settings: KafkaSettings, letter: DeadLetter) -> list[Any]:
    """The records that a dead letter is about, at least one, whatever their size."""
    note = letter.note
    tp, offset = TopicPartition(note["topic"], int(note["partition"])), int(note["offset"])
    end = int(note.get("went_on_at", offset + 1))
    gone = DeadLetterNotReplayableError(letter.number, "the message is not in the topic any more", "Delete it.")
    async with _connected(settings) as cluster:
        there, _ = await cluster.topics([tp.topic])
        if tp.topic not in there or there[tp.topic].topic_id != note["topic_id"]:
            raise gone
    consumer = AIOKafkaConsumer(
        **settings.client_arguments(),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level=settings.isolation_level,
        fetch_max_bytes=_LARGEST_BYTES,
        max_partition_fetch_bytes=_LARGEST_BYTES,
    )
    try:
        await consumer.start()
        consumer.assign([tp])
        consumer.seek(tp, offset)
        found: list[Any] = await asyncio.wait_for(_read_until(consumer, tp, end), _READING_S)
    except OffsetOutOfRangeError as error:
        raise gone from error
    except Exception as error:
        if not is_of_a_record(error) or isinstance(error, asyncio.TimeoutError):
            raise
        raise DeadLetterNotReplayableError(
            letter.number, f"it still cannot be read: {error}", "Mend the topic and try again, or delete it."
        ) from error
    finally:
        await consumer.stop()
    if not found:
        raise gone
    return found


async def _read_until(consumer: Any, tp: TopicPartition, end: int) -> list[Any]:
    """The records before an offset. One at a time: what comes after them may be damaged."""
    found: list[Any] = []
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=1)).values():
            found += [record for record in records if record.offset < end]
    return found


def _position_at(letter: DeadLetter, offset: int) -> Position:
    """The position from which a record of a dead letter was to be read."""
    before_use = offset + 1 if letter.note.get("before_use") else 0
    return Position(topic_id=letter.note["topic_id"], offset=offset, before_use=before_use)


def _take_in(kv: KeyValueStore, letter: DeadLetter, batch: Batch) -> TakenIn:
    with kv.write() as txn:
        if not drop_dead_letter(txn, letter.number):
            raise DeadLetterNotFoundError(letter.number)
        done = intake.write_batch(txn, batch, time.time())
    return TakenIn(accepted={letter.source: done.accepted}, wakes=done.wakes, starts=done.starts)


@contextlib.asynccontextmanager
async def _connected(settings: KafkaSettings) -> Any:
    cluster = KafkaCluster(settings)
    try:
        await cluster.open()
        yield cluster
    finally:
        await cluster.close()
