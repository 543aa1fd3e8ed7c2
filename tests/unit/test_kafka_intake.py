"""What becomes of a record, decided without Kafka."""

from __future__ import annotations

import pytest
from aiokafka.structs import ConsumerRecord

from holdfast.actors.event_names import template_fields
from holdfast.engine.selectors import parse_selector, selectors_of
from holdfast.listeners.kafka import KafkaListener
from holdfast.listeners.kafka_intake import Batch, Position, add_record
from holdfast.listeners.kafka_message import message_of
from holdfast.storage.event_store import json_fields

SOURCE = "kafka/default/t"


def record(offset: int, timestamp_ms: int, value: bytes = b"1") -> ConsumerRecord:
    return ConsumerRecord("t", 0, offset, timestamp_ms, 0, b"k", value, None, 1, 1, ())


def taken_in(*values: bytes) -> Batch:
    batch = Batch(source=SOURCE)
    for offset, value in enumerate(values):
        add_record(batch, record(offset, 0, value), Position(topic_id="x", offset=0), max_bytes=None, now_unix_s=0.0)
    return batch


NEIGHBOURS = [2**64 - 1, 2**64, 2**64 + 1, 2**64 + 1000, -(2**63) - 1, -(2**63) - 2, 10**30, 10**30 + 1]


def test_neighbouring_integers_give_different_workflow_ids() -> None:
    batch = taken_in(*(b'{"order": %d, "in": {"id": [%d]}}' % (number, number) for number in NEIGHBOURS))
    assert batch.letters == []
    for template in ("order-{value[order]}", "order-{value[in][id][0]}"):
        ids = [template.format_map(template_fields(event)) for event in batch.events]
        assert ids == [f"order-{number}" for number in NEIGHBOURS]


def test_a_field_is_compared_with_an_integer_exactly() -> None:
    batch = taken_in(*(b'{"id": %d}' % number for number in NEIGHBOURS))
    for number in NEIGHBOURS:
        selector = parse_selector(KafkaListener.subscription("t", where={"id": number}).key)
        matched = [
            number
            for number, event in zip(NEIGHBOURS, batch.events, strict=True)
            if selector.matches(event.key, json_fields(event), undecodable=event.undecodable)
        ]
        assert matched == [number]
        found = [
            set(selectors_of(event.key, json_fields(event), undecodable=False, field_sets=[["id"]]))
            for event in batch.events
        ]
        assert [selector.text in texts for texts in found] == [one == number for one in NEIGHBOURS]


def test_a_message_holds_the_integer_that_was_sent() -> None:
    for event, number in zip(taken_in(*(b'{"id":%d}' % n for n in NEIGHBOURS)).events, NEIGHBOURS, strict=True):
        assert message_of(event.note, event.key, event.value).value == {"id": number}


@pytest.mark.parametrize(
    "value",
    [b"NaN", b'{"a": Infinity}', b"1e999", b'"\\ud800"', b'{"a": 1, "a": 2}', b"1" * 400, b"\xff", b"", b"[" * 5000],
    ids=repr,
)
def test_a_value_that_is_no_strict_json_is_a_dead_letter_that_says_why(value: bytes) -> None:
    batch = taken_in(value)
    assert [event.undecodable for event in batch.events] == [True]
    (letter,) = batch.letters
    assert letter.reason == "undecodable"
    assert "is not JSON: " in letter.error
    assert "raw values" in letter.error


def test_a_message_of_the_millisecond_in_which_it_was_asked_for_is_not_older_than_the_asking() -> None:
    asked_unix_s = 1000.0007
    batch = Batch(source=SOURCE)
    position = Position(topic_id="x", offset=0, before_use=2)
    for at in (record(0, 999_999), record(1, 1_000_000), record(2, 1_000_000)):
        add_record(batch, at, position, max_bytes=None, now_unix_s=0.0)
    older, same, after = batch.events
    assert older.before_use
    assert older.time_unix_s < asked_unix_s
    assert same.before_use
    assert same.time_unix_s >= asked_unix_s
    assert (after.before_use, after.time_unix_s) == (False, 1000.0)


def test_a_position_is_the_same_after_it_was_stored() -> None:
    for position in (
        Position(topic_id="x", offset=5),
        Position(topic_id="x", offset=5, before_use=9),
        Position(topic_id="x", offset=5, stopped="gone"),
    ):
        assert Position.parse(position.plain()) == position
    assert Position(topic_id="x", offset=9, before_use=9).plain() == {"topic_id": "x", "offset": 9}
