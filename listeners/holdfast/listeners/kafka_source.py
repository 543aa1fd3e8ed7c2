"""Reads the topics of a Kafka connection into the store, and keeps at it.

Makes a session, and another one when something was wrong with it: whatever that
was, what is read next stands in the store. No Ray here, and nothing of the
user's is run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer

from holdfast.engine.errors import DeadLetterNotFoundError, HoldfastError
from holdfast.listeners.kafka_health import KafkaHealth, Rate
from holdfast.listeners.kafka_intake import Addressing, NoActors, TakenIn
from holdfast.listeners.kafka_replay import replay
from holdfast.listeners.kafka_session import ConsumerStalledError, KafkaSession
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.storage.dead_letters import get_dead_letter
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_HEARTBEAT_S = 1.0
_STOPPING_S = 15.0


class KafkaSource:
    """One connection. `run` it in a task; `stop` it from another.

    Args:
        settings: The connection.
        kv: The store, which stays open until `stop` has returned.
        told: Called on the event loop after each batch that was stored, with whom to tell of it.
        may_read: Asked before each batch whether those who take the events keep up; while they do not, nothing is
            read.
        make_consumer: For tests of what a consumer does wrong.
        addressing: Asked, before each batch is stored, which virtual actors its messages are for; None for none.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        kv: KeyValueStore,
        told: Callable[[TakenIn], None],
        may_read: Callable[[], bool] = lambda: True,
        make_consumer: Callable[..., Any] = AIOKafkaConsumer,
        addressing: Addressing | None = None,
    ) -> None:
        self._make_consumer, self._addressing = make_consumer, addressing or NoActors()
        self._settings, self._kv, self._told, self._may_read = settings, kv, told, may_read
        self._stopping, self._changed = asyncio.Event(), asyncio.Event()
        self._rates: dict[str, Rate] = {}
        self._session: KafkaSession | None = None
        self._made = 0
        self._error = ""
        self._error_unix_s: float | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Read until `stop` is called. What goes wrong is logged, shown by `health`, and tried again."""
        self._ended.clear()
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                await self._one_session()
                # One that worked for a while is no sign that the next will not.
                pause_s = _FIRST_PAUSE_S if time.monotonic() - began > _LONGEST_PAUSE_S else pause_s * 2
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), min(pause_s, _LONGEST_PAUSE_S))
        finally:
            self._ended.set()

    async def stop(self) -> bool:
        """Have `run` end: after the batch at hand, and in any case within seconds.

        Returns:
            Whether it has ended; False when a write still waits for the store.
        """
        self._stopping.set()
        try:
            await asyncio.wait_for(self._ended.wait(), _STOPPING_S)
        except asyncio.TimeoutError:
            return False
        return True

    def look_again(self) -> None:
        """Somebody may wait for another topic."""
        self._changed.set()

    async def replay(self, number: int, value: bytes | None) -> TakenIn:
        """Try to take a dead letter in again; then it is none any more.

        Args:
            number: Its number.
            value: Take the message in with this value; None for its own.

        Raises:
            DeadLetterNotFoundError: There is none of this number.
            DeadLetterNotReplayableError: It cannot be; says what to do.
            KafkaNotReachedError, KafkaError: The message has to be read again, and the cluster does not answer.
        """
        with self._kv.read() as txn:
            letter = get_dead_letter(txn, number)
        if letter is None:
            raise DeadLetterNotFoundError(number)
        done = await replay(self._settings, self._kv, letter, value)
        self._told(done)
        self.look_again()
        return done

    def health(self) -> KafkaHealth:
        """How it is doing."""
        session = self._session
        age_s = None
        if session is not None and session.assigned_s is not None:
            age_s = time.monotonic() - session.assigned_s
        return KafkaHealth(
            connection=self._settings.name,
            connected=age_s is not None,
            assignment_age_s=age_s,
            consumers_made=self._made,
            last_error=self._error,
            last_error_unix_s=self._error_unix_s,
            commit_error="" if session is None else session.commit_error,
            topics=() if session is None else session.health(),
        )

    async def _one_session(self) -> None:
        """From the making of a consumer to its end."""
        session = KafkaSession(
            self._settings, self._kv, self._told, self._may_read, self._rates, self._make_consumer, self._addressing
        )
        self._session = session
        self._made += 1
        work = asyncio.ensure_future(session.run(self._stopping, self._changed))
        try:
            await self._attend(session, work)
            work.result()
        except asyncio.CancelledError:
            if not work.done():
                work.cancel()
                raise
            self._note("the consumer was cancelled from within", session)
        except HoldfastError as error:
            self._note(str(error), session)
        except Exception as error:  # noqa: BLE001 - no failure of a client is one for good
            self._note(repr(error), session)
        finally:
            await session.close()

    def _note(self, error: str, session: KafkaSession) -> None:
        # A cluster that is away is worth a line once, not twice a minute.
        level = logging.INFO if error == self._error and session.assigned_s is None else logging.WARNING
        self._error, self._error_unix_s = error, time.time()
        log.log(level, "kafka connection %s: %s; trying again", self._settings.name, error)

    async def _attend(self, session: KafkaSession, work: asyncio.Future[Any]) -> None:
        """Wait until a session ends, and end one from which nothing is heard: a client may hang in any call."""
        silence_s = self._settings.stall_s + 2 * self._settings.request_timeout_s
        while not work.done():
            await asyncio.wait({work}, timeout=_HEARTBEAT_S)
            if not work.done() and time.monotonic() - session.beat_s > silence_s:
                work.cancel()
                await asyncio.wait({work}, timeout=_HEARTBEAT_S)
                raise ConsumerStalledError(f"nothing was heard of the consumer for {silence_s:g} s")
