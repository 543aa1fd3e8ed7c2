"""Why a Kafka cluster cannot be reached, in words that name the connection and what to do.

aiokafka says of any failure that it could not bootstrap, and writes the reason
to its log. Here the servers are asked again, one connection each, for that
reason. What is said holds nothing of a secret, only where it is read from; what
a server says of a refused password or token is not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import create_conn, get_ip_port_afi
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from holdfast.engine.errors import KafkaNotReachedError
from holdfast.listeners.kafka_settings import KafkaSettings

_NAMES_DIFFER = ("Hostname mismatch", "IP address mismatch")


async def why_not_reached(settings: KafkaSettings, arguments: Mapping[str, Any]) -> KafkaNotReachedError:
    """Ask each server of a connection why it cannot be used, all at once.

    Args:
        settings: The connection.
        arguments: What aiokafka's clients take to connect to it.

    Returns:
        What the first server says that refuses us; when none does, why the first cannot be reached.

    Raises:
        SecretMissingError: A secret is not where it should be.
    """
    servers = settings.bootstrap_servers.split(",")
    rest = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    found = await asyncio.gather(*(_failure(server, rest) for server in servers))
    failures = [(server, failure) for server, failure in zip(servers, found, strict=True) if failure is not None]
    if not failures:
        problem, fix = "its servers did not answer, and do now", "It is tried again."
        return KafkaNotReachedError(settings.name, settings.bootstrap_servers, problem, fix)
    # That one of several is away says less than that another one refuses us.
    server, failure = next((each for each in failures if not _is_away(each[1])), failures[0])
    return KafkaNotReachedError(settings.name, server, *_explained(settings, failure))


async def _failure(server: str, arguments: Mapping[str, Any]) -> BaseException | None:
    """What goes wrong with a server, from the connection to the first answer."""
    host, port, _ = get_ip_port_afi(server)
    try:
        connection = await create_conn(host, port, **arguments)
    except (OSError, KafkaError, asyncio.TimeoutError) as error:
        return error
    try:
        # One that wants us to log in closes the connection now.
        answer = await connection.send(MetadataRequest([]))
    except (OSError, KafkaError, asyncio.TimeoutError) as error:
        return error
    finally:
        # Told by a future of its own, which may fail as the connection has.
        with contextlib.suppress(OSError, KafkaError):
            await connection.close()
    return None if answer.brokers else KafkaError("it tells of no servers, itself included")


def _is_away(failure: BaseException) -> bool:
    return isinstance(failure, OSError | asyncio.TimeoutError) and not isinstance(failure, ssl.SSLError)


def _explained(settings: KafkaSettings, failure: BaseException) -> tuple[str, str]:
    """The problem, and what to do."""
    if isinstance(failure, SaslAuthenticationFailed):
        if settings.sasl_mechanism == "OAUTHBEARER":
            return "it refuses the token", _check_token(settings)
        return (
            f"it refuses the user {settings.sasl_plain_username!r} ({settings.sasl_mechanism})",
            f"Check sasl_plain_username, and the password in {_place(settings.sasl_plain_password)}.",
        )
    if isinstance(failure, UnsupportedSaslMechanismError):
        return f"it takes no {settings.sasl_mechanism}", "Give a sasl_mechanism that the server has enabled."
    if isinstance(failure, IllegalSaslStateError):
        return (
            "nobody logs in there with SASL",
            "Give the address of its listener for SASL, or another security_protocol.",
        )
    if isinstance(failure, ssl.SSLCertVerificationError):
        if failure.verify_message.startswith(_NAMES_DIFFER):
            fix = "Give the name that is in its certificate in bootstrap_servers, or set ssl_check_hostname to False."
        else:
            fix = "Give the certificate of its authority as ssl_cafile, on the node of the storage folder."
        return f"its certificate is not accepted: {failure.verify_message}", fix
    if isinstance(failure, ssl.SSLError):
        return f"TLS fails: {failure.reason or failure}", _check_tls(settings)
    if _is_away(failure):
        return f"it does not answer: {failure or 'not in time'}", "Check bootstrap_servers, and that Kafka runs there."
    if settings.sasl_mechanism == "OAUTHBEARER":
        # A server answers a bad token in a way that aiokafka takes for the answer to a good one; it shows later.
        return "it does not accept the token", _check_token(settings)
    if settings.security_protocol.endswith("SSL"):
        return f"it ends the connection: {failure}", _check_tls(settings)
    return f"it ends the connection: {failure}", "It may want TLS or a login: check security_protocol."


def _check_token(settings: KafkaSettings) -> str:
    return f"Check the token in {_place(settings.sasl_oauth_token)}: it may have run out."


def _check_tls(settings: KafkaSettings) -> str:
    own = "check ssl_certfile and ssl_keyfile" if settings.ssl_certfile else "give ssl_certfile and ssl_keyfile"
    return f"Check that the port is one for {settings.security_protocol}; if it wants a certificate of ours, {own}."


def _place(reference: Any) -> str:
    return str(reference) if reference is not None else "its settings"
