"""Taking records into the store: events, dead letters and positions in one transaction.

Everything that decides what becomes of a record is here. Nothing here speaks to
Kafka; what is called here runs in a thread, and blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from holdfast.listeners.kafka_damage import Damage
from holdfast.listeners.kafka_message import note_of, undecodable
from holdfast.storage import dead_letters, event_store
from holdfast.storage.dead_letters import DeadLetter
from holdfast.storage.event_store import Addresses, IncomingEvent, Ingested
from holdfast.storage.interface import KeyValueStore, WriteTransaction

_REST_OF_A_MS = 0.999
UNDECODABLE, OVERSIZED, OUT_OF_RANGE, CORRUPT = "undecodable", "oversized", "out-of-range", "corrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a partition has been read.

    Attributes:
        topic_id: Of the topic as it was then: one made anew under the same name begins again.
        offset: Of the record to be read next.
        before_use: Records below this offset were there before the topic was first asked for.
        stopped: Why it is not read on; empty while it is.
    """

    topic_id: str
    offset: int
    before_use: int = 0
    stopped: str = ""

    def plain(self) -> dict[str, Any]:
        """As it is stored."""
        plain: dict[str, Any] = {"topic_id": self.topic_id, "offset": self.offset}
        if self.before_use > self.offset:
            plain["before_use"] = self.before_use
        if self.stopped:
            plain["stopped"] = self.stopped
        return plain

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Position:
        """As it was stored."""
        return cls(**plain)

    def at(self, offset: int) -> Position:
        """Further on in the same partition."""
        return replace(self, offset=offset)


@dataclass(slots=True, kw_only=True)
class Batch:
    """What is to be written of one source.

    Attributes:
        source: Its name.
        moves: For each partition: its position as it was known, and the new one.
        events: To be taken in.
        letters: Records that cannot be.
        addresses: Which virtual actors the events are for, as far as that is known.
    """

    source: str
    moves: dict[int, tuple[Position | None, Position]] = field(default_factory=dict)
    events: list[IncomingEvent] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    addresses: Addresses = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What came of batches.

    Attributes:
        accepted: How many events of each source.
        wakes: Numbers of workflows for which there is an event now.
        starts: Numbers of subscriptions for which there is an event now.
    """

    accepted: Mapping[str, int]
    wakes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


class Addressing(Protocol):
    """Says which virtual actors messages are for, so that they are in their mailboxes as soon as they are stored."""

    async def get_ready(self) -> None:
        """Called before reading begins. What it takes to be able to say it soon: seconds at most."""

    async def address(self, source: str, events: Sequence[IncomingEvent]) -> Addresses:
        """Which actors events of a source are for, as far as that can be said in a moment."""


class NoActors:
    """Where no virtual actors are called."""

    async def get_ready(self) -> None:
        """Nothing to do."""

    async def address(self, _source: str, _events: Sequence[IncomingEvent]) -> Addresses:
        """No message is for an actor."""
        return {}


def load_positions(kv: KeyValueStore, source: str) -> dict[int, Position]:
    """How far each partition has been read; empty when the topic never was."""
    with kv.read() as txn:
        stored = event_store.positions(txn, source)
    return {int(partition): Position.parse(plain) for partition, plain in stored.items()}


def take_in(kv: KeyValueStore, batches: Sequence[Batch], now_unix_s: float) -> TakenIn:
    """Write batches, all or nothing.

    Raises:
        PositionMovedError: Somebody else has moved a position; nothing was written.
        StorageFullError: No space; nothing was written.
    """
    accepted: dict[str, int] = {}
    wakes: dict[int, None] = {}
    starts: dict[int, None] = {}
    with kv.write() as txn:
        for batch in batches:
            done = write_batch(txn, batch, now_unix_s)
            accepted[batch.source] = done.accepted
            wakes.update(dict.fromkeys(done.wakes))
            starts.update(dict.fromkeys(done.starts))
    return TakenIn(accepted=accepted, wakes=tuple(wakes), starts=tuple(starts))


def write_batch(txn: WriteTransaction, batch: Batch, now_unix_s: float) -> Ingested:
    """Write a batch as a part of a transaction.

    Raises:
        PositionMovedError: Somebody else has moved a position.
    """
    source = event_store.find_source(txn, batch.source)
    moves = {
        str(partition): (None if known is None else known.plain(), new.plain())
        for partition, (known, new) in batch.moves.items()
    }
    done = event_store.ingest(
        txn, batch.source, batch.events, moves=moves, now_unix_s=now_unix_s, addresses=batch.addresses
    )
    for letter in batch.letters:
        # Who reads raw values has no use for a letter that says that they are not JSON.
        if letter.reason != UNDECODABLE or (source is not None and source.decoded):
            dead_letters.add_dead_letter(txn, letter)
    return done


def add_record(batch: Batch, record: Any, position: Position, *, max_bytes: int | None, now_unix_s: float) -> None:
    """Put a record as aiokafka gives it into a batch: as an event, as a dead letter, or as both.

    Args:
        batch: Of the record's topic.
        record: The record.
        position: That of its partition before it.
        max_bytes: Largest record to take in; None for any.
        now_unix_s: The time.
    """
    nbytes = len(record.key or b"") + len(record.value or b"")
    note = note_of(
        topic=record.topic,
        topic_id=position.topic_id,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        headers=record.headers,
    )
    if max_bytes is not None and nbytes > max_bytes:
        batch.letters.append(
            DeadLetter(
                source=batch.source,
                reason=OVERSIZED,
                error=f"it has {nbytes} bytes, and this connection takes messages of {max_bytes} (max_message_bytes)",
                occurred_unix_s=now_unix_s,
                note={**note, "nbytes": nbytes, "before_use": record.offset < position.before_use},
            )
        )
        return
    before_use = record.offset < position.before_use
    problem = undecodable(record.value)
    event = IncomingEvent(
        key=record.key,
        value=record.value,
        # Kafka counts in milliseconds. Where the time decides who gets a message it is the end of its own: whoever
        # asked for it earlier in the same millisecond must not lose it.
        time_unix_s=(record.timestamp + (_REST_OF_A_MS if before_use else 0)) / 1000,
        dedupe_id=dedupe_id(position.topic_id, record.partition, record.offset),
        note=note,
        undecodable=bool(problem),
        before_use=before_use,
    )
    batch.events.append(event)
    if event.undecodable:
        batch.letters.append(
            DeadLetter(
                source=batch.source,
                reason=UNDECODABLE,
                error=f"{problem}: {(record.value or b'')[:40]!r}; only who asks for raw values gets it",
                occurred_unix_s=now_unix_s,
                note=note,
                event=event,
            )
        )


def too_large_for_the_fetch(batch: Batch, topic: str, partition: int, position: Position, now_unix_s: float) -> None:
    """Put a record into a batch that the server could not give whole, as a dead letter."""
    batch.letters.append(
        DeadLetter(
            source=batch.source,
            reason=OVERSIZED,
            error="the server gave only a part of it: it is larger than what is fetched at once",
            occurred_unix_s=now_unix_s,
            note={
                "topic": topic,
                "topic_id": position.topic_id,
                "partition": partition,
                "offset": position.offset,
                "before_use": position.offset < position.before_use,
            },
        )
    )


def damaged(batch: Batch, topic: str, partition: int, position: Position, damage: Damage, now_unix_s: float) -> None:
    """Put what cannot be read into a batch, as one dead letter, and step over it.

    Args:
        batch: Gets the dead letter, and the move.
        topic, partition: Which.
        position: As it is stored; nothing that can be read comes between it and the damage.
        damage: What cannot be read.
        now_unix_s: The time, in seconds since the epoch.
    """
    new = position.at(damage.next)
    batch.moves[partition] = (position, new)
    last = damage.next - 1
    which = f"offset {damage.first}" if last == damage.first else f"offsets {damage.first} to {last}"
    batch.letters.append(
        DeadLetter(
            source=batch.source,
            reason=CORRUPT,
            error=f"{which} of partition {partition} cannot be read: {damage.error}; reading goes on at {damage.next}",
            occurred_unix_s=now_unix_s,
            note={
                "topic": topic,
                "topic_id": position.topic_id,
                "partition": partition,
                "offset": damage.first,
                "went_on_at": damage.next,
                "before_use": damage.first < position.before_use,
            },
        )
    )


def lost_range(
    batch: Batch, topic: str, partition: int, position: Position, *, policy: str, there: tuple[int, int], now: float
) -> Position:
    """What to do when the server no longer has what is to be read next.

    Args:
        batch: Gets a dead letter that says so, and the move.
        topic, partition: Which.
        position: As it is stored.
        policy: "fail", "earliest" or "latest".
        there: Offset of the first record there is, and of the next one to come.
        now: The time, in seconds since the epoch.

    Returns:
        The position to go on from, or one that is stopped.
    """
    first, end = there
    what = f"offset {position.offset} of partition {partition} is gone: the server has {first} to {end}"
    if policy == "fail":
        new = replace(position, stopped=what)
        done = "the partition is not read any more; to go on with what is there, replay this dead letter"
    else:
        new = position.at(first if policy == "earliest" else end)
        done = f"reading goes on at {new.offset} (on_offset_out_of_range={policy})"
    batch.moves[partition] = (position, new)
    batch.letters.append(
        DeadLetter(
            source=batch.source,
            reason=OUT_OF_RANGE,
            error=f"{what}; {done}",
            occurred_unix_s=now,
            note={
                "topic": topic,
                "topic_id": position.topic_id,
                "partition": partition,
                "offset": position.offset,
                "first": first,
                "end": end,
                "went_on_at": None if new.stopped else new.offset,
            },
        )
    )
    return new


def dedupe_id(topic_id: str, partition: int, offset: int) -> str:
    """What tells a record from all others of its source."""
    return f"{topic_id}/{partition}/{offset}"
