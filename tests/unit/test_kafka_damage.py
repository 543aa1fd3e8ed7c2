"""Damaged batches are found by looking at bytes, and where to go on after them."""

from __future__ import annotations

import struct

import pytest
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from holdfast.listeners.kafka_damage import Damage, find_damage, is_of_a_record

HEADER = 61


def batch(first: int, count: int, *, compression: int = 0) -> bytes:
    """Records as a server keeps them, `count` from offset `first` on."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 20)
    for number in range(count):
        builder.append(number, 1_000, b"key", b"value" * 20, [("h", b"1")])
    return struct.pack(">q", first) + bytes(builder.build())[8:]


def with_byte(given: bytes, at: int, xor: int = 0xFF) -> bytes:
    changed = bytearray(given)
    changed[at] ^= xor
    return bytes(changed)


def test_what_is_whole_has_no_damage() -> None:
    assert find_damage(b"", 0, 0) is None
    assert find_damage(batch(5, 3) + batch(8, 1, compression=1), 6, 9) is None


def test_a_batch_that_is_there_only_in_part_is_none_yet() -> None:
    whole, part = batch(0, 2), batch(2, 5)
    for length in range(len(part)):
        assert find_damage(whole + part[:length], 0, 7) is None


@pytest.mark.parametrize("at", range(17, 61), ids=lambda at: f"byte {at}")
def test_any_byte_of_a_header_that_the_checksum_covers_is_missed(at: int) -> None:
    given = batch(0, 2) + with_byte(batch(2, 3), at) + batch(5, 1)
    assert find_damage(given, 0, 6) == Damage(first=2, next=5, error="its checksum is wrong")


def test_a_changed_value_is_found_and_stepped_over_with_its_batch() -> None:
    damaged = with_byte(batch(2, 3), HEADER + 20)
    assert find_damage(batch(0, 2) + damaged + batch(5, 1), 0, 6) == Damage(
        first=2, next=5, error="its checksum is wrong"
    )
    assert find_damage(damaged, 0, 5) == Damage(first=2, next=5, error="its checksum is wrong")


def test_what_was_read_of_a_batch_before_is_not_lost_with_it() -> None:
    assert find_damage(with_byte(batch(2, 3), -1), 4, 5) == Damage(first=4, next=5, error="its checksum is wrong")


def test_a_batch_that_says_nonsense_of_its_end_is_passed_by_the_next_one_or_offset_by_offset() -> None:
    nonsense = bytearray(batch(2, 3))
    nonsense[23:27] = struct.pack(">i", 2**31 - 1)
    assert find_damage(bytes(nonsense) + batch(9, 1), 2, 10) == Damage(first=2, next=9, error="its checksum is wrong")
    assert find_damage(bytes(nonsense), 2, 10) == Damage(first=2, next=3, error="its checksum is wrong")
    # The first bytes of the next one are enough.
    assert find_damage(bytes(nonsense) + batch(9, 1)[:12], 2, 10) == Damage(
        first=2, next=9, error="its checksum is wrong"
    )


@pytest.mark.parametrize("case", ["cut short", "name of a header that is no text"])
def test_a_batch_whose_checksum_is_right_and_that_cannot_be_taken_apart_is_damaged(case: str) -> None:
    if case == "cut short":
        given = bytearray(batch(2, 3, compression=1))
        given[HEADER + 4 :] = bytes(len(given) - HEADER - 4)
    else:
        given = bytearray(batch(2, 3).replace(b"\x02h\x02", b"\x02\xff\x02"))
    # As a producer would write it that has a defect, or is not as strict.
    given[17:21] = struct.pack(">I", calc_crc32c(bytes(given[21:])))
    found = find_damage(bytes(given) + batch(5, 1), 0, 6)
    assert found is not None
    assert (found.first, found.next) == (2, 5)
    assert "cannot be taken apart" in found.error


def test_what_can_be_mended_here_is_no_damage_of_a_record() -> None:
    for of_a_record in (CorruptRecordException("Invalid CRC"), ValueError("no such header"), IndexError()):
        assert is_of_a_record(of_a_record)
    for of_this_machine in (KafkaConnectionError(), UnsupportedCodecError("zstd"), MemoryError()):
        assert not is_of_a_record(of_this_machine)
