"""Has the due rows looked at when the earliest comes due. The rows are the truth, this is only the alarm.

APScheduler rings at the time. It measures the way there by a clock that knows nothing of the time of day: when that is
set forward, or the machine was suspended, it would ring late. So the rows are looked at every few seconds too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from holdfast.engine.errors import StorageError

log = logging.getLogger("holdfast")

_JOB = "alarm"
_LOOK_EVERY_S = 2.0
_REST_S = 0.01
_FARTHEST_S = 86_400.0


class Alarm:
    """Calls `look` when something has come due; on the event loop of whoever starts it.

    Args:
        look: Does what is due, and says when to look again, in seconds since the epoch; None when there is nothing.
        clock: The time of day, in seconds since the epoch.
        elapsed: The time by a clock that nobody sets, in seconds.
        look_every_s: How late it may be, in seconds, when the time of day was changed.
        rest_s: Seconds from one look to the next at the least: what comes due meanwhile is done together.
    """

    def __init__(
        self,
        look: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
        look_every_s: float = _LOOK_EVERY_S,
        rest_s: float = _REST_S,
    ) -> None:
        self._look, self._clock, self._elapsed = look, clock, elapsed
        self._look_every_s, self._rest_s = look_every_s, rest_s
        self._looked_s = -math.inf
        self._scheduler: Any = AsyncIOScheduler(timezone=timezone.utc)

    def start(self) -> None:
        """Look at the rows as soon as the event loop comes to it."""
        self._scheduler.start()
        self.note(self._clock())

    def stop(self) -> None:
        """Ring no more."""
        if self._scheduler.get_job(_JOB) is not None:
            self._scheduler.remove_job(_JOB)

    def note(self, due_unix_s: float) -> None:
        """There is a new row, which may be the earliest."""
        now_unix_s = self._clock()
        soonest_unix_s = max(now_unix_s, now_unix_s + self._looked_s + self._rest_s - self._elapsed())
        job = self._scheduler.get_job(_JOB)
        if job is None or due_unix_s < job.next_run_time.timestamp():
            self._set(max(due_unix_s, soonest_unix_s))
        elif job.next_run_time.timestamp() < now_unix_s:
            # The time of day was set forward: APScheduler would go on waiting for as long as it was.
            self._set(soonest_unix_s)

    async def watch(self) -> None:
        """Look now and then in any case: the time of day may have been changed, a message lost. Never returns."""
        while True:
            await asyncio.sleep(self._look_every_s)
            await self._ring()

    async def _ring(self) -> None:
        # APScheduler would call what is no coroutine in a thread.
        self._looked_s = self._elapsed()
        try:
            again_unix_s = self._look()
        except StorageError as error:
            log.error("what is due could not be read, trying again in %g s: %s", self._look_every_s, error)
            return
        if again_unix_s is not None:
            self.note(again_unix_s)

    def _set(self, due_unix_s: float) -> None:
        self._scheduler.add_job(
            self._ring,
            "date",
            # No calendar goes as far as a timer can be set: one that rings early looks and sets itself again.
            run_date=datetime.fromtimestamp(min(due_unix_s, self._clock() + _FARTHEST_S), tz=timezone.utc),
            id=_JOB,
            replace_existing=True,
            misfire_grace_time=None,
            max_instances=1_000,
        )
