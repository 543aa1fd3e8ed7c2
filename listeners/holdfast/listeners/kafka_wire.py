"""The one request that aiokafka does not have: metadata with the ids of topics.

A topic that is deleted and made again has the same name, the same partitions
and the same offsets; only its id differs. Kafka tells it since 2.8 (metadata
version 10), and nothing else does. Layouts are those of Kafka's protocol; a
server that is older is asked in the last version that aiokafka has, and its
topics have no id.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_METADATA = 3
_NO_ID = uuid.UUID(int=0)


class _Uuid(AbstractType):  # type: ignore[misc] # aiokafka has no types
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


_BROKERS = CompactArray(
    ("node_id", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    ("tags", TaggedFields),
)
_PARTITIONS = CompactArray(
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    ("tags", TaggedFields),
)
_TOPICS = CompactArray(
    ("error_code", Int16),
    ("topic", CompactString("utf-8")),
    ("topic_id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", _PARTITIONS),
    ("authorized_operations", Int32),
    ("tags", TaggedFields),
)
_ASKED = CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))


class _Response_v10(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", _TOPICS),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Request_v10(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response_v10
    SCHEMA = Schema(
        ("topics", _ASKED),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Response_v12(Response):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", _TOPICS),
        ("tags", TaggedFields),
    )


class _Request_v12(RequestStruct):  # type: ignore[misc]
    API_KEY = _METADATA
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response_v12
    SCHEMA = Schema(
        ("topics", _ASKED),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicsRequest(Request[MetadataRequest_v5 | _Request_v10 | _Request_v12]):  # type: ignore[misc]
    """Asks for topics by name, and makes none.

    The answer has `topics`: tuples of (error code, name, id, is internal, partitions), as `topic_ids` reads them.
    """

    API_KEY = _METADATA

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def build(self, version: Any) -> Any:
        """The request in the version that both sides speak."""
        if version.API_VERSION < 10:
            return version(list(self._names), False)
        asked: list[tuple[uuid.UUID, str, dict[int, bytes]]] = [(_NO_ID, name, {}) for name in self._names]
        if version.API_VERSION == 10:
            return version(asked, False, False, False, {})
        return version(asked, False, False, {})


def topics_of(answer: Any) -> list[tuple[int, str, str, dict[int, int]]]:
    """(error code, name, id, leader of each partition) of each topic; an empty id where the server tells none."""
    found = []
    for topic in answer.topics:
        if answer.API_VERSION < 10:
            error, name, _, partitions = topic
            topic_id = ""
        else:
            error, name, uid, _, partitions, *_ = topic
            topic_id = "" if uid == _NO_ID else uid.hex
        found.append((error, name, topic_id, {partition[1]: partition[2] for partition in partitions}))
    return found
