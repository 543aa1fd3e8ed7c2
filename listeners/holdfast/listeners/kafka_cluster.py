"""Questions to a Kafka cluster: which topics it has, how far their partitions reach.

On connections of its own, so that a consumer that hangs is noticed by what is
told here. Decides nothing, and reads messages only as bytes, for who looks for
damage in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaConnectionError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from holdfast.listeners.kafka_refusals import why_not_reached
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.listeners.kafka_wire import TopicsRequest, topics_of

LATEST = -1
EARLIEST = -2
_NO_OFFSET = -1
_NO_WAIT_MS = 0
_ANY_MEMBER = ""
_ANY_GENERATION = -1


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic that is there.

    Attributes:
        topic_id: Never given twice; empty where the servers are too old to tell.
        leaders: Which node has each partition; negative while none has.
    """

    topic_id: str
    leaders: Mapping[int, int]


class KafkaCluster:
    """One cluster. `open` before use, `close` after it, also when opening failed.

    Args:
        settings: Its connection.

    Raises:
        SecretMissingError: A secret is not where it should be.
        ValueError: A certificate or key cannot be used.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._arguments = settings.client_arguments()
        self._client = AIOKafkaClient(**self._arguments)
        # Whether messages of open transactions count as not there yet.
        self._isolation = int(settings.isolation_level == "read_committed")

    async def open(self) -> None:
        """Connect.

        Raises:
            KafkaNotReachedError: No server answers, or it refuses us; says which, and what to do.
        """
        try:
            await self._client.bootstrap()
        except KafkaConnectionError as error:
            raise await why_not_reached(self._settings, self._arguments) from error
        if not self._client.cluster.brokers():
            # So does one answer that has refused a token, which aiokafka does not notice.
            raise await why_not_reached(self._settings, self._arguments)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def topics(
        self, names: Iterable[str], *, node: int | None = None
    ) -> tuple[dict[str, TopicState], dict[str, str]]:
        """Those of these topics that are there, and what the server says of those that it does not show.

        Args:
            names: Of the topics.
            node: Ask this server, which knows at once what it has itself. Default: any.

        Raises:
            KafkaError: The server does not answer.
        """
        wanted = sorted(names)
        found: dict[str, TopicState] = {}
        problems: dict[str, str] = {}
        if not wanted:
            return found, problems
        for error, name, topic_id, leaders in topics_of(await self._ask(node, TopicsRequest(wanted))):
            if error == UnknownTopicOrPartitionError.errno:
                continue
            if error:
                problems[name] = repr(for_code(error)(name))
            else:
                found[name] = TopicState(topic_id, leaders)
        return found, problems

    async def offsets(self, topic: str, state: TopicState, at: Mapping[int, int]) -> dict[int, int | None]:
        """Offsets of partitions.

        Args:
            topic: The topic.
            state: As `topics` told it.
            at: For each partition `LATEST` (where the next message will be), `EARLIEST` (of the first there is), or
                a time in milliseconds since the epoch (of the first message not older).

        Returns:
            For each partition; None when no message is that young.

        Raises:
            KafkaError: A server does not answer, or does not have the partition.
        """
        by_node: dict[int, list[tuple[int, int]]] = {}
        for partition, when in at.items():
            by_node.setdefault(state.leaders[partition], []).append((partition, when))
        found: dict[int, int | None] = {}
        for node, asked in by_node.items():
            answer = await self._ask(node, OffsetRequest(-1, self._isolation, [(topic, asked)]))
            for _, partitions in answer.topics:
                for partition, error, _, offset, *_ in partitions:
                    if error:
                        raise for_code(error)(f"{topic}, partition {partition}")
                    found[partition] = None if offset == _NO_OFFSET else offset
        return found

    async def fetch(self, topic: str, state: TopicState, partition: int, offset: int, nbytes: int) -> tuple[bytes, int]:
        """What is stored of a partition from the batch on that has an offset, as it is.

        Args:
            topic: The topic.
            state: As `topics` told it.
            partition: The partition.
            offset: The offset.
            nbytes: How much at most; one batch in any case.

        Returns:
            The bytes, and where the partition ends.

        Raises:
            KafkaError: The server does not answer, or does not have it.
        """
        request = FetchRequest(_NO_WAIT_MS, 1, nbytes, self._isolation, [(topic, [(partition, offset, nbytes)])])
        answer = await self._ask(state.leaders[partition], request)
        for _, partitions in answer.topics:
            for number, error, end, *_, records in partitions:
                if error:
                    raise for_code(error)(f"{topic}, partition {number}")
                return bytes(records or b""), end
        return b"", offset

    async def commit(self, group: str, offsets: Mapping[str, Mapping[int, int]]) -> None:
        """Note positions under a consumer group of which we are no member: for whoever watches lag.

        Raises:
            KafkaError: They were not noted, for example because the group has members.
        """
        node = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
        topics = [(topic, [(p, offset, "") for p, offset in at.items()]) for topic, at in offsets.items()]
        request = OffsetCommitRequest(group, _ANY_GENERATION, _ANY_MEMBER, -1, topics)
        answer = await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        for topic, partitions in answer.topics:
            for partition, error in partitions:
                if error:
                    raise for_code(error)(f"{topic}, partition {partition}")

    async def _ask(self, node: int | None, request: Any) -> Any:
        asked = self._client.get_random_node() if node is None else node
        if asked is None or asked < 0:
            raise KafkaConnectionError("no server of the cluster has this at present")
        return await self._client.send(asked, request)
