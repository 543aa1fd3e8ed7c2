"""Ringing: executors are told when their timers and schedules have come due.

The management actor's part of keeping time. The rows are the executors' to
remove, with what the wake writes; here they are read and told of, and the alarm
is set for what comes next behind them. Nothing is decided about a workflow, and
nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.alarm import Alarm
from holdfast.actors.due_rows import DueRows, Timer
from holdfast.actors.schedule_messages import ScheduleKept
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")


class Ringing:
    """Tells executors what has come due.

    Args:
        kv: The store.
        executors: Their handles by name; what there is at the time of a ring.
        rows: What is on its way to them.
        clock: The time of day, in seconds since the epoch.
        elapsed: The time by a clock that nobody sets, in seconds.
    """

    def __init__(
        self,
        kv: KeyValueStore,
        executors: Mapping[str, Any],
        *,
        rows: DueRows | None = None,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kv, self._executors = kv, executors
        self._rows = DueRows() if rows is None else rows
        self._clock, self._elapsed = clock, elapsed
        self._alarm = Alarm(self._look, clock=clock, elapsed=elapsed)
        self._calls: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Ring for whatever comes due from now on."""
        self._alarm.start()
        self._keep(self._alarm.watch())

    def stop(self) -> None:
        """Ring no more, and wait for no answers."""
        self._alarm.stop()
        for call in self._calls:
            call.cancel()

    def note(self, due_unix_s: float) -> None:
        """There is a new row, which may be the earliest."""
        self._alarm.note(due_unix_s)

    def _look(self) -> float | None:
        with self._kv.read() as txn:
            look = self._rows.look(txn, self._clock(), self._elapsed())
            # One that is damaged is nobody's: the first executor drops its timers.
            workflows = {row.seq: row for row in store.list_by_ids(txn, sorted({seq for _, seq, _ in look.timers}))}
        by_executor: dict[str, list[Timer]] = {}
        for timer in look.timers:
            row = workflows.get(timer[1])
            known = row is not None and row.executor in self._executors
            executor = row.executor if row is not None and known else next(iter(self._executors))
            by_executor.setdefault(executor, []).append(timer)
        for executor, timers in by_executor.items():
            self._keep(self._fire(executor, timers))
        for name in look.schedules:
            self._keep(self._fire_schedule(name))
        return look.again_unix_s

    def _keep(self, call: Coroutine[Any, Any, None]) -> None:
        # The event loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _fire(self, executor: str, timers: list[Timer]) -> None:
        handle = self._executors.get(executor)
        try:
            # One of a single workflow may have ended with it just now.
            if handle is not None:
                await handle.fire.remote(timers)
        except RayError as error:
            log.error("timers of executor %s could not be fired, trying again: %s", executor, error)
        with self._kv.read() as txn:
            again_s = self._rows.timers_answered(txn, timers, self._elapsed())
        if again_s is not None:
            self._alarm.note(self._clock() + again_s)

    async def _fire_schedule(self, name: str) -> None:
        executor = names.executor_for(name, [one for one in self._executors if not names.is_dedicated(one)])
        fired = False
        try:
            kept = await self._executors[executor].fire_schedule.remote(name)
            fired = isinstance(kept, ScheduleKept) and (kept.fresh or not self._is_due(kept.wake_unix_s))
        except RayError as error:
            log.error("schedule %s could not be fired by executor %s, trying again: %s", name, executor, error)
        self._rows.schedule_answered(name, fired, self._elapsed())
        self._alarm.note(self._clock())

    def _is_due(self, unix_s: float | None) -> bool:
        return unix_s is not None and unix_s <= self._clock()
