"""What a Kafka record is to a workflow, and how it is kept until one takes it.

Nothing here speaks to Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.errors import NotJsonError
from holdfast.storage.strict_json import parse, parse_accepted

FORM = "kafka"
"""The name of this form in the note of an event."""

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, kw_only=True)
class KafkaMessage:
    """A record of a Kafka topic.

    Attributes:
        topic: Name of the topic.
        partition: Number of the partition.
        offset: Its place in the partition.
        key: A string where the key is UTF-8, which most are; else bytes. None for none.
        raw_value: The value as it was written; None for none, which deletes a key from a compacted topic.
        headers: (name, value) pairs in order; a name may come twice.
        timestamp: Seconds since the epoch: when it was written, or whatever its producer said.
        decoded: Whether `value` is what the raw value says as JSON, or the raw value itself.
    """

    topic: str
    partition: int
    offset: int
    key: str | bytes | None
    raw_value: bytes | None
    headers: Headers = ()
    timestamp: float
    decoded: bool = True

    @property
    def value(self) -> Any:
        """The value, decoded from JSON; the bytes themselves when raw ones were asked for. None for none.

        Raises:
            ValueError: It is not JSON. No workflow is given such a message unless it asks for raw values.
        """
        if self.raw_value is None or not self.decoded:
            return self.raw_value
        return parse_accepted(self.raw_value)

    def as_raw(self) -> KafkaMessage:
        """The same message with its bytes as `value`."""
        return KafkaMessage(**{**self.__dict__, "decoded": False})


def note_of(
    *, topic: str, topic_id: str, partition: int, offset: int, timestamp_ms: int, headers: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """What is kept with key and value, as JSON."""
    note: dict[str, Any] = {
        "form": FORM,
        "topic": topic,
        "topic_id": topic_id,
        "partition": partition,
        "offset": offset,
        "timestamp_ms": timestamp_ms,
    }
    if headers:
        # Latin-1 gives each byte a character, and plain text stays readable.
        note["headers"] = [[name, None if value is None else value.decode("latin-1")] for name, value in headers]
    return note


def message_of(note: Mapping[str, Any], key: bytes | None, value: bytes | None) -> KafkaMessage:
    """The message that was kept so."""
    return KafkaMessage(
        topic=note["topic"],
        partition=note["partition"],
        offset=note["offset"],
        key=_text_or_bytes(key),
        raw_value=value,
        headers=tuple(
            (name, None if text is None else text.encode("latin-1")) for name, text in note.get("headers", ())
        ),
        timestamp=note["timestamp_ms"] / 1000,
    )


def is_json(value: bytes | None) -> bool:
    """Whether a value can be decoded. None can."""
    return not undecodable(value)


def undecodable(value: bytes | None) -> str:
    """Say why a value cannot be decoded; empty when it can. None can be decoded."""
    if value is None:
        return ""
    try:
        parse(value, "its value")
    except NotJsonError as error:
        return str(error)
    return ""


def _text_or_bytes(key: bytes | None) -> str | bytes | None:
    if key is None:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
