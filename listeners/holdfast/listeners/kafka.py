"""Messages of Kafka topics as events.

A workflow that waits for one is a row in the store. One process for each
connection reads all topics that somebody waits for (`kafka_source`); nothing
here connects to anything.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.engine.redaction import redact, written
from holdfast.engine.selectors import Scalar, Selector, check_found
from holdfast.listeners.interface import EventListener, Stream
from holdfast.listeners.kafka_message import KafkaMessage

__all__ = ["KafkaListener", "KafkaMessage", "source_name", "split_source"]

KIND = "kafka"

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_CLUSTER = re.compile(r"[A-Za-z0-9._-]{1,100}")


class KafkaListener(EventListener):
    """Waits for the next message of a Kafka topic: `workflow.wait_for_event(KafkaListener, topic="payments", key=k)`.

    The event is a `KafkaMessage`. A workflow reads each message once, in the order of its partition, from the moment
    of its submission; a message that comes before its waiter is kept for it.
    """

    @staticmethod
    def subscription(
        topic: str,
        *,
        key: str | bytes | None = None,
        where: Mapping[str, Scalar] | None = None,
        cluster: str = "default",
        raw: bool = False,
        deserializer: Callable[[bytes | None], Any] | None = None,
    ) -> Stream:
        """What to wait for.

        Args:
            topic: Name of the topic.
            key: Messages with this key; a string stands for its UTF-8. Not together with `where`.
            where: Messages whose value is a JSON object with these fields, each equal to a string, number, boolean
                or None. Neither `key` nor `where`: any message.
            cluster: Name of the connection, as given to `workflow.init(kafka={name: ...})`.
            raw: Give the value as bytes, also of messages that are not JSON.
            deserializer: Called with the bytes of the value (None for none), in a task of the workflow; what it
                returns is the event. It is given all messages, as with `raw`.

        Raises:
            TypeError: An argument of a wrong type.
            ValueError: A name that Kafka does not know, or arguments that contradict each other; says which.
        """
        if deserializer is not None and not callable(deserializer):
            raise TypeError(f"deserializer must be a function of the value's bytes, not {deserializer!r}")
        if not isinstance(raw, bool):
            raise TypeError(f"raw must be True or False, not {raw!r}")
        if where is not None and (raw or deserializer is not None):
            raise ValueError(
                "where= looks at values decoded from JSON: it cannot be used with raw= or deserializer=. "
                "Select by key=, or take every message."
            )
        selector = Selector(key=_key(key), where=_where(where), raw=raw or deserializer is not None)
        check_found(selector.where or {})
        return Stream(source_name(cluster, topic), selector.text)

    @staticmethod
    def conversion(
        topic: Any = None,  # noqa: ARG004 - the arguments are those of `subscription`
        *,
        raw: bool = False,
        deserializer: Callable[[bytes | None], Any] | None = None,
        **_: Any,
    ) -> Callable[[KafkaMessage], Any] | None:
        """What is made of the message: `subscription` says of what."""
        if callable(deserializer):
            return functools.partial(_deserialized, deserializer)
        return KafkaMessage.as_raw if raw is True else None

    async def poll_for_event(
        self,
        topic: str,
        *,
        key: str | bytes | None = None,
        where: Mapping[str, Scalar] | None = None,
        cluster: str = "default",
        raw: bool = False,
        deserializer: Callable[[bytes | None], Any] | None = None,
    ) -> KafkaMessage:
        """Never called in a workflow: the message is a row of the store, and `subscription` says which."""
        raise NotImplementedError("a Kafka message is delivered by the store, not polled for")


def _deserialized(deserializer: Callable[[bytes | None], Any], message: KafkaMessage) -> Any:
    return deserializer(message.raw_value)


def source_name(cluster: str, topic: str) -> str:
    """The name of a topic as a source of events.

    Raises:
        TypeError: Not strings.
        ValueError: Names that cannot be.
    """
    for what, name, legal, longest in (("topic", topic, _TOPIC, 249), ("cluster", cluster, _CLUSTER, 100)):
        if not isinstance(name, str):
            raise TypeError(f"the {what} of a KafkaListener must be a string, not {redact(name)!r}")
        if not legal.fullmatch(name) or name in (".", ".."):
            raise ValueError(
                f"{redact(name)!r:.300} cannot be the name of a {what}: "
                f"1 to {longest} letters, digits, dots, dashes and underscores"
            )
    return f"{KIND}/{cluster}/{topic}"


def split_source(name: str) -> tuple[str, str]:
    """(cluster, topic) of a source's name."""
    _, cluster, topic = name.split("/", 2)
    return cluster, topic


def _key(key: Any) -> bytes | None:
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the key {key!r:.200} of a KafkaListener is not valid text: give its bytes") from None
    raise TypeError(f"the key of a KafkaListener must be a string or bytes, as in the topic, not {written(key)}")


def _where(where: Any) -> Mapping[str, Scalar] | None:
    if where is not None and not isinstance(where, Mapping):
        raise TypeError(f'where must be a dict of fields and their values, as {{"order": 7}}, not {written(where)}')
    return where
