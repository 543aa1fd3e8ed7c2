"""Which due rows executors are to be told of, and when to look at them next.

The rows are in the store until an executor has removed them, in the transaction
that wakes. So they are looked at again and again, and what has been told is kept
here, so as not to be told twice: it is on its way. A message may be lost, so it is
told again after a while; told twice it does no harm. No clock in here, and nothing
that tells: times come in, and what is to be told goes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from holdfast.engine.graph import TaskIndex
from holdfast.storage import schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import ReadTransaction

Timer: TypeAlias = tuple[float, int, TaskIndex]
"""(due time, workflow, task) of a row of the due index."""

_AT_ONCE = 1_000
# Each look passes over them, and two messages keep an executor busy.
_MOST_OUT = 4_000
_LOST_AFTER_S = 10.0
_LEFT_AGAIN_S = 0.5
_BLOCKED_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the due rows found.

    Attributes:
        timers: Those to be told of now, the earliest first.
        schedules: Names of the schedules to be told of now.
        again_unix_s: When to look again, in seconds since the epoch, if nothing new is heard of before; None when
            there is nothing to look for.
    """

    timers: Sequence[Timer]
    schedules: Sequence[str]
    again_unix_s: float | None


class DueRows:
    """What is on its way to executors, and what is not.

    Args:
        at_once: How many timers one look finds at most.
        most_out: How many timers and schedules are on their way at most; the others wait for an answer.
        lost_after_s: After how many seconds what nobody has answered is told again.
    """

    def __init__(
        self, *, at_once: int = _AT_ONCE, most_out: int = _MOST_OUT, lost_after_s: float = _LOST_AFTER_S
    ) -> None:
        self._at_once, self._most_out, self._lost_after_s = at_once, most_out, lost_after_s
        # What was told, and the time by the monotonic clock when it is told again if it is there still.
        self._told: dict[Timer | str, float] = {}
        # No later than the first of these times.
        self._first_s = math.inf
        self._held_back = False

    def look(self, txn: ReadTransaction, now_unix_s: float, elapsed_s: float) -> Look:
        """What is due and not on its way: from now on it is.

        Args:
            txn: Any.
            now_unix_s: The time of day.
            elapsed_s: The time by a clock that nobody sets.
        """
        self._forget(elapsed_s)
        again = math.inf
        timers: list[Timer] = []
        self._held_back = False
        for timer in store.timers(txn):
            if timer[0] > now_unix_s:
                again = timer[0]
                break
            if timer in self._told:
                continue
            if len(self._told) >= self._most_out:
                # An answer makes room.
                self._held_back = True
                break
            if len(timers) >= self._at_once:
                again = now_unix_s
                break
            timers.append(timer)
            self._tell(timer, elapsed_s + self._lost_after_s)
        schedules: list[str] = []
        for unix_s, name in schedule_store.looks(txn):
            if unix_s > now_unix_s:
                again = min(again, unix_s)
                break
            if name not in self._told:
                schedules.append(name)
                self._tell(name, elapsed_s + self._lost_after_s)
        again = min(again, now_unix_s + self._first_s - elapsed_s)
        return Look(timers=timers, schedules=schedules, again_unix_s=None if again == math.inf else again)

    def timers_answered(self, txn: ReadTransaction, timers: Sequence[Timer], elapsed_s: float) -> float | None:
        """An executor is done with timers. Those it has left, for it could not or was not the one, rest a little.

        Returns:
            In how many seconds to look again, for what it has left or what waited for room; None: as was said before.
        """
        left = False
        for timer in timers:
            if self._told.pop(timer, None) is not None and store.has_timer(txn, *timer):
                self._tell(timer, elapsed_s + _LEFT_AGAIN_S)
                left = True
        return 0.0 if self._held_back else _LEFT_AGAIN_S if left else None

    def schedule_answered(self, name: str, fired: bool, elapsed_s: float) -> None:
        """An executor is done with a schedule.

        Args:
            name: Its name.
            fired: Whether it did what was due. Else there is no place for the run, or the one before has not ended:
                that takes longer.
            elapsed_s: The time by a clock that nobody sets.
        """
        self._told.pop(name, None)
        if not fired:
            self._tell(name, elapsed_s + _BLOCKED_AGAIN_S)

    def _tell(self, row: Timer | str, again_s: float) -> None:
        self._told[row] = again_s
        self._first_s = min(self._first_s, again_s)

    def _forget(self, elapsed_s: float) -> None:
        if elapsed_s >= self._first_s:
            self._told = {row: again_s for row, again_s in self._told.items() if again_s > elapsed_s}
            self._first_s = min(self._told.values(), default=math.inf)
