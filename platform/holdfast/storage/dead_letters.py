"""What could not be taken in or acted upon: kept to be seen and tried again, never dropped.

A dead letter says what it is about and why, and has its event with it: what the
log of the source had of that expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.storage import layout
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import Frame, open_frame
from holdfast.storage.workflow_store import count_up


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Something that could not be taken in.

    Attributes:
        number: Its own; 0 before it is kept.
        source: Where it came from.
        reason: One word for what went wrong: `undecodable`, `oversized`, `corrupt`, `out-of-range`, `start-failed`,
            `call-refused`.
        error: What was said.
        occurred_unix_s: When, in seconds since the epoch.
        note: What else is known, JSON: topic, partition, offset; for the last two the subscription.
        event: The event as it came; None when it never came, as one that is too large. (Letters of earlier releases
            that are about an event in the log have none.)
        event_number: Its number in the log of the source; None when it is not there.
    """

    source: str
    reason: str
    error: str
    occurred_unix_s: float
    number: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)
    event: IncomingEvent | None = None
    event_number: int | None = None


def add_dead_letter(txn: WriteTransaction, letter: DeadLetter) -> int:
    """Keep a dead letter; its number."""
    number = count_up(txn, "dead-letter")
    frame = Frame()
    header: dict[str, Any] = {"source": letter.source, "reason": letter.reason, "error": letter.error}
    header |= {"at": letter.occurred_unix_s, "note": letter.note, "number": letter.event_number}
    event = letter.event
    if event is not None:
        header["event"] = {
            "key": None if event.key is None else frame.add(event.key),
            "value": None if event.value is None else frame.add(event.value),
            "time": event.time_unix_s,
            "id": event.dedupe_id,
            "note": event.note,
            "undecodable": event.undecodable,
            "before_use": event.before_use,
        }
    txn.put(layout.dead_letter(number), frame.close(header))
    return number


def list_dead_letters(
    txn: ReadTransaction, source: str | None = None, *, after: int = 0, limit: int = 100
) -> list[DeadLetter]:
    """Dead letters in the order in which they came.

    Args:
        txn: The transaction.
        source: Of this source; None for all.
        after: Those with a higher number.
        limit: At most so many.
    """
    found: list[DeadLetter] = []
    for key, raw in txn.scan(layout.DEAD_LETTERS, start=layout.dead_letter(after + 1)):
        if len(found) >= limit:
            break
        letter = _decode(layout.last_part(key), raw)
        if source is None or letter.source == source:
            found.append(letter)
    return found


def get_dead_letter(txn: ReadTransaction, number: int) -> DeadLetter | None:
    """A dead letter; None when there is none of this number."""
    raw = txn.get(layout.dead_letter(number))
    return None if raw is None else _decode(number, raw)


def drop_dead_letter(txn: WriteTransaction, number: int) -> bool:
    """Forget a dead letter. Returns whether it was there."""
    return txn.delete(layout.dead_letter(number))


def _decode(number: int, raw: bytes) -> DeadLetter:
    header, pieces = open_frame(raw)
    event = header.get("event")
    return DeadLetter(
        number=number,
        source=header["source"],
        reason=header["reason"],
        error=header["error"],
        occurred_unix_s=header["at"],
        note=header["note"],
        event_number=header["number"],
        event=None
        if event is None
        else IncomingEvent(
            key=None if event["key"] is None else bytes(pieces[event["key"]]),
            value=None if event["value"] is None else bytes(pieces[event["value"]]),
            time_unix_s=event["time"],
            dedupe_id=event["id"],
            note=event["note"],
            undecodable=event["undecodable"],
            before_use=event["before_use"],
        ),
    )
