"""One Kafka consumer at work, from its start until something is wrong with it.

It reads all topics of its connection that somebody waits for. Partitions are
assigned by us, to us: no member of a consumer group can take one away, and what
is committed to a group is for dashboards. Where to read is in the store alone:
after any doubt the consumer is set back to what is stored there, and a write
that starts from another position than the stored one is refused.

Bounded in memory: what is fetched at once is limited in bytes, what is taken in
at once in number, and nothing more is asked for before that is stored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, RecordTooLargeError

from holdfast.engine.errors import HoldfastError
from holdfast.listeners import kafka_intake as intake
from holdfast.listeners.kafka import KIND, source_name, split_source
from holdfast.listeners.kafka_cluster import EARLIEST, LATEST, KafkaCluster, TopicState
from holdfast.listeners.kafka_damage import Damage, find_damage, is_of_a_record
from holdfast.listeners.kafka_health import PartitionHealth, Rate, TopicHealth
from holdfast.listeners.kafka_intake import Addressing, Batch, Position, TakenIn
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.storage import beginnings, event_store
from holdfast.storage.event_store import Source
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")

LOOK_EVERY_S = 1.0
_COMMIT_EVERY_S = 2.0
_HELD_BACK_S = 0.1
_CLOSING_S = 5.0
_TURNS = 50
_POLL_MS = 200
_AT_ONCE = 500
_FETCH_BYTES = 8 << 20


class ConsumerStalledError(HoldfastError):
    """Messages are there, and the consumer brings none."""


@dataclass(slots=True)
class _Reading:
    """A partition that is assigned to the consumer."""

    source: str
    position: Position
    end: int | None = None
    moved_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Topic:
    source: Source
    state: TopicState | None = None
    positions: dict[int, Position] = field(default_factory=dict)
    problem: str = ""


class KafkaSession:
    """Reads until it is told to stop, or cannot go on.

    Args:
        settings: The connection.
        kv: The store.
        told: Called after each batch that was stored.
        may_read: Asked before each batch; while it says no, nothing is read.
        rates: Counts of what was taken in by source, which outlive this object.
        make_consumer: Makes an `AIOKafkaConsumer`, or one that behaves worse.
        addressing: Says which virtual actors messages are for.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        kv: KeyValueStore,
        told: Callable[[TakenIn], None],
        may_read: Callable[[], bool],
        rates: dict[str, Rate],
        make_consumer: Callable[..., Any],
        addressing: Addressing,
    ) -> None:
        self._addressing = addressing
        self._settings, self._kv, self._told, self._may_read, self._rates = settings, kv, told, may_read, rates
        self._make_consumer = make_consumer
        self._prefix = f"{KIND}/{settings.name}/"
        self._topics: dict[str, _Topic] = {}
        self._readings: dict[TopicPartition, _Reading] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._next_commit_s = 0.0
        self._damaged: tuple[TopicPartition, Damage] | None = None
        self._partition_bytes = max(settings.max_message_bytes, 1 << 20)
        self._consumer: Any = None
        self._cluster: Any = None
        self.assigned_s: float | None = None
        self.beat_s = time.monotonic()
        self.commit_error = ""

    async def run(self, stopping: asyncio.Event, changed: asyncio.Event) -> None:
        """Read.

        Args:
            stopping: Set from outside: end soon.
            changed: Set from outside: somebody may wait for another topic. Cleared here.

        Raises:
            KafkaNotReachedError: The cluster does not answer, or refuses us.
            KafkaError: It cannot be read.
            ConsumerStalledError: It can, and yet nothing comes.
            PositionMovedError: Somebody else reads for this store.
            StorageError: The store cannot be written.
        """
        self._cluster = KafkaCluster(self._settings)
        self._consumer = self._make_consumer(
            **self._settings.client_arguments(),
            group_id=None,
            enable_auto_commit=False,
            # A position that is gone is for us to decide upon.
            auto_offset_reset="none",
            isolation_level=self._settings.isolation_level,
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=self._partition_bytes,
            max_poll_records=_AT_ONCE,
        )
        await self._cluster.open()
        await self._consumer.start()
        look_at_s = 0.0
        while not stopping.is_set():
            self.beat_s = time.monotonic()
            if changed.is_set() or self.beat_s >= look_at_s:
                changed.clear()
                await self._look()
                look_at_s = time.monotonic() + LOOK_EVERY_S
            if self._readings and self._may_read():
                await self._read()
            else:
                for reading in self._readings.values():
                    # Held back is not stalled.
                    reading.moved_s = time.monotonic()
                await _either(stopping, changed, _HELD_BACK_S if self._readings else LOOK_EVERY_S)

    async def close(self) -> None:
        """Let go of all connections, within a few seconds."""
        closings = [asyncio.ensure_future(self._close_consumer()), asyncio.ensure_future(self._close_cluster())]
        done, hanging = await asyncio.wait(closings, timeout=_CLOSING_S)
        for closing in hanging:
            closing.cancel()
            log.warning("a Kafka client did not close in %g s and is left behind", _CLOSING_S)
        for closing in done:
            if closing.cancelled() or closing.exception() is not None:
                log.warning("a Kafka client did not close in order and is left behind: %r", closing)

    async def _close_consumer(self) -> None:
        if self._consumer is None:
            return
        # aiokafka's `stop` fails half way when a fetch is being tried again. Without an assignment it gives up its
        # fetches by itself, which takes some turns of the loop and nothing else.
        self._consumer.unsubscribe()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._consumer.stop()

    async def _close_cluster(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()

    def health(self) -> tuple[TopicHealth, ...]:
        """What is read."""
        return tuple(self._health_of(name, topic) for name, topic in self._topics.items())

    def _health_of(self, name: str, topic: _Topic) -> TopicHealth:
        partitions = []
        for partition, position in sorted(topic.positions.items()):
            reading = self._readings.get(TopicPartition(name, partition))
            partitions.append(
                PartitionHealth(
                    partition=partition,
                    position=position.offset if reading is None else reading.position.offset,
                    end=None if reading is None else reading.end,
                    stopped=position.stopped,
                )
            )
        stopped = any(partition.stopped for partition in partitions)
        state = "missing" if topic.state is None else "stopped" if stopped else "reading"
        rate = self._rates.get(topic.source.name)
        return TopicHealth(
            source=topic.source.name,
            state=state,
            rate_per_s=0.0 if rate is None else rate.per_second(),
            last_error=topic.problem,
            partitions=tuple(partitions),
        )

    # -- what to read --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """See what is wanted, what is there, and whether it comes."""
        await self._store_idle_moves()
        sources = await asyncio.to_thread(self._wanted)
        names = {split_source(source.name)[1]: source for source in sources}
        found, problems = await self._cluster.topics(names)
        self._topics = {name: self._topics.get(name) or _Topic(source) for name, source in names.items()}
        await self._note_absent([s for name, s in names.items() if name not in found and name not in problems])
        for name, topic in self._topics.items():
            topic.source, topic.state = names[name], found.get(name)
            topic.problem = problems.get(name, "" if topic.state else "there is no such topic")
            if topic.state is not None:
                topic.positions = await self._place(name, topic.state, topic)
        wanted = {
            TopicPartition(name, partition): position
            for name, topic in self._topics.items()
            if topic.state is not None
            for partition, position in topic.positions.items()
            if not position.stopped and topic.state.leaders.get(partition, -1) >= 0
        }
        known = {tp: reading.position.topic_id for tp, reading in self._readings.items()}
        if {tp: position.topic_id for tp, position in wanted.items()} != known:
            await self._addressing.get_ready()
            self._readings = {tp: _Reading(self._topics[tp.topic].source.name, at) for tp, at in wanted.items()}
            self._assign()
        await self._watch()
        await self._commit()

    def _wanted(self) -> list[Source]:
        with self._kv.read() as txn:
            sources = event_store.list_sources(txn, self._prefix)
        age_s, nbytes = self._settings.retention_s, self._settings.retention_bytes
        stale = [s for s in sources if (s.retention_s, s.retention_bytes) != (age_s, nbytes)]
        if stale:
            with self._kv.write() as txn:
                for source in stale:
                    event_store.set_retention(txn, source.name, age_s=age_s, nbytes=nbytes)
        return sources

    async def _note_absent(self, sources: list[Source]) -> None:
        new = [source.name for source in sources if not source.absent]

        def note() -> None:
            with self._kv.write() as txn:
                beginnings.note_absent(txn, new)

        if new:
            await asyncio.to_thread(note)

    async def _place(self, name: str, state: TopicState, topic: _Topic) -> dict[int, Position]:
        """Where to read each partition: as stored, or where to begin."""
        source = topic.source
        stored = await asyncio.to_thread(intake.load_positions, self._kv, source.name)
        begun: dict[int, Position] = {}
        if not stored and any(leader < 0 for leader in state.leaders.values()):
            topic.problem = "a partition has no leader at present: reading begins when all have one"
            return {}
        if not stored:
            begun = await self._begin(name, state, source)
        for partition in state.leaders:
            position = stored.get(partition)
            if stored and (position is None or position.topic_id != state.topic_id):
                # It was added, or the topic made anew, after we had begun: all of it is new.
                begun[partition] = Position(topic_id=state.topic_id, offset=0)
        if self._settings.on_offset_out_of_range != "fail":
            for partition, position in stored.items():
                if position.stopped and partition not in begun:
                    begun[partition] = Position(topic_id=position.topic_id, offset=position.offset)
        if begun:
            moves = {partition: (stored.get(partition), position) for partition, position in begun.items()}
            await self._write([Batch(source=source.name, moves=moves)])
            log.info(
                "reading begins topic=%s positions=%s", name, {partition: at.offset for partition, at in begun.items()}
            )
        return {partition: at for partition, at in {**stored, **begun}.items() if partition in state.leaders}

    async def _begin(self, name: str, state: TopicState, source: Source) -> dict[int, Position]:
        """Where to begin a topic that was never read: at its end, or with what is as young as who may ask for it.

        One that was asked for when it was not there begins at its beginning.
        """
        if source.absent:
            return {partition: Position(topic_id=state.topic_id, offset=0) for partition in state.leaders}
        # First of all: what comes between this question and the others is not taken for older than it is.
        ends = {at: end or 0 for at, end in (await self._offsets(name, state, LATEST)).items()}
        first = dict(ends)
        if source.since_unix_s is not None:
            young = await self._offsets(name, state, max(0, int(source.since_unix_s * 1000)))
            if any(at is None for at in young.values()):
                young = await self._told_from_unknown(name, state, young, ends)
            first |= {partition: at for partition, at in young.items() if at is not None}
        return {
            partition: Position(topic_id=state.topic_id, offset=first[partition], before_use=ends[partition])
            for partition in state.leaders
        }

    async def _told_from_unknown(
        self, name: str, state: TopicState, young: Mapping[int, int | None], ends: Mapping[int, int]
    ) -> dict[int, int | None]:
        """Offsets by time, where "none is that young" may mean that a server knows no times: then of all there is."""
        earliest = await self._offsets(name, state, EARLIEST)
        of_any_time = await self._offsets(name, state, 0)
        found = dict(young)
        for partition, at in earliest.items():
            if young[partition] is None and of_any_time[partition] is None and (at or 0) < ends[partition]:
                found[partition] = at or 0
        return found

    async def _offsets(self, name: str, state: TopicState, when: int) -> dict[int, int | None]:
        found: dict[int, int | None] = await self._cluster.offsets(name, state, dict.fromkeys(state.leaders, when))
        return found

    def _assign(self) -> None:
        """Have the consumer read what is stored as next, of all partitions; what it had fetched is dropped."""
        if not self._readings:
            self._consumer.unsubscribe()
            self.assigned_s = None
            return
        self._consumer.assign(list(self._readings))
        for tp, reading in self._readings.items():
            # Nothing runs in between, so nothing is fetched from anywhere else.
            self._consumer.seek(tp, reading.position.offset)
        self.assigned_s = time.monotonic()

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            records = await self._fetched()
        except OffsetOutOfRangeError as error:
            await self._lost(error.args[0])
            return
        except RecordTooLargeError as error:
            # aiokafka has stepped over it; what was fetched of other partitions may be lost with it.
            await self._too_large(error.args[1])
            return
        except Exception as error:
            # aiokafka has no one error for what it cannot read: each codec has its own.
            if not is_of_a_record(error) or not await self._step_over_damage():
                raise
            return
        if not records:
            return
        if not await self._same_topics(records):
            # It was deleted, and perhaps made anew: these records may be of either. First of all the consumer goes
            # back, so that nobody takes them for read.
            self._assign()
            await self._look()
            return
        now = time.time()
        batches: dict[str, Batch] = {}
        for tp, found in records.items():
            reading = self._readings[tp]
            batch = batches.setdefault(reading.source, Batch(source=reading.source))
            for record in found:
                intake.add_record(
                    batch, record, reading.position, max_bytes=self._settings.max_message_bytes, now_unix_s=now
                )
            batch.moves[tp.partition] = (
                reading.position,
                reading.position.at(await self._consumer.position(tp)),
            )
        for batch in batches.values():
            batch.addresses = await self._addressing.address(batch.source, batch.events)
        await self._write(list(batches.values()))

    async def _fetched(self) -> Mapping[TopicPartition, list[Any]]:
        """What there is to be read; up to damage that is known one record at a time, or those before it would be lost.

        Other partitions are read again when it is passed.
        """
        if self._damaged is not None:
            tp, damage = self._damaged
            if tp in self._readings and self._readings[tp].position.offset < damage.next:
                return dict(await self._consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=1))
            self._damaged = None
        return dict(await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_AT_ONCE))

    async def _same_topics(self, read: Iterable[TopicPartition]) -> bool:
        """Whether topics are still those that were assigned: asked of the servers that gave what was read of them.

        A topic's id never comes back. So when it is the same before and after, it was the same in between.
        """
        by_node: dict[int, set[TopicPartition]] = {}
        for tp in read:
            state = self._topics[tp.topic].state
            if state is None:
                return False
            if state.topic_id:
                by_node.setdefault(state.leaders[tp.partition], set()).add(tp)
        for node, partitions in by_node.items():
            found, _ = await self._cluster.topics({tp.topic for tp in partitions}, node=node)
            for tp in partitions:
                now = found.get(tp.topic)
                if now is None or now.topic_id != self._readings[tp].position.topic_id:
                    return False
        return True

    async def _write(self, batches: list[Batch]) -> None:
        done = await asyncio.to_thread(intake.take_in, self._kv, batches, time.time())
        now = time.monotonic()
        for batch in batches:
            _, name = split_source(batch.source)
            for partition, (_, new) in batch.moves.items():
                self._topics[name].positions[partition] = new
                reading = self._readings.get(TopicPartition(name, partition))
                # Of a topic made anew the consumer has read nothing: it has to be assigned first.
                if reading is not None and reading.position.topic_id == new.topic_id:
                    reading.position, reading.moved_s = new, now
            if done.accepted[batch.source]:
                self._rates.setdefault(batch.source, Rate()).count(done.accepted[batch.source])
        if any(done.accepted.values()):
            self._told(done)

    async def _lost(self, gone: Mapping[TopicPartition, int]) -> None:
        for tp in gone:
            reading = self._readings[tp]
            state = self._topics[tp.topic].state
            assert state is not None
            first = await self._cluster.offsets(tp.topic, state, {tp.partition: EARLIEST})
            end = await self._cluster.offsets(tp.topic, state, {tp.partition: LATEST})
            there = (first[tp.partition] or 0, end[tp.partition] or 0)
            if there[0] <= reading.position.offset <= there[1]:
                # Where it should be: the server that was asked had not caught up.
                continue
            batch = Batch(source=reading.source)
            policy = self._settings.on_offset_out_of_range
            new = intake.lost_range(
                batch, tp.topic, tp.partition, reading.position, policy=policy, there=there, now=time.time()
            )
            log.error(batch.letters[0].error)
            await self._write([batch])
            if new.stopped:
                del self._readings[tp]
        self._assign()

    async def _too_large(self, tp: TopicPartition) -> None:
        reading = self._readings[tp]
        batch = Batch(source=reading.source)
        intake.too_large_for_the_fetch(batch, tp.topic, tp.partition, reading.position, time.time())
        batch.moves[tp.partition] = (reading.position, reading.position.at(reading.position.offset + 1))
        await self._write([batch])
        self._assign()

    async def _step_over_damage(self) -> bool:
        """See to it that what cannot be read becomes a dead letter. False when all can be read, seen from here."""
        if self._damaged is None:
            self._damaged = await self._find_damage()
            # What was fetched along with it is to be fetched again.
            self._assign()
            return self._damaged is not None
        (tp, damage), self._damaged = self._damaged, None
        reading = self._readings[tp]
        if await self._same_topics([tp]):
            batch = Batch(source=reading.source)
            intake.damaged(batch, tp.topic, tp.partition, reading.position, damage, time.time())
            log.error("%s: %s", reading.source, batch.letters[0].error)
            await self._write([batch])
        self._assign()
        return True

    async def _find_damage(self) -> tuple[TopicPartition, Damage] | None:
        for tp, reading in self._readings.items():
            state, offset = self._topics[tp.topic].state, reading.position.offset
            assert state is not None
            given, end = await self._cluster.fetch(tp.topic, state, tp.partition, offset, self._partition_bytes)
            damage = find_damage(given, offset, end)
            if damage is not None:
                return tp, damage
        return None

    # -- looking after it ----------------------------------------------------------------------------------------

    async def _store_idle_moves(self) -> None:
        """Store how far the consumer is where it came by what is no message: ends of transactions, aborted ones."""
        moved = {tp: await self._consumer.position(tp) for tp in self._readings}
        moved = {tp: at for tp, at in moved.items() if at > self._readings[tp].position.offset}
        if not moved or not await self._same_topics(moved):
            return
        batches: dict[str, Batch] = {}
        for tp, at in moved.items():
            reading = self._readings[tp]
            batch = batches.setdefault(reading.source, Batch(source=reading.source))
            batch.moves[tp.partition] = (reading.position, reading.position.at(at))
        await self._write(list(batches.values()))

    async def _watch(self) -> None:
        """Compare with what the servers have: a consumer may hang after a restart of theirs, and not say so."""
        now = time.monotonic()
        by_topic: dict[str, dict[int, int]] = {}
        for tp in self._readings:
            by_topic.setdefault(tp.topic, {})[tp.partition] = LATEST
        for name, partitions in by_topic.items():
            state = self._topics[name].state
            assert state is not None
            for partition, end in (await self._cluster.offsets(name, state, partitions)).items():
                reading = self._readings[TopicPartition(name, partition)]
                reading.end = end
                if end is None or end <= reading.position.offset:
                    reading.moved_s = now
                elif now - reading.moved_s > self._settings.stall_s:
                    raise ConsumerStalledError(
                        f"{source_name(self._settings.name, name)}: offset {reading.position.offset} of partition "
                        f"{partition} has not come for {self._settings.stall_s:g} s, and the server has up to {end}"
                    )

    async def _commit(self) -> None:
        group, now = self._settings.group_id, time.monotonic()
        at = {tp: reading.position.offset for tp, reading in self._readings.items()}
        if group is None or now < self._next_commit_s or at == self._committed:
            return
        by_topic: dict[str, dict[int, int]] = {}
        for tp, offset in at.items():
            by_topic.setdefault(tp.topic, {})[tp.partition] = offset
        try:
            await self._cluster.commit(group, by_topic)
        except KafkaError as error:
            # It decides nothing: reading goes on.
            self.commit_error = repr(error)
            log.debug("positions were not committed group=%s: %r", group, error)
            return
        self.commit_error, self._committed, self._next_commit_s = "", at, now + _COMMIT_EVERY_S


async def _either(one: asyncio.Event, other: asyncio.Event, timeout_s: float) -> None:
    """Wait until one of two is set, or for a time."""
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
