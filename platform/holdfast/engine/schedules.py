"""What a schedule does: which due times become runs, and when a run may start.

Rules of this room:

1. `next_due_unix_s` only moves forward. A time before it has been decided: run, skipped or missed. So a clock that
   jumps back fires nothing twice.
2. A time is due when the clock that is given has reached it, never before.
3. No clock, no calendar and no time zone is known here: the times come from a function, `NextAfter`.
4. At most one command comes out of a step. Its outcome comes back as a signal, and that may bring the next command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

NextAfter: TypeAlias = Callable[[float], "float | None"]
"""The first time of a schedule after a time, both in seconds since the epoch; None when there is none."""

_MICROSECOND = 1e-6

MOST_AT_ONCE = 100
"""Due times that one look at the clock takes in; the next look takes more."""

MOST_WAITING = 1000
"""Runs that may wait for their start; what comes due beyond is skipped."""

KEPT_RUNS = 20
"""Runs that a schedule remembers."""


class Overlap(str, Enum):
    """What becomes of a due time while an earlier run goes on. Equal to its plain string."""

    SKIP = "skip"
    QUEUE = "queue"
    ALLOW = "allow"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRun:
    """A run that is to be started.

    Attributes:
        due_unix_s: The time it belongs to.
        asked: Random mark of who asked for it by hand; empty for a time of the schedule.
    """

    due_unix_s: float
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A run that was started, as a workflow of this id."""

    due_unix_s: float
    workflow_id: str
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Where a schedule stands.

    Attributes:
        name: Its name.
        overlap: What to do while a run goes on.
        catch_up_s: Times longer ago than this, in seconds, are not run any more.
        coalesce: Of several times that are due at once only the last is run.
        next_due_unix_s: Nothing before it comes due any more; None when no time is left.
        paused: No time comes due; only what is asked for by hand starts.
        waiting: Runs that are due and not started.
        running: Ids of the workflows that count as going on; none is kept with ALLOW, which does not ask.
        interrupted: Whether one of them lost its cluster, and found no place yet to go on.
        past: The last runs, the newest at the end.
        skipped: How many due times `overlap` did without.
        missed_until_unix_s: Times up to this one were missed: they were too long ago when they were looked at.
    """

    name: str
    overlap: Overlap
    catch_up_s: float
    coalesce: bool
    next_due_unix_s: float | None
    paused: bool = False
    waiting: tuple[DueRun, ...] = ()
    running: tuple[str, ...] = ()
    interrupted: bool = False
    past: tuple[PastRun, ...] = ()
    skipped: int = 0
    missed_until_unix_s: float | None = None

    @property
    def wake_unix_s(self) -> float | None:
        """When to look again; 0.0 for now, None for not before something else happens."""
        if self.ready is not None and (not self.running or self.overlap is Overlap.REPLACE):
            # Not its due time: it was due, wherever the clock has been set meanwhile.
            return 0.0
        if self.interrupted:
            return 0.0
        return None if self.paused else self.next_due_unix_s

    def has_work(self, now_unix_s: float) -> bool:
        """Whether a run waits or is to go on, or a time comes due by now."""
        due = self.next_due_unix_s
        return bool(self.waiting) or self.interrupted or (not self.paused and due is not None and due <= now_unix_s)

    @property
    def ready(self) -> DueRun | None:
        """The run that is next to start, as far as pausing allows."""
        return next((run for run in self.waiting if run.asked or not self.paused), None)


# -- signals -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRead:
    """Somebody looked at the clock. Late, repeated and needless looks are harmless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """What `StartRun` asked for is done."""

    run: DueRun
    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRefused:
    """What `StartRun` asked for cannot be done now: there is no place. It stays due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """A run has come to its end, or is gone."""

    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A run that had ended goes on."""

    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterrupted:
    """A run has not ended, and nothing drives it: its cluster was lost."""

    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested:
    """Somebody asked to let times pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """Somebody asked to go on, with the times that come from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRequested:
    """Somebody asked for a run now. Asked twice under one mark, it counts once."""

    asked: str


ScheduleSignal: TypeAlias = (
    ClockRead
    | RunStarted
    | RunRefused
    | RunEnded
    | RunResumed
    | RunInterrupted
    | PauseRequested
    | ResumeRequested
    | TriggerRequested
)


# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Start a workflow for this run. Answered by `RunStarted` or `RunRefused`."""

    run: DueRun


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRun:
    """Cancel this workflow: a newer run takes its place. Answered by `RunEnded` when it has ended."""

    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRun:
    """Take this workflow up again: it goes before a newer run. Answered by `RunResumed`, or not at all."""

    workflow_id: str


ScheduleCommand: TypeAlias = StartRun | CancelRun | ResumeRun


# -- decisions ---------------------------------------------------------------------------------------------------------


def apply(
    schedule: Schedule, signal: ScheduleSignal, now_unix_s: float, next_after: NextAfter
) -> tuple[Schedule, ScheduleCommand | None]:
    """What a signal makes of a schedule, and what is to be done.

    Args:
        schedule: As it stands.
        signal: What happened.
        now_unix_s: The time.
        next_after: The times of the schedule.

    Raises:
        ValueError: `next_after` gave a time that is not after the one it was given.

    Semantics: the schedule is to be stored in the transaction in which the command is carried out.
    """
    match signal:
        case ClockRead():
            schedule = _take_due(schedule, now_unix_s, next_after)
        case RunStarted():
            schedule = _started(schedule, signal)
        case RunRefused():
            return schedule, None
        case RunEnded():
            running = tuple(one for one in schedule.running if one != signal.workflow_id)
            schedule = replace(schedule, running=running, interrupted=False)
        case RunResumed():
            if schedule.overlap is not Overlap.ALLOW and signal.workflow_id not in schedule.running:
                schedule = replace(schedule, running=(*schedule.running, signal.workflow_id))
            return replace(schedule, interrupted=False), None
        case RunInterrupted():
            # Where only one may run it goes on first. Where a newer one replaces it, it is cancelled below.
            if schedule.overlap in (Overlap.SKIP, Overlap.QUEUE):
                return replace(schedule, interrupted=True), ResumeRun(workflow_id=signal.workflow_id)
        case PauseRequested():
            schedule = replace(schedule, paused=True)
        case ResumeRequested():
            schedule = _resumed(schedule, now_unix_s, next_after)
        case TriggerRequested():
            known = {run.asked for run in schedule.waiting} | {run.asked for run in schedule.past}
            if signal.asked not in known:
                schedule = _come_due(schedule, DueRun(due_unix_s=now_unix_s, asked=signal.asked))
    return schedule, _next_command(schedule)


def redefined(
    schedule: Schedule, *, overlap: Overlap, catch_up_s: float, coalesce: bool, next_due_unix_s: float | None
) -> Schedule:
    """The schedule under another definition: its runs, and whether it is paused, stay."""
    only_one = overlap in (Overlap.SKIP, Overlap.REPLACE)
    return replace(
        schedule,
        overlap=overlap,
        catch_up_s=catch_up_s,
        coalesce=coalesce,
        next_due_unix_s=next_due_unix_s,
        waiting=schedule.waiting[-1:] if only_one else schedule.waiting,
        running=() if overlap is Overlap.ALLOW else schedule.running,
        interrupted=False,
    )


def _next_command(schedule: Schedule) -> ScheduleCommand | None:
    run = schedule.ready
    if run is None:
        return None
    if schedule.running:
        return CancelRun(workflow_id=schedule.running[0]) if schedule.overlap is Overlap.REPLACE else None
    return StartRun(run=run)


def _take_due(schedule: Schedule, now_unix_s: float, next_after: NextAfter) -> Schedule:
    due = schedule.next_due_unix_s
    if schedule.paused or due is None or due > now_unix_s:
        return schedule
    oldest_unix_s = now_unix_s - schedule.catch_up_s
    if due < oldest_unix_s:
        schedule = replace(schedule, missed_until_unix_s=oldest_unix_s)
        # From just before it: a time that is as long ago as allowed is not missed.
        due = _later(next_after, max(due, oldest_unix_s - _MICROSECOND))
    if schedule.coalesce and due is not None and due <= now_unix_s:
        due = last_until(due, now_unix_s, next_after)
    taken = 0
    while due is not None and due <= now_unix_s and taken < MOST_AT_ONCE:
        schedule = _come_due(schedule, DueRun(due_unix_s=due))
        due = _later(next_after, due)
        taken += 1
    return replace(schedule, next_due_unix_s=due)


def last_until(first_unix_s: float, now_unix_s: float, next_after: NextAfter) -> float:
    """The last time up to now, of which `first_unix_s` is one. Looks back from now: there may be very many before."""
    span = 1.0
    last = first_unix_s
    while now_unix_s - span > first_unix_s:
        found = _later(next_after, now_unix_s - span)
        if found is not None and found <= now_unix_s:
            last = found
            break
        span *= 2
    while (found := _later(next_after, last)) is not None and found <= now_unix_s:
        last = found
    return last


def _come_due(schedule: Schedule, run: DueRun) -> Schedule:
    waiting, skipped = schedule.waiting, schedule.skipped
    match schedule.overlap:
        case Overlap.SKIP if waiting or schedule.running:
            skipped += 1
        case Overlap.REPLACE:
            skipped += len(waiting)
            waiting = (run,)
        case _ if len(waiting) >= MOST_WAITING:
            skipped += 1
        case _:
            waiting = (*waiting, run)
    return replace(schedule, waiting=waiting, skipped=skipped)


def _started(schedule: Schedule, signal: RunStarted) -> Schedule:
    run = signal.run
    past = PastRun(due_unix_s=run.due_unix_s, workflow_id=signal.workflow_id, asked=run.asked)
    running = schedule.running if schedule.overlap is Overlap.ALLOW else (*schedule.running, signal.workflow_id)
    return replace(
        schedule,
        waiting=tuple(one for one in schedule.waiting if one != run),
        running=running,
        past=(*schedule.past, past)[-KEPT_RUNS:],
    )


def _resumed(schedule: Schedule, now_unix_s: float, next_after: NextAfter) -> Schedule:
    if not schedule.paused:
        return schedule
    due = schedule.next_due_unix_s
    if due is not None and due <= now_unix_s:
        # What passed during the pause is not wanted.
        due = _later(next_after, now_unix_s)
    return replace(schedule, paused=False, next_due_unix_s=due)


def _later(next_after: NextAfter, unix_s: float) -> float | None:
    later = next_after(unix_s)
    if later is not None and later <= unix_s:
        raise ValueError(f"the times of a schedule must go forward: after {unix_s!r} came {later!r}")
    return later
