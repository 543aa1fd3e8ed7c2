"""A password that was written where it does not belong is repeated nowhere."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from holdfast.engine.redaction import redact
from holdfast.listeners import kafka_settings
from holdfast.listeners.kafka import KafkaListener
from holdfast.listeners.kafka_settings import connection_of_environment, parse_connections
from holdfast.storage.location import parse_location

URLS = [
    "user:hunter2@kafka:9092",
    "SASL_SSL://user:hunter2@kafka:9092",
    "kafka://user:hunter2%40x@kafka:9092/topic?x=1",
    "a:9092,user:hunter2@b:9092",
    "user:hunter2,more@kafka:9092",
    "user:hunter2@more@kafka:9092",
    "user:hunter2/more@kafka:9092",
    "kafka:9092?sasl.password=hunter2",
    "kafka:9092;Password=hunter2;x=1",
]


def said_of(call: Any) -> str:
    """The error of a call as a log shows it, causes included; empty when there is none."""
    try:
        call()
    except (TypeError, ValueError) as error:
        return "".join(traceback.format_exception_only(type(error), error)) + repr(error.__cause__)
    return ""


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("setting", sorted(kafka_settings._CHECKS))
def test_no_setting_of_a_connection_repeats_a_password(setting: str, url: str) -> None:
    for value in (url, [url], {"url": url}, (url, 7), {url}):
        given = {"bootstrap_servers": "a:9092", setting: value}
        assert "hunter2" not in said_of(lambda given=given: parse_connections({"default": given}))
    if setting == "bootstrap_servers":
        assert "kafka" in url or "b:9092" in url
        assert "not" in said_of(lambda: parse_connections({"default": {setting: url}}))


@pytest.mark.parametrize("url", URLS)
def test_no_other_place_for_an_address_repeats_a_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places = (
        lambda: parse_connections({url: {"bootstrap_servers": "a:9092"}}),
        lambda: parse_connections({"default": {"bootstrap_servers": "a:9092", url: 1}}),
        lambda: KafkaListener.subscription(topic=url),
        lambda: KafkaListener.subscription(topic="t", cluster=url),
        lambda: KafkaListener.subscription(topic=[url]),
        lambda: parse_location(f"kafka://{url}"),
        lambda: parse_location(f"file://{url}"),
        connection_of_environment,
    )
    for variable in kafka_settings.ENVIRONMENT_VARIABLES:
        monkeypatch.setenv(variable, url)
    for place in places:
        said = said_of(place)
        assert said
        assert "hunter2" not in said


def test_what_is_no_secret_stays_and_the_server_does() -> None:
    assert redact("SASL_SSL://u:p@kafka:9092") == "SASL_SSL://***@kafka:9092"
    assert redact("kafka:9092") == "kafka:9092"
    assert redact(["a:1", 7]) == "['a:1', 7]"
