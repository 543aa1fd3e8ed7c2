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
from holdfast.listeners.kafka_intake import Batch, Position, TakenIn
from holdfast.listeners.kafka_message import is_json
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.storage import event_store
from holdfast.storage.dead_letters import DeadLetter, drop_dead_letter
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.interface import KeyValueStore

_LARGEST_BYTES = 256 << 20
_READING_S = 60.0


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
    if letter.reason == intake.OVERSIZED:
        event = await _read_again(settings, letter)
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
    return await asyncio.to_thread(_take_in, kv, letter, [event], {})


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
    moves = {str(partition): (position.plain(), new.plain())}
    return await asyncio.to_thread(_take_in, kv, letter, [], moves)


async def _read_again(settings: KafkaSettings, letter: DeadLetter) -> IncomingEvent:
    """A record that was too large, this time whatever its size."""
    note = letter.note
    tp, offset = TopicPartition(note["topic"], int(note["partition"])), int(note["offset"])
    gone = DeadLetterNotReplayableError(letter.number, "the message is not in the topic any more", "Delete it.")
    async with _connected(settings) as cluster:
        found, _ = await cluster.topics([tp.topic])
        if tp.topic not in found or found[tp.topic].topic_id != note["topic_id"]:
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
        record = await asyncio.wait_for(consumer.getone(tp), _READING_S)
    except OffsetOutOfRangeError as error:
        raise gone from error
    finally:
        await consumer.stop()
    if record.offset != offset:
        raise gone
    batch = Batch(source=letter.source)
    position = Position(
        topic_id=note["topic_id"], offset=offset, before_use=offset + 1 if note.get("before_use") else 0
    )
    intake.add_record(batch, record, position, max_bytes=None, now_unix_s=time.time())
    return batch.events[0]


def _take_in(kv: KeyValueStore, letter: DeadLetter, events: list[IncomingEvent], moves: dict[str, Any]) -> TakenIn:
    with kv.write() as txn:
        if not drop_dead_letter(txn, letter.number):
            raise DeadLetterNotFoundError(letter.number)
        done = event_store.ingest(txn, letter.source, events, moves=moves, now_unix_s=time.time())
    return TakenIn(accepted={letter.source: done.accepted}, wakes=done.wakes, starts=done.starts)


@contextlib.asynccontextmanager
async def _connected(settings: KafkaSettings) -> Any:
    cluster = KafkaCluster(settings.client_arguments(), read_committed=settings.isolation_level == "read_committed")
    try:
        await cluster.open()
        yield cluster
    finally:
        await cluster.close()
