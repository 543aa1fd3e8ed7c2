"""The order in which a host begins what it has to run.

Most hosts begin everything at once. One for suspects runs one method at a time,
so that when it dies it is known over which. Nothing here knows what is run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

PATIENCE_S = 5.0
"""A method that takes longer is no longer waited for: it may wait for one of those behind it."""


class OneByOne:
    """Begins work, on an event loop.

    Args:
        loop: The loop that all of this is called on.
        at_once: How many may run at a time; None for any number.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, at_once: int | None) -> None:
        self._loop, self._at_once = loop, at_once
        self._waiting: deque[Callable[[], Future[Any] | None]] = deque()
        self._running = 0

    def add(self, begin: Callable[[], Future[Any] | None]) -> None:
        """Begin something, now or when it is its turn.

        Args:
            begin: Begins it, and gives what tells of its end; None when there is nothing to run any more.
        """
        if self._at_once is None:
            begin()
            return
        self._waiting.append(begin)
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._at_once is not None and self._running < self._at_once:
            ended = self._waiting.popleft()()
            if ended is None:
                continue
            self._running += 1
            over = _Once(self._over)
            timer = self._loop.call_later(PATIENCE_S, over)

            def told(_: Future[Any], over: _Once = over, timer: asyncio.TimerHandle = timer) -> None:
                self._loop.call_soon_threadsafe(timer.cancel)
                self._loop.call_soon_threadsafe(over)

            ended.add_done_callback(told)

    def _over(self) -> None:
        self._running -= 1
        self._go_on()


class _Once:
    """Calls something the first time that it is called."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()
