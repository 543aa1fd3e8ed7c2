"""What can be said about a connection to Kafka, and that a secret never can."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest

from holdfast.engine.errors import SecretMissingError
from holdfast.listeners.kafka_settings import (
    KafkaSettings,
    connection_of_environment,
    load_connections,
    parse_connections,
    store_connections,
)
from holdfast.listeners.secrets import SecretReference, parse_secret
from holdfast.storage.memory import MemoryStore

SERVERS = {"bootstrap_servers": "a:9092"}
PASSWORD = {"sasl_plain_username": "u", "sasl_plain_password": {"env": "P"}}


def test_servers_are_enough() -> None:
    settings = KafkaSettings.parse("default", {"bootstrap_servers": ["a:9092", "b:9093"]})
    assert settings.bootstrap_servers == "a:9092,b:9093"
    assert settings.isolation_level == "read_committed"
    assert settings.on_offset_out_of_range == "fail"
    assert settings.group_id == "holdfast-default"
    assert settings.client_arguments()["bootstrap_servers"] == ["a:9092", "b:9093"]


@pytest.mark.parametrize(
    "given",
    [
        SERVERS,
        {**SERVERS, "group_id": None, "retention_s": None, "max_message_bytes": 5},
        {**SERVERS, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", **PASSWORD},
        {
            **SERVERS,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token": {"file": "/t"},
        },
    ],
)
def test_settings_are_the_same_after_they_were_stored(given: dict[str, Any]) -> None:
    settings = KafkaSettings.parse("c", given)
    assert KafkaSettings.parse("c", orjson.loads(orjson.dumps(settings.plain()))) == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, 'needs "bootstrap_servers"'),
        ({"bootstrap_servers": "a"}, 'not "host:port"'),
        ({"bootstrap_servers": "u:p@a:9092"}, 'not "host:port"'),
        ({"bootstrap_servers": 7}, "text like"),
        ({**SERVERS, "bootstrap_server": "a:1"}, "no setting 'bootstrap_server'. There are: bootstrap_servers"),
        ({**SERVERS, "security_protocol": "TLS"}, "one of PLAINTEXT, SSL"),
        ({**SERVERS, "sasl_mechanism": "PLAIN"}, "SASL_SSL"),
        ({**SERVERS, "ssl_cafile": "/ca"}, "SASL_SSL"),
        ({**SERVERS, "security_protocol": "SSL", "ssl_keyfile": "/k"}, "give both"),
        ({**SERVERS, "security_protocol": "SASL_SSL"}, "needs a sasl_mechanism"),
        ({**SERVERS, "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "sasl_plain_username and"),
        ({**SERVERS, "security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "sasl_oauth_token"),
        ({**SERVERS, "sasl_mechanism": "GSSAPI"}, "one of PLAIN, SCRAM"),
        ({**SERVERS, "isolation_level": "serializable"}, "read_committed"),
        ({**SERVERS, "on_offset_out_of_range": "reset"}, "fail, earliest, latest"),
        ({**SERVERS, "max_message_bytes": 0}, "above 0"),
        ({**SERVERS, "retention_s": -1}, "above 0"),
        ({**SERVERS, "stall_s": float("nan")}, "above 0"),
        ({**SERVERS, "ssl_check_hostname": "no"}, "True or False"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        parse_connections({"east": given})


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("a:9092", TypeError, "dict of connections"),
        ({"east": "a:9092"}, TypeError, "'east' must be a dict"),
        ({7: SERVERS}, TypeError, "must be a string"),
        ({"a/b": SERVERS}, ValueError, "name of a cluster"),
    ],
)
def test_connections_are_dicts_by_name(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        parse_connections(given)


@pytest.mark.parametrize("setting", ["sasl_plain_password", "ssl_password", "sasl_oauth_token"])
@pytest.mark.parametrize("written", ["hunter2", ["hunter2"], {"value": "hunter2"}, {"env": "A", "file": "hunter2"}])
def test_a_secret_that_is_written_out_is_refused_and_not_repeated(setting: str, written: Any) -> None:
    with pytest.raises(ValueError, match=r"\{\"env\": \"NAME_OF_A_VARIABLE\"\}") as caught:
        KafkaSettings.parse("east", {**SERVERS, setting: written})
    assert "hunter2" not in str(caught.value)
    assert setting in str(caught.value)


def test_a_secret_is_read_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", "hunter2")
    (tmp_path / "secret").write_text("hunter3\n")
    assert parse_secret("x", {"env": "P"}).read() == "hunter2"
    assert parse_secret("x", {"file": str(tmp_path / "secret")}).read() == "hunter3"


def test_a_secret_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P", raising=False)
    with pytest.raises(SecretMissingError, match="environment variable P"):
        SecretReference(env="P").read()
    with pytest.raises(SecretMissingError, match=r"missing\.txt"):
        SecretReference(file=str(tmp_path / "missing.txt")).read()
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SecretMissingError, match="empty"):
        SecretReference(file=str(tmp_path / "empty")).read()


def test_what_is_stored_and_shown_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", "hunter2")
    settings = KafkaSettings.parse(
        "c", {**SERVERS, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **PASSWORD}
    )
    assert settings.client_arguments()["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.plain())


def test_a_token_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    token = tmp_path / "token"
    settings = KafkaSettings.parse(
        "c",
        {
            **SERVERS,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token": {"file": str(token)},
        },
    )
    arguments = settings.client_arguments()
    for expected in ("one", "two"):
        token.write_text(expected)
        assert asyncio.run(arguments["sasl_oauth_token_provider"].token()) == expected
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    settings = KafkaSettings.parse("east", {**SERVERS, "security_protocol": "SSL", "ssl_cafile": str(tmp_path / "no")})
    with pytest.raises(ValueError, match=r"'east'.*ssl_cafile"):
        settings.client_arguments()


def test_the_environment_gives_the_default_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    assert connection_of_environment() is None
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2")
    found = connection_of_environment()
    assert found is not None
    assert (found.name, found.bootstrap_servers) == ("default", "a:1,b:2")
    monkeypatch.setenv("HOLDFAST_KAFKA_BOOTSTRAP_SERVERS", "c:3")
    assert connection_of_environment() == KafkaSettings.parse("default", {"bootstrap_servers": "c:3"})


def stored_by(*steps: tuple[str | None, str | None]) -> list[tuple[list[str], str | None]]:
    """What is said of `default` in turn, by a user and by an environment; what changed, and what holds then."""
    kv, seen = MemoryStore(), []
    for user, environment in steps:
        given = {} if user is None else parse_connections({"default": {"bootstrap_servers": user}})
        default = None if environment is None else KafkaSettings.parse("default", {"bootstrap_servers": environment})
        with kv.write() as txn:
            changed = store_connections(txn, given, default)
        with kv.read() as txn:
            found = load_connections(txn).get("default")
        seen.append((changed, None if found is None else found.bootstrap_servers))
    return seen


def test_what_a_user_says_counts_more_than_what_an_environment_says() -> None:
    assert stored_by(("a:1", "b:1"), (None, "b:1"), ("c:1", None), ("c:1", "b:1")) == [
        (["default"], "a:1"),
        ([], "a:1"),
        (["default"], "c:1"),
        ([], "c:1"),
    ]


def test_another_environment_takes_the_place_of_the_one_before() -> None:
    assert stored_by((None, None), (None, "a:1"), (None, "b:1"), (None, None)) == [
        ([], None),
        (["default"], "a:1"),
        (["default"], "b:1"),
        ([], "b:1"),
    ]
