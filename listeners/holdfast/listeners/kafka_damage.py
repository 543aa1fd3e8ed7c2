"""Where records of a partition are damaged, as a disk or a wire may leave them.

Kafka keeps records in batches with a checksum each. aiokafka raises at the
first batch that it cannot read, for whatever reason, and does not say where it
is; servers hand over what they have. Here the bytes are looked at that a server
gives: nothing is asked of it, and nothing is decided.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import CorruptRecordException, KafkaError, UnsupportedCodecError
from aiokafka.record.memory_records import MemoryRecords

# All layouts of a batch begin with its first offset and the length of what follows.
_HEAD = struct.Struct(">qi")
# In the present one, how far the last offset is from the first stands here.
_LAST_DELTA = struct.Struct(">i")
_LAST_DELTA_AT = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A batch that cannot be read.

    Attributes:
        first: Offset of the first record that is lost with it.
        next: Offset to go on from.
        error: What is wrong with it.
    """

    first: int
    next: int
    error: str


def is_of_a_record(error: Exception) -> bool:
    """Whether what aiokafka raised may be about what it read.

    Not so: how it reaches the servers, a codec that is not installed, memory that ran out. Those can be mended here.
    """
    return isinstance(error, CorruptRecordException) or not isinstance(error, KafkaError | MemoryError)


def find_damage(given: bytes, offset: int, end: int) -> Damage | None:
    """The first batch that cannot be read.

    Args:
        given: Batches as a server gives them; the last one may be there only in part.
        offset: What it was asked for.
        end: Where the partition ends.

    Returns:
        None when all that is there in full can be read.
    """
    at = 0
    while at + _HEAD.size <= len(given):
        base, length = _HEAD.unpack_from(given, at)
        following = at + _HEAD.size + length
        if length < 0 or following > len(given):
            break
        error = _what_is_wrong(given[at:following])
        if error:
            first = max(base, offset)
            return Damage(first=first, next=_next(given, at, following, first, end), error=error)
        at = following
    return None


def _what_is_wrong(batch: bytes) -> str:
    try:
        found: Any = MemoryRecords(batch).next_batch()
        if not found.validate_crc():
            return "its checksum is wrong"
        for _ in found:
            pass
    except (MemoryError, UnsupportedCodecError):
        raise
    except Exception as error:  # noqa: BLE001 - each codec has errors of its own for what it cannot read
        return f"it cannot be taken apart: {error!r}"
    return ""


def _next(given: bytes, at: int, following: int, first: int, end: int) -> int:
    """Where to go on: the next batch says it best, for what this one says of itself may be damaged."""
    candidates = []
    if following + _HEAD.size <= len(given):
        candidates.append(_HEAD.unpack_from(given, following)[0])
    if at + _LAST_DELTA_AT + _LAST_DELTA.size <= following:
        candidates.append(_HEAD.unpack_from(given, at)[0] + _LAST_DELTA.unpack_from(given, at + _LAST_DELTA_AT)[0] + 1)
    return next((candidate for candidate in candidates if first < candidate <= end), first + 1)
