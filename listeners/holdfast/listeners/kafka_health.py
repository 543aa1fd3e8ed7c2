"""What can be seen of a connection to Kafka from outside."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHealth:
    """A partition that is read.

    Attributes:
        partition: Its number.
        position: Offset of the message to be taken in next.
        end: Offset that the next message will get, when it was last asked for; None before that. With
            read_committed, that of the first message of an open transaction.
        stopped: Why it is not read; empty while it is.
    """

    partition: int
    position: int
    end: int | None = None
    stopped: str = ""

    @property
    def lag(self) -> int | None:
        """How many offsets are still to be taken in; None while that is not known."""
        return None if self.end is None else max(0, self.end - self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicHealth:
    """A topic that somebody waits for.

    Attributes:
        source: Its name as a source of events.
        state: "reading", "stopped" (some partition is not read), "missing" (there is no such topic) or "connecting".
        rate_per_s: Messages taken in, over the last minute.
        last_error: What went wrong last; empty when nothing did.
        partitions: Its partitions.
    """

    source: str
    state: str
    rate_per_s: float = 0.0
    last_error: str = ""
    partitions: tuple[PartitionHealth, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaHealth:
    """A connection.

    Attributes:
        connection: Its name.
        connected: Whether a consumer is at work.
        assignment_age_s: Since when the partitions that are read are these; None for none.
        consumers_made: How many consumers there have been: one more for each time that something was wrong.
        last_error: What was wrong last; empty when nothing was.
        last_error_unix_s: When that was.
        commit_error: Why positions could not be committed for dashboards the last time; empty when they were.
        topics: What is read.
    """

    connection: str
    connected: bool
    assignment_age_s: float | None = None
    consumers_made: int = 0
    last_error: str = ""
    last_error_unix_s: float | None = None
    commit_error: str = ""
    topics: tuple[TopicHealth, ...] = ()


class Rate:
    """Counts what happened in the last minute."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def count(self, number: int) -> None:
        """So many more."""
        now = time.monotonic()
        if self._seen and now - self._seen[-1][0] < 1.0:
            number += self._seen.pop()[1]
        self._seen.append((now, number))

    def per_second(self) -> float:
        """The rate over the last minute, or since this object was made."""
        now = time.monotonic()
        while self._seen and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        return sum(number for _, number in self._seen) / max(1.0, min(_WINDOW_S, now - self._since))
