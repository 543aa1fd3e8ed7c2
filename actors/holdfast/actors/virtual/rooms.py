"""Threads for the methods of one class of virtual actors, and an event loop for those that are `async`.

A class that blocks keeps its own actors waiting, and no others. Nothing here knows what is run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from holdfast.actors.user_code import hide, serve
from holdfast.actors.virtual.work import Ended

THREADS = 64
"""Methods of one class that run at once in one host, those that are `async` apart."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One run of a method.

    Attributes:
        ended: What comes of it.
    """

    ended: Future[Ended]
    _room: Room
    _task: asyncio.Task[Any] | None = None
    _left: bool = False
    _over: bool = False

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._left

    def go_on(self, coroutine: Any, done: Callable[[], None]) -> None:
        """Continue an attempt as a coroutine, on the event loop of the class.

        Args:
            coroutine: What is left to do.
            done: Called when that has ended, also when it was cancelled before it began.
        """
        self._room.start(coroutine, self, done)

    def leave(self) -> None:
        """Nobody waits for it any more: what is `async` is cancelled; a thread goes on, and what it does is lost."""
        self._left = True
        self._room.left(self)

    def over(self) -> None:
        """Note that the attempt has ended, whether or not a call waits for it."""
        self._room.over(self)


class Room:
    """The threads of one class."""

    def __init__(self) -> None:
        self.pool = self._new_pool()
        self._lost = 0
        self._behind: set[Attempt] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, coroutine: Any, attempt: Attempt, done: Callable[[], None]) -> None:
        """Run a coroutine on the loop of the class; see `Attempt.go_on`."""

        def ended(_: Any = None) -> None:
            self.over(attempt)
            done()

        def begin() -> None:
            if attempt._left:
                coroutine.close()
                ended()
            else:
                attempt._task = loop.create_task(coroutine)
                hide(attempt._task)
                attempt._task.add_done_callback(ended)

        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="holdfast-loop", daemon=True
                )
                self._thread.start()
            loop = self._loop
        loop.call_soon_threadsafe(begin)

    @property
    def left_behind(self) -> int:
        """How many attempts were left behind, and are not over."""
        return len(self._behind)

    def over(self, attempt: Attempt) -> None:
        """Note that an attempt has ended."""
        with self._lock:
            attempt._over = True
            self._behind.discard(attempt)

    def left(self, attempt: Attempt) -> None:
        """An attempt was left behind: in a thread it may be for ever."""
        with self._lock:
            if not attempt._over:
                self._behind.add(attempt)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel, attempt)
            self._lost += 1
            if self._lost >= THREADS // 2:
                self._lost = 0
                self.pool.shutdown(wait=False)
                self.pool = self._new_pool()

    @staticmethod
    def _cancel(attempt: Attempt) -> None:
        if attempt._task is not None:
            attempt._task.cancel()

    @staticmethod
    def _new_pool() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="holdfast-methods")

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            serve(loop, "actors of a class")
