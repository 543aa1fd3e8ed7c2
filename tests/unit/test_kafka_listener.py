"""What a workflow can ask of Kafka, and what it gets."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from holdfast.engine.selectors import Selector, parse_selector
from holdfast.listeners import KafkaListener, KafkaMessage
from holdfast.listeners.forms import payload_of
from holdfast.listeners.kafka_message import is_json, note_of


def selector(**arguments: Any) -> Selector:
    return parse_selector(KafkaListener.subscription("orders", **arguments).key)


def test_the_source_of_a_stream_is_its_cluster_and_topic() -> None:
    assert KafkaListener.subscription("orders").source == "kafka/default/orders"
    assert KafkaListener.subscription("a.b-c_d", cluster="east").source == "kafka/east/a.b-c_d"


def test_messages_are_selected_by_key_by_fields_or_not_at_all() -> None:
    assert selector() == Selector()
    assert selector(key="grün") == Selector(key="grün".encode())
    assert selector(key=b"\xff") == Selector(key=b"\xff")
    assert selector(where={"order": 7}) == Selector(where={"order": 7})
    assert selector(key="k", raw=True) == Selector(key=b"k", raw=True)


def test_a_deserializer_gets_what_is_not_json_too() -> None:
    assert selector(deserializer=bytes.decode).raw


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"topic": ""}, ValueError, "name of a topic"),
        ({"topic": "a/b"}, ValueError, "name of a topic"),
        ({"topic": ".."}, ValueError, "name of a topic"),
        ({"topic": "a" * 250}, ValueError, "1 to 249"),
        ({"topic": 7}, TypeError, "must be a string"),
        ({"topic": "t", "cluster": "a/b"}, ValueError, "name of a cluster"),
        ({"topic": "t", "key": 7}, TypeError, "string or bytes"),
        ({"topic": "t", "key": "k", "where": {"a": 1}}, ValueError, "not by both"),
        ({"topic": "t", "where": {}}, ValueError, "names no field"),
        ({"topic": "t", "where": {"a": [1]}}, ValueError, "a="),
        ({"topic": "t", "where": {1: 1}}, ValueError, "field names"),
        ({"topic": "t", "where": [("a", 1)]}, TypeError, "dict of fields"),
        ({"topic": "t", "where": {"a": 1}, "raw": True}, ValueError, "cannot be used with raw="),
        ({"topic": "t", "where": {"a": 1}, "deserializer": len}, ValueError, "deserializer="),
        ({"topic": "t", "raw": 1}, TypeError, "True or False"),
        ({"topic": "t", "deserializer": "json"}, TypeError, "function"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        KafkaListener.subscription(**arguments)


def kept(key: bytes | None, value: bytes | None, **note: Any) -> KafkaMessage:
    said = {"topic": "t", "topic_id": "x", "partition": 3, "offset": 5, "timestamp_ms": 1500, "headers": (), **note}
    message = pickle.loads(payload_of(note_of(**said), key, value))
    assert isinstance(message, KafkaMessage)
    return message


def test_a_message_comes_as_it_was_written() -> None:
    message = kept(b"k", b'{"a": [1]}', headers=[("h", b"\xff\x00"), ("h", None)])
    assert message == KafkaMessage(
        topic="t",
        partition=3,
        offset=5,
        key="k",
        raw_value=b'{"a": [1]}',
        headers=(("h", b"\xff\x00"), ("h", None)),
        timestamp=1.5,
    )
    assert message.value == {"a": [1]}


def test_a_key_that_is_no_text_stays_bytes() -> None:
    assert kept(b"\xff", b"1").key == b"\xff"
    assert kept(None, b"1").key is None


def test_a_message_without_a_value_has_none() -> None:
    assert kept(b"k", None).value is None
    assert is_json(None)


def test_raw_values_are_bytes() -> None:
    assert kept(b"k", b"{").as_raw().value == b"{"
    assert not is_json(b"{")
    assert not is_json(b"")


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        kept(b"k", b"1").offset = 6  # type: ignore[misc]
