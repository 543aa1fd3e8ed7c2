"""How to reach a Kafka cluster, and what to do about its messages: checked where a user says it.

Settings hold references to secrets, never secrets: they are stored with the
platform and shown. What a reference stands for is read by `client_arguments`,
in the process that connects.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from aiokafka.abc import AbstractTokenProvider

from holdfast.engine.given_numbers import check_number, check_whole
from holdfast.engine.redaction import redact
from holdfast.listeners.kafka import source_name
from holdfast.listeners.secrets import SecretReference, parse_secret
from holdfast.storage.event_store import DEFAULT_RETENTION_BYTES, DEFAULT_RETENTION_S
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.workflow_store import load_setting, save_setting

ENVIRONMENT_VARIABLES = ("HOLDFAST_KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS")
"""Where the servers of the connection `default` are looked for when it is not given; the first that is set counts."""

DEFAULT = "default"
_SETTING = "kafka"

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_POLICIES = ("fail", "earliest", "latest")
_ISOLATION = ("read_committed", "read_uncommitted")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """A connection to a Kafka cluster.

    Attributes:
        name: As `KafkaListener`'s `cluster` names it.
        bootstrap_servers: `host:port`, several with commas between them.
        security_protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        sasl_mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
        sasl_plain_username: The user, for PLAIN and SCRAM.
        sasl_plain_password: Its password, by reference.
        sasl_oauth_token: The token of OAUTHBEARER, by reference, read anew for each connection: whoever renews it
            replaces the file.
        ssl_cafile: Certificates to trust. Default: those of the system.
        ssl_certfile, ssl_keyfile: Our own certificate and its key.
        ssl_password: The password of the key, by reference.
        ssl_check_hostname: Whether the server's certificate must bear its name.
        client_id: What the servers call us in their logs.
        group_id: The consumer group under which positions are committed, for dashboards that show lag: they decide
            nothing here. None for no commits. Default: `holdfast-<name>`.
        isolation_level: read_committed (messages of aborted transactions are not seen) or read_uncommitted.
        on_offset_out_of_range: What to do when messages that were not read yet are gone: "fail" (stop reading that
            partition), or go on with what is there, "earliest" or "latest". All leave a dead letter that says so.
        max_message_bytes: Key and value of a message together; a larger one becomes a dead letter.
        retention_s, retention_bytes: How long, and how much of, the events of each topic are kept; None for no limit.
        request_timeout_s: Seconds that a server has to answer a request.
        stall_s: Seconds without any progress, with messages there to be read, after which a consumer is made anew.
    """

    name: str
    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretReference | None = None
    sasl_oauth_token: SecretReference | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: SecretReference | None = None
    ssl_check_hostname: bool = True
    client_id: str = "holdfast"
    group_id: str | None = None
    isolation_level: str = "read_committed"
    on_offset_out_of_range: str = "fail"
    max_message_bytes: int = 1 << 20
    retention_s: float | None = DEFAULT_RETENTION_S
    retention_bytes: int | None = DEFAULT_RETENTION_BYTES
    request_timeout_s: float = 30.0
    stall_s: float = 30.0

    @classmethod
    def parse(cls, name: str, given: Any) -> KafkaSettings:
        """The settings of a connection as a user gave them.

        Args:
            name: The connection's.
            given: A dict with attributes of this class; `bootstrap_servers` may be a list.

        Raises:
            ValueError: Something is missing, unknown, contradictory or out of range; names it, and the fix.
            TypeError: Not a dict, or a name that is not a string.
        """
        source_name(name, "any")
        if not isinstance(given, Mapping):
            raise TypeError(
                f'the Kafka connection {name!r} must be a dict, as {{"bootstrap_servers": "host:9092"}}, '
                f"not {type(given).__name__}"
            )
        known = _CHECKS.keys()
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(
                f"the Kafka connection {name!r} has no setting {redact(unknown[0])!r}. "
                f"There are: {', '.join(sorted(known))}."
            )
        checked: dict[str, Any] = {"group_id": f"holdfast-{name}"}
        for key, value in given.items():
            checked[key] = _CHECKS[key](f"kafka[{name!r}][{key!r}]", value)
        if not checked.get("bootstrap_servers"):
            raise ValueError(f'the Kafka connection {name!r} needs "bootstrap_servers", as "host1:9092,host2:9092"')
        settings = cls(name=name, **checked)
        settings._check_security()
        return settings

    def plain(self) -> dict[str, Any]:
        """As JSON that `parse` takes; without anything secret."""
        plain = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name != "name" and (value != each.default or each.name == "group_id"):
                plain[each.name] = value.plain() if isinstance(value, SecretReference) else value
        return plain

    def client_arguments(self) -> dict[str, Any]:
        """What aiokafka's clients take to connect, secrets included.

        Raises:
            SecretMissingError: A secret is not where it should be.
            ValueError: A certificate or key cannot be used.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
        }
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            if self.sasl_oauth_token is not None:
                arguments["sasl_oauth_token_provider"] = _Token(self.sasl_oauth_token)
            if self.sasl_plain_password is not None:
                arguments["sasl_plain_username"] = self.sasl_plain_username
                arguments["sasl_plain_password"] = self.sasl_plain_password.read()
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        password = None if self.ssl_password is None else self.ssl_password.read()
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
            context.check_hostname = self.ssl_check_hostname
            if self.ssl_certfile is not None:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"the certificates of the Kafka connection {self.name!r} cannot be used: {error}. "
                "Check ssl_cafile, ssl_certfile, ssl_keyfile and ssl_password, on the node of the storage folder."
            ) from error
        return context

    def _check_security(self) -> None:
        where = f"the Kafka connection {self.name!r}"
        sasl, tls = self.security_protocol.startswith("SASL"), self.security_protocol.endswith("SSL")
        with_password = (self.sasl_plain_username, self.sasl_plain_password)
        if not sasl and (self.sasl_mechanism or self.sasl_oauth_token or any(with_password)):
            raise ValueError(
                f"{where} has SASL settings and security_protocol={self.security_protocol!r}: "
                'make that "SASL_SSL", or leave them out'
            )
        if not tls and (self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile or self.ssl_password):
            raise ValueError(
                f"{where} has TLS settings and security_protocol={self.security_protocol!r}: "
                'make that "SSL" or "SASL_SSL", or leave them out'
            )
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError(f"{where} has an ssl_keyfile and no ssl_certfile: give both")
        if not sasl:
            return
        if self.sasl_mechanism is None:
            raise ValueError(f"{where} needs a sasl_mechanism: {', '.join(_MECHANISMS)}")
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_oauth_token is None:
                raise ValueError(f'{where} needs a sasl_oauth_token, as {{"file": "/path/to/token"}}')
        elif not all(with_password):
            raise ValueError(f"{where} needs sasl_plain_username and sasl_plain_password for {self.sasl_mechanism}")


class _Token(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
    def __init__(self, reference: SecretReference) -> None:
        self._reference = reference

    async def token(self) -> str:
        return self._reference.read()


def parse_connections(given: Any) -> dict[str, KafkaSettings]:
    """The connections that a user gave to `workflow.init(kafka=...)`, by name.

    Raises:
        TypeError: Not a dict of dicts.
        ValueError: A connection is not what it should be; names it, and the fix.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            'kafka must be a dict of connections, as {"default": {"bootstrap_servers": "host:9092"}}, '
            f"not {type(given).__name__}"
        )
    return {name: KafkaSettings.parse(name, settings) for name, settings in given.items()}


def connection_of_environment() -> KafkaSettings | None:
    """The connection `default` as the environment of this process gives it."""
    for variable in ENVIRONMENT_VARIABLES:
        servers = os.environ.get(variable, "").strip()
        if servers:
            return KafkaSettings.parse(DEFAULT, {"bootstrap_servers": servers})
    return None


def load_connections(txn: ReadTransaction) -> dict[str, KafkaSettings]:
    """The connections that were stored, by name."""
    stored = load_setting(txn, _SETTING) or {}
    return {name: KafkaSettings.parse(name, entry["settings"]) for name, entry in stored.items()}


def store_connections(
    txn: WriteTransaction, given: Mapping[str, KafkaSettings], default: KafkaSettings | None
) -> list[str]:
    """Store connections; others stay.

    Args:
        txn: The transaction.
        given: Said by a user: takes the place of what was said before.
        default: Said by an environment: takes the place of what another environment said, and of nothing else.

    Returns:
        The names of those that are not what they were.
    """
    stored = load_setting(txn, _SETTING) or {}
    entries = {name: {"said_by": "user", "settings": settings.plain()} for name, settings in given.items()}
    if default is not None and default.name not in entries:
        known = stored.get(default.name)
        if known is None or known["said_by"] == "environment":
            entries[default.name] = {"said_by": "environment", "settings": default.plain()}
    changed = [name for name, entry in entries.items() if stored.get(name, {}).get("settings") != entry["settings"]]
    if entries:
        save_setting(txn, _SETTING, {**stored, **entries})
    return changed


_Check: TypeAlias = Callable[[str, Any], Any]


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be a text that is not empty, not {redact(value)!r}")
    return value


def _servers(what: str, value: Any) -> str:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(server, str) for server in listed):
        raise ValueError(f'{what} must be a text like "host1:9092,host2:9092", or a list, not {redact(value)!r}')
    if any("@" in server for server in listed):
        # The whole of it: a password may hold a comma, too.
        raise ValueError(
            f'{what} holds {redact(",".join(listed))!r}, which is not "host:port": the user and the password are '
            "sasl_plain_username and sasl_plain_password"
        )
    servers = [server.strip() for server in listed]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdecimal() or "/" in server or int(port) > 65_535:
            raise ValueError(f'{what} holds {redact(server)!r}, which is not "host:port"')
    return ",".join(servers)


def _optional(check: _Check) -> _Check:
    return lambda what, value: None if value is None else check(what, value)


def _one_of(*allowed: str) -> _Check:
    def check(what: str, value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{what} must be one of {', '.join(allowed)}, not {redact(value)!r}")
        return str(value)

    return check


def _truth(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be True or False, not {redact(value)!r}")
    return value


def _seconds(what: str, value: Any) -> float:
    return check_number(what, value, above=True)


def _age(what: str, value: Any) -> float:
    return check_number(what, value, above=True, infinite="None for no limit")


def _bytes(what: str, value: Any) -> int:
    return check_whole(what, value, least=1, unit="bytes")


_CHECKS: dict[str, _Check] = {
    "bootstrap_servers": _servers,
    "security_protocol": _one_of(*_PROTOCOLS),
    "sasl_mechanism": _optional(_one_of(*_MECHANISMS)),
    "sasl_plain_username": _optional(_text),
    "sasl_plain_password": _optional(parse_secret),
    "sasl_oauth_token": _optional(parse_secret),
    "ssl_cafile": _optional(_text),
    "ssl_certfile": _optional(_text),
    "ssl_keyfile": _optional(_text),
    "ssl_password": _optional(parse_secret),
    "ssl_check_hostname": _truth,
    "client_id": _text,
    "group_id": _optional(_text),
    "isolation_level": _one_of(*_ISOLATION),
    "on_offset_out_of_range": _one_of(*_POLICIES),
    "max_message_bytes": _bytes,
    "retention_s": _optional(_age),
    "retention_bytes": _optional(_bytes),
    "request_timeout_s": _seconds,
    "stall_s": _seconds,
}
