"""The log of events of outside sources: each stored once, under its source, with how far the source was read.

One transaction takes a batch in: events, dedupe rows, positions, and a row for
whoever is to be told, a workflow to wake or a subscription to start one. Who
waits, and how far they have read, is `event_readers`; nobody's inbox is
written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import orjson

from holdfast.engine.errors import NotJsonError, StorageError
from holdfast.engine.selectors import selectors_of
from holdfast.storage import layout, start_rows
from holdfast.storage.event_claims import claims_of
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import Frame, open_frame
from holdfast.storage.strict_json import parse_accepted
from holdfast.storage.workflow_store import count_up

DEFAULT_RETENTION_S = 7 * 24 * 3600.0
DEFAULT_RETENTION_BYTES = 1 << 30

Addresses: TypeAlias = Mapping[tuple[int, str], str]
"""(number of a rule, dedupe id of an event) -> id of the actor that the event is for by this rule."""

_NUMBERS = "events"
_NO_ADDRESSES: Addresses = {}


class PositionMovedError(StorageError):
    """Somebody else has moved the position of a partition: this reader is not the one any more. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingEvent:
    """An event as its source gave it.

    Attributes:
        key, value: Raw, as received; None where there is none.
        time_unix_s: When it happened, as its source says, in seconds since the epoch.
        dedupe_id: Unique within the source; the same id is the same event.
        note: What else is known of it, JSON. `form` says how a reader's value is formed of all that.
        undecodable: Its value is not what the source's values are: only those who read raw get it.
        before_use: It was there before the source was first used: only a workflow that was submitted, or a
            subscription that was made, before `time_unix_s` gets it.
    """

    key: bytes | None
    value: bytes | None
    time_unix_s: float
    dedupe_id: str
    note: Mapping[str, Any] = field(default_factory=dict)
    undecodable: bool = False
    before_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent(IncomingEvent):
    """An event of the log.

    Attributes:
        number: Its place among the events of all sources.
        accepted_unix_s: When it was taken in, by this node's clock.
        nbytes: How much room it takes.
    """

    number: int
    accepted_unix_s: float
    nbytes: int

    def fields(self) -> Mapping[str, Any] | None:
        """Its value when that is a JSON object; else None."""
        return json_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An outside source as the store knows it.

    Attributes:
        number, name: Which.
        since_unix_s: When the oldest workflow was submitted that may ask for it, as it was when it was asked for first:
            where to begin to read it. None: nobody is older than whoever asked, so with what comes from then on.
        accepted, repeated: Events taken in so far; those that had been taken in before.
        kept, kept_bytes: Events in the log now.
        expired, expired_bytes: Events that were removed by age or for want of room.
        last_event_unix_s: Time of the event taken in last; None for none.
        retention_s, retention_bytes: How long, and how much of, its events are kept; None for no limit.
        decoded: Whether somebody reads its values decoded: what cannot be decoded is then a dead letter.
        begun_seq: Number of the workflow that was submitted last when it was fixed where to begin; None before that.
            For those submitted since, nothing of it is new that was there before.
        absent: It was asked for when it was not there: all of it is new.
        late: Somebody was accepted before it was fixed where to begin.
    """

    number: int
    name: str
    since_unix_s: float | None
    accepted: int = 0
    repeated: int = 0
    kept: int = 0
    kept_bytes: int = 0
    expired: int = 0
    expired_bytes: int = 0
    last_event_unix_s: float | None = None
    retention_s: float | None = DEFAULT_RETENTION_S
    retention_bytes: int | None = DEFAULT_RETENTION_BYTES
    decoded: bool = False
    begun_seq: int | None = None
    absent: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What came of a batch.

    Attributes:
        accepted, repeated: How many events were taken in; how many had been before.
        wakes: Numbers of workflows for which there is an event now. Their rows say so until they have pulled it.
        starts: Numbers of subscriptions for which there is an event now.
    """

    accepted: int
    repeated: int
    wakes: tuple[int, ...]
    starts: tuple[int, ...]


# -- sources -----------------------------------------------------------------------------------------------------------


def find_source(txn: ReadTransaction, name: str) -> Source | None:
    """The source of a name; None when nobody has asked for it."""
    raw = txn.get(layout.source_name(name))
    return None if raw is None else _get_source(txn, layout.unpack(raw))


def list_sources(txn: ReadTransaction, prefix: str = "") -> list[Source]:
    """The sources whose names begin so, in the order in which they were first asked for."""
    found = (_decode_source(layout.last_part(key), raw) for key, raw in txn.scan(layout.SOURCES))
    return [source for source in found if source.name.startswith(prefix)]


def need_source(
    txn: WriteTransaction, name: str, since_unix_s: float | None, *, decoded: bool = True
) -> tuple[Source, bool]:
    """The source of a name, made when it is not there.

    Args:
        txn: The transaction.
        name: `kind/connection/name`.
        since_unix_s: From when on its events are wanted, if this is the first time that it is asked for; None for
            from now on.
        decoded: Whether whoever asks reads decoded values.

    Returns:
        The source, and whether it is new: whoever reads such sources has to be told.
    """
    source = find_source(txn, name)
    if source is not None:
        if decoded and not source.decoded:
            source = replace(source, decoded=True)
            save_source(txn, source)
        return source, False
    source = Source(number=count_up(txn, "source"), name=name, since_unix_s=since_unix_s, decoded=decoded)
    txn.put(layout.source_name(name), layout.pack(source.number))
    save_source(txn, source)
    return source, True


def set_retention(txn: WriteTransaction, name: str, *, age_s: float | None, nbytes: int | None) -> None:
    """Say how long, and how much, the events of a source are kept.

    Args:
        txn: The transaction.
        name: The source; one that nobody has asked for is left out.
        age_s: Seconds since an event was taken in; None for no limit.
        nbytes: Bytes of all its events; None for no limit.
    """
    source = find_source(txn, name)
    if source is not None and (source.retention_s, source.retention_bytes) != (age_s, nbytes):
        save_source(txn, replace(source, retention_s=age_s, retention_bytes=nbytes))


def _get_source(txn: ReadTransaction, number: int) -> Source | None:
    raw = txn.get(layout.source(number))
    return None if raw is None else _decode_source(number, raw)


_SOURCE_FIELDS = tuple(name for name in Source.__dataclass_fields__ if name != "number")


def _decode_source(number: int, raw: bytes) -> Source:
    return Source(number=number, **orjson.loads(raw))


def save_source(txn: WriteTransaction, source: Source) -> None:
    """Write the row of a source."""
    txn.put(layout.source(source.number), orjson.dumps({name: getattr(source, name) for name in _SOURCE_FIELDS}))


# -- taking in ---------------------------------------------------------------------------------------------------------


def positions(txn: ReadTransaction, name: str) -> dict[str, Any]:
    """How far each partition of a source has been read; empty when it never was."""
    source = find_source(txn, name)
    if source is None:
        return {}
    found = txn.scan(layout.position(source.number))
    return {layout.position_partition(key): orjson.loads(raw) for key, raw in found}


def ingest(
    txn: WriteTransaction,
    name: str,
    events: Sequence[IncomingEvent],
    *,
    moves: Mapping[str, tuple[Any | None, Any]],
    now_unix_s: float,
    addresses: Addresses = _NO_ADDRESSES,
) -> Ingested:
    """Take events in, with how far the source has been read by that.

    Args:
        txn: The transaction.
        name: The source, which somebody has asked for.
        events: In order.
        moves: For each partition that was read: its position as this reader knew it (None for none), and the new
            one. A position is a JSON value of the reader's making.
        now_unix_s: The time.
        addresses: Which actors the events are for, as far as that is known.

    Returns:
        Whom to tell, after the commit.

    Raises:
        PositionMovedError: A position is not what this reader knew. Leave the transaction: nothing may be written.
    """
    source = find_source(txn, name)
    if source is None:
        raise ValueError(f"nobody has asked for the source {name!r}: make it with need_source first")
    if moves and next(txn.scan(layout.position(source.number)), None) is None:
        newest = txn.get(layout.counter("seq"))
        source = replace(source, begun_seq=0 if newest is None else layout.unpack(newest))
        save_source(txn, source)
    for partition, (known, new) in moves.items():
        key = layout.position(source.number, partition)
        raw = txn.get(key)
        stored = None if raw is None else orjson.loads(raw)
        if stored != known:
            raise PositionMovedError(
                name,
                f"partition {partition} has been read up to {stored!r} by somebody else, and not to {known!r}",
                "Read the positions again, and go on from there",
            )
        txn.put(key, orjson.dumps(new))
    intake = _Intake(txn, source, now_unix_s, addresses)
    for event in events:
        intake.take(event)
    return intake.close()


class _Intake:
    """One batch on its way into the log."""

    def __init__(self, txn: WriteTransaction, source: Source, now_unix_s: float, addresses: Addresses) -> None:
        self._txn, self._source, self._now, self._addresses = txn, source, now_unix_s, addresses
        self._number = last_number(txn)
        self._field_sets = _field_sets(txn, source.number)
        self._wakes: dict[int, None] = {}
        self._starts: dict[int, None] = {}
        self._accepted = self._repeated = self._nbytes = 0
        self._last: float | None = source.last_event_unix_s

    def take(self, event: IncomingEvent) -> None:
        txn, source = self._txn, self._source.number
        dedupe = layout.source_dedupe(source, event.dedupe_id)
        if txn.get(dedupe) is not None:
            self._repeated += 1
            return
        self._number += 1
        raw = _encode_event(event, self._now)
        txn.put(dedupe, layout.pack(self._number))
        txn.put(layout.source_event(source, self._number), raw)
        if event.key is not None:
            txn.put(layout.source_event_by_key(source, event.key, self._number), b"")
        self._accepted += 1
        self._nbytes += len(raw)
        self._last = event.time_unix_s
        self._tell(event)

    def _tell(self, event: IncomingEvent) -> None:
        for text in _selected_by(event, self._field_sets):
            source = self._source.number
            for key, raw in self._txn.scan(layout.readers(source, text)):
                seq = layout.last_part(key)
                self._txn.put(layout.wake(seq, source, text), raw)
                self._wakes[seq] = None
            for key, made in self._txn.scan(layout.subscribers(source, text)):
                created = orjson.loads(made)
                if event.before_use and (created is None or event.time_unix_s < created):
                    # It was there before the rule.
                    continue
                subscription = layout.last_part(key)
                actor_id = self._addresses.get((subscription, event.dedupe_id), "")
                start_rows.add(self._txn, subscription, self._number, source, actor_id)
                self._starts[subscription] = None

    def close(self) -> Ingested:
        source = self._source
        if self._accepted or self._repeated:
            self._txn.put(layout.counter(_NUMBERS), layout.pack(self._number))
            save_source(
                self._txn,
                replace(
                    source,
                    accepted=source.accepted + self._accepted,
                    repeated=source.repeated + self._repeated,
                    kept=source.kept + self._accepted,
                    kept_bytes=source.kept_bytes + self._nbytes,
                    last_event_unix_s=self._last,
                ),
            )
        return Ingested(
            accepted=self._accepted, repeated=self._repeated, wakes=tuple(self._wakes), starts=tuple(self._starts)
        )


def _field_sets(txn: ReadTransaction, source: int) -> list[Sequence[str]]:
    return [orjson.loads(raw) for _, raw in txn.scan(layout.field_set(source))]


def _selected_by(event: IncomingEvent, field_sets: Sequence[Sequence[str]]) -> Iterator[str]:
    """The texts of all selectors that select an event."""
    fields = json_fields(event) if field_sets else None
    return selectors_of(event.key, fields, undecodable=event.undecodable, field_sets=field_sets)


def json_fields(event: IncomingEvent) -> Mapping[str, Any] | None:
    """The value of an event when it is a JSON object; else None."""
    if event.value is None or event.undecodable or not event.value.lstrip().startswith(b"{"):
        return None
    try:
        value = parse_accepted(event.value)
    except NotJsonError:
        return None
    return value if isinstance(value, dict) else None


def last_number(txn: ReadTransaction) -> int:
    """Number of the event taken in last, of all sources; 0 for none."""
    raw = txn.get(layout.counter(_NUMBERS))
    return 0 if raw is None else layout.unpack(raw)


# -- reading -----------------------------------------------------------------------------------------------------------


def get_event(txn: ReadTransaction, source: int, number: int) -> StoredEvent | None:
    """An event by its number; None when it has expired."""
    raw = txn.get(layout.source_event(source, number))
    return None if raw is None else _decode_event(number, raw)


def events_after(txn: ReadTransaction, source: int, number: int) -> Iterator[StoredEvent]:
    """The events of a source after a number, in order."""
    for key, raw in txn.scan(layout.source_event(source), start=layout.source_event(source, number + 1)):
        yield _decode_event(layout.last_part(key), raw)


def events_of_key_after(txn: ReadTransaction, source: int, key: bytes, number: int) -> Iterator[StoredEvent]:
    """The events of a source under a key, after a number, in order."""
    index = layout.source_event_by_key(source, key)
    for row, _ in txn.scan(index, start=layout.source_event_by_key(source, key, number + 1)):
        event = get_event(txn, source, layout.last_part(row))
        if event is not None:
            yield event


def _encode_event(event: IncomingEvent, now_unix_s: float) -> bytes:
    frame = Frame()
    header: dict[str, Any] = {"time": event.time_unix_s, "at": now_unix_s, "id": event.dedupe_id, "note": event.note}
    if event.key is not None:
        header["key"] = frame.add(event.key)
    if event.value is not None:
        header["value"] = frame.add(event.value)
    if event.undecodable:
        header["undecodable"] = True
    if event.before_use:
        header["before_use"] = True
    return frame.close(header)


def _decode_event(number: int, raw: bytes) -> StoredEvent:
    header, pieces = open_frame(raw)
    return StoredEvent(
        number=number,
        accepted_unix_s=header["at"],
        nbytes=len(raw),
        key=bytes(pieces[header["key"]]) if "key" in header else None,
        value=bytes(pieces[header["value"]]) if "value" in header else None,
        time_unix_s=header["time"],
        dedupe_id=header["id"],
        note=header["note"],
        undecodable=header.get("undecodable", False),
        before_use=header.get("before_use", False),
    )


def put_back(txn: WriteTransaction, source: Source, number: int, event: IncomingEvent, now_unix_s: float) -> None:
    """Put an expired event back into the log, under its old number."""
    raw = _encode_event(event, now_unix_s)
    txn.put(layout.source_event(source.number, number), raw)
    if event.key is not None:
        txn.put(layout.source_event_by_key(source.number, event.key, number), b"")
    save_source(txn, replace(source, kept=source.kept + 1, kept_bytes=source.kept_bytes + len(raw)))


# -- retention ---------------------------------------------------------------------------------------------------------


def expire(txn: WriteTransaction, name: str, now_unix_s: float, *, limit: int = 1000) -> int:
    """Remove the oldest events of a source that are too old, or too many.

    Args:
        txn: The transaction.
        name: The source.
        now_unix_s: The time.
        limit: Remove at most so many.

    Returns:
        How many were removed; `limit` when there may be more.

    Semantics: what somebody has been promised stays (`event_claims`): an event that is still to start a workflow or to
        call an actor, and those after it; and one that a workflow that waits has not read yet. Dead letters have their
        events with them.
    """
    source = find_source(txn, name)
    if source is None:
        return 0
    claims = claims_of(txn, source.number)
    field_sets = _field_sets(txn, source.number) if claims.unread else []
    removed, nbytes = 0, 0
    for event in events_after(txn, source.number, 0):
        old = source.retention_s is not None and event.accepted_unix_s < now_unix_s - source.retention_s
        many = source.retention_bytes is not None and source.kept_bytes - nbytes > source.retention_bytes
        if not (old or many) or removed >= limit:
            break
        if claims.hold(event.number, _selected_by(event, field_sets)):
            continue
        txn.delete(layout.source_event(source.number, event.number))
        dedupe = layout.source_dedupe(source.number, event.dedupe_id)
        if txn.get(dedupe) == layout.pack(event.number):
            # Not that of the same event, taken in anew.
            txn.delete(dedupe)
        if event.key is not None:
            txn.delete(layout.source_event_by_key(source.number, event.key, event.number))
        removed, nbytes = removed + 1, nbytes + event.nbytes
    if removed:
        save_source(
            txn,
            replace(
                source,
                kept=source.kept - removed,
                kept_bytes=source.kept_bytes - nbytes,
                expired=source.expired + removed,
                expired_bytes=source.expired_bytes + nbytes,
            ),
        )
    return removed
