"""Virtual time: what will happen, in order, without waiting for it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random


class Clock:
    """A seeded scheduler. Things asked for the same time come in random order.

    Attributes:
        now_unix_s: The time, in seconds since the epoch. Moves only from one happening to the next.
    """

    def __init__(self, random: Random, start_unix_s: float) -> None:
        self.now_unix_s = start_unix_s
        self._random = random
        self._agenda: list[tuple[float, float, int, Callable[[], None]]] = []
        self._made = 0

    def after(self, delay_s: float, happening: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now_unix_s + delay_s, happening)

    def at(self, unix_s: float, happening: Callable[[], None]) -> None:
        """Let something happen at a time; one that is past: now."""
        self._made += 1
        when = max(unix_s, self.now_unix_s)
        heapq.heappush(self._agenda, (when, self._random.random(), self._made, happening))

    def step(self) -> bool:
        """Let the next thing happen. False when there is none."""
        if not self._agenda:
            return False
        self.now_unix_s, _, _, happening = heapq.heappop(self._agenda)
        happening()
        return True
