"""Rings when the earliest due row of the store has come due. The rows are the truth, this is only the alarm.

APScheduler rings at the time. It measures the way there by a clock that knows nothing of the time of day: when that is
set forward, or the machine was suspended, it would ring late. So the rows are looked at every few seconds too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler

_JOB = "alarm"
_LOOK_EVERY_S = 2.0
_FARTHEST_S = 86_400.0


class Alarm:
    """Calls `ring` when something has come due; on the event loop of whoever starts it.

    Args:
        next_due: When the earliest row is due, in seconds since the epoch; None when there is none.
        ring: What to do then. It sets the alarm for what is next.
        clock: The time of day, in seconds since the epoch.
        look_every_s: How late it may be, in seconds, when the time of day was changed.
    """

    def __init__(
        self,
        next_due: Callable[[], float | None],
        ring: Callable[[], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.time,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._next_due, self._ring, self._clock, self._look_every_s = next_due, ring, clock, look_every_s
        self._scheduler: Any = AsyncIOScheduler(timezone=timezone.utc)

    def start(self) -> None:
        """Set it for the earliest row."""
        self._scheduler.start()
        self.set()

    def stop(self) -> None:
        """Ring no more."""
        if self._scheduler.get_job(_JOB) is not None:
            self._scheduler.remove_job(_JOB)

    def set(self, not_before_unix_s: float = 0.0) -> None:
        """Set it for the earliest row, but for no earlier time than this."""
        due_unix_s = self._next_due()
        if due_unix_s is not None:
            self._set_for(max(due_unix_s, not_before_unix_s))

    def note(self, due_unix_s: float) -> None:
        """There is a new row, which may be the earliest."""
        job = self._scheduler.get_job(_JOB)
        if job is None or due_unix_s < job.next_run_time.timestamp():
            self._set_for(due_unix_s)

    async def watch(self) -> None:
        """Ring when something is due and the alarm is not about to: the time of day was changed. Never returns."""
        while True:
            await asyncio.sleep(self._look_every_s)
            due_unix_s, now_unix_s = self._next_due(), self._clock()
            if due_unix_s is None or due_unix_s > now_unix_s:
                continue
            job = self._scheduler.get_job(_JOB)
            if job is None or abs(job.next_run_time.timestamp() - now_unix_s) > self._look_every_s:
                await self._ring()

    def _set_for(self, due_unix_s: float) -> None:
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
