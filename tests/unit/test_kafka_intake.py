"""What becomes of a record, decided without Kafka."""

from __future__ import annotations

from aiokafka.structs import ConsumerRecord

from holdfast.listeners.kafka_intake import Batch, Position, add_record

SOURCE = "kafka/default/t"


def record(offset: int, timestamp_ms: int) -> ConsumerRecord:
    return ConsumerRecord("t", 0, offset, timestamp_ms, 0, b"k", b"1", None, 1, 1, ())


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
