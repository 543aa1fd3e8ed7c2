"""Looking after outside sources: how reading them goes, and what of them could not be taken in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from holdfast.actors.client import Platform
from holdfast.actors.source_hosts import SourceReport
from holdfast.engine.errors import HoldfastError
from holdfast.engine.given_numbers import check_whole
from holdfast.listeners.kafka import KIND
from holdfast.listeners.kafka_health import PartitionHealth
from holdfast.listeners.kafka_message import KafkaMessage, message_of
from holdfast.storage.dead_letters import DeadLetter as StoredLetter
from holdfast.storage.strict_json import dump
from holdfast.workflow.platform import get_platform

__all__ = [
    "DeadLetter",
    "EventSource",
    "dead_letters",
    "delete_dead_letter",
    "event_sources",
    "replay_dead_letter",
    "show_dead_letter",
]

_PAGE = 500
_LATE = (
    "it was not reached in time when it was asked for first: reading begins by the times of its messages, and older "
    "ones that came in between are passed by"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """An outside source of events.

    Attributes:
        name: As `kafka/default/orders`: kind, connection, topic.
        state: "reading"; "stopped", when some partition is not read; "missing", when there is no such topic;
            "connecting", when the cluster is not reached at present; "unconfigured", when there is no such
            connection.
        lag: Messages that are there and not taken in yet, of all partitions; None when that is not known.
        rate_per_s: Messages taken in per second, over the last minute.
        last_error: What is, or was last, wrong; empty when nothing was.
        assignment_age_s: How long the partitions that are read have been these; None when none is.
        partitions: Position, end and lag of each.
        accepted, repeated: Events taken in, ever; those that came again and were not.
        kept, kept_bytes: Events in the store, read or not.
        expired: Events that were removed by age or for want of room.
        last_event_unix_s: Time of the last event, in seconds since the epoch; None for none.
    """

    name: str
    state: str
    lag: int | None
    rate_per_s: float
    last_error: str
    assignment_age_s: float | None
    partitions: tuple[PartitionHealth, ...]
    accepted: int
    repeated: int
    kept: int
    kept_bytes: int
    expired: int
    last_event_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Something of an outside source that could not be taken in, or acted upon.

    Attributes:
        id: Its number.
        source: Where it came from.
        reason: "undecodable" (the value is not JSON), "oversized" (see `max_message_bytes`), "corrupt" (messages that
            the server keeps damaged), "out-of-range" (messages are gone from the topic that were not read) or
            "start-failed" (no workflow could be started), "call-refused" (a virtual actor could not be called).
        error: What was said.
        occurred_unix_s: When, in seconds since the epoch.
        details: What else is known: topic, partition, offset.
        message: The message, where it was kept; its `value` may not be JSON: see `raw_value`.
    """

    id: int
    source: str
    reason: str
    error: str
    occurred_unix_s: float
    details: dict[str, Any] = field(default_factory=dict)
    message: KafkaMessage | None = None


def event_sources() -> list[EventSource]:
    """The outside sources that somebody waits for, or ever did, and how reading them goes."""
    reports: list[SourceReport] = _asked(lambda platform: platform.management.source_reports.remote())
    return [_shown(report) for report in reports]


def dead_letters(source: str | None = None) -> list[DeadLetter]:
    """What could not be taken in, in the order in which it came.

    Args:
        source: Of one source, as `kafka/default/orders`. Default: of all.
    """
    found: list[DeadLetter] = []
    after = 0
    while True:
        last = after
        page: list[StoredLetter] = _asked(
            lambda platform, last=last: platform.management.dead_letters.remote(source, last, _PAGE)  # type: ignore[misc]
        )
        found.extend(_letter(letter) for letter in page)
        if len(page) < _PAGE:
            return found
        after = page[-1].number


def show_dead_letter(id: int) -> DeadLetter:
    """One dead letter.

    Raises:
        DeadLetterNotFoundError: There is none of this id.
    """
    number = check_whole("id", id, least=0)
    return _letter(_asked(lambda platform: platform.management.dead_letter.remote(number)))


def replay_dead_letter(id: int, *, value: Any = None) -> None:
    """Try a dead letter again; then it is none any more.

    Args:
        id: Its number.
        value: Take the message in with this value: anything JSON, or its bytes. Default: with its own.

    Raises:
        DeadLetterNotFoundError: There is none of this id.
        DeadLetterNotReplayableError: It cannot be; says what to do. Nothing changed.

    Semantics: an undecodable message needs a value; one that is too large is read from its topic again, whatever its
    size, and damaged ones are, too; an out-of-range one has its partition read on from the first message there is, if
    it was stopped; what could not start a workflow is to start it again. What is taken in is an event like any other,
    after those that came before.
    """
    number = check_whole("id", id, least=0)
    raw = value if value is None or isinstance(value, bytes) else dump(value, "value")
    _asked(lambda platform: platform.management.replay_dead_letter.remote(number, raw))


def delete_dead_letter(id: int) -> None:
    """Forget a dead letter.

    Raises:
        DeadLetterNotFoundError: There is none of this id.
    """
    number = check_whole("id", id, least=0)
    _asked(lambda platform: platform.management.drop_dead_letter.remote(number))


def _asked(call: Callable[[Platform], Any]) -> Any:
    try:
        return ray.get(call(get_platform()))
    except RayTaskError as error:
        if isinstance(error.cause, HoldfastError):
            raise error.cause from None
        raise


def _shown(report: SourceReport) -> EventSource:
    source, connection, topic = report.source, report.connection, report.topic
    lags = [partition.lag for partition in topic.partitions if not partition.stopped] if topic is not None else []
    known = [lag for lag in lags if lag is not None]
    errors = (
        topic.last_error if topic is not None else "",
        connection.last_error if connection is not None else "",
        _LATE if source.late else "",
    )
    if not report.configured:
        state = "unconfigured"
    elif connection is None or topic is None or not (connection.connected or topic.state != "reading"):
        state = "connecting"
    else:
        state = topic.state
    return EventSource(
        name=source.name,
        state=state,
        lag=sum(known) if known and len(known) == len(lags) else None,
        rate_per_s=0.0 if topic is None else topic.rate_per_s,
        last_error=next((error for error in errors if error), ""),
        assignment_age_s=None if connection is None else connection.assignment_age_s,
        partitions=() if topic is None else topic.partitions,
        accepted=source.accepted,
        repeated=source.repeated,
        kept=source.kept,
        kept_bytes=source.kept_bytes,
        expired=source.expired,
        last_event_unix_s=source.last_event_unix_s,
    )


def _letter(letter: StoredLetter) -> DeadLetter:
    event, is_kafkas = letter.event, letter.source.startswith(f"{KIND}/")
    return DeadLetter(
        id=letter.number,
        source=letter.source,
        reason=letter.reason,
        error=letter.error,
        occurred_unix_s=letter.occurred_unix_s,
        details=dict(letter.note),
        message=message_of(event.note, event.key, event.value) if event is not None and is_kafkas else None,
    )
