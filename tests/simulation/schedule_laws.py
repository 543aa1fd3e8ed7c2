"""What holds of every schedule, checked after each commit from what is in the store alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from holdfast.engine.schedules import MOST_WAITING, Overlap, Schedule
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.workflow_row import WorkflowRow
from tests.simulation.laws import LawBrokenError

NAME = "s"
_MICROSECOND = 1e-6
_RUN = re.compile(rf"{NAME}-(?P<due>\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?)Z(-(?P<asked>[0-9a-f]{{8}}))?\Z")


def due_of(workflow_id: str) -> tuple[float, str]:
    """(due time, mark of who asked) of a run."""
    found = _RUN.match(workflow_id)
    demand(found is not None, "a time is fired once", workflow_id)
    assert found is not None
    return datetime.fromisoformat(found["due"] + "+00:00").timestamp(), found["asked"] or ""


def demand(holds: bool, law: str, detail: str = "") -> None:
    """Raise when a law does not hold."""
    if not holds:
        raise LawBrokenError(law, detail)


class ScheduleAuditor:
    """Compares what is in the store before and after each commit.

    Attributes:
        schedule: As it stands.
        asked: Marks of triggers that were answered with a run.
    """

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.asked: set[str] = set()
        self._owed: set[float] = set()
        # Runs by id, in order of submission, and those of them that have not ended.
        self._runs: dict[str, WorkflowRow] = {}
        self._going_on: set[str] = set()
        self._latest = 0.0

    def on_commit(self, kv: KeyValueStore, changed: Iterable[int], now: float, *, resumes: bool) -> None:
        """A commit is durable.

        Args:
            kv: The store.
            changed: Numbers of the workflows whose rows were written.
            now: The time of day that it was made with.
            resumes: Whether somebody asked to go on after a pause in it: times may have passed then.
        """
        was, busy = self.schedule, bool(self._going_on)
        with kv.read() as txn:
            row = schedule_store.load(txn, NAME)
            rows = [store.get(txn, seq) for seq in sorted(changed)]
        self.schedule = None if row is None else row.schedule
        # What came due and had to wait may start after the clock was set back.
        self._latest = max(self._latest, now)
        for run in rows:
            if run is not None and run.schedule:
                self._see(run, was)
        self._check_overlap()
        if was is not None and row is not None:
            self._check_times(was, row.schedule, Timing.from_json(row.timing), now, busy=busy, resumes=resumes)

    def _see(self, run: WorkflowRow, was: Schedule | None) -> None:
        name = run.workflow_id
        if name not in self._runs:
            due, asked = due_of(name)
            demand(due <= self._latest + _MICROSECOND, "nothing is fired early", f"{name} at {self._latest}")
            decided = was is not None and was.next_due_unix_s is not None and due < was.next_due_unix_s
            if not asked and decided:
                assert was is not None
                demand(any(one.due_unix_s == due for one in was.waiting), "a time is fired once", name)
        self._runs[name] = run
        (self._going_on.discard if run.status.ended else self._going_on.add)(name)

    def _check_overlap(self) -> None:
        if self.schedule is None or self.schedule.overlap is Overlap.ALLOW:
            return
        active = [name for name in self._going_on if self._runs[name].status.active]
        demand(len(active) <= 1, "the overlap policy is kept", ", ".join(active))

    def _check_times(
        self, was: Schedule, is_now: Schedule, timing: Timing, now: float, *, busy: bool, resumes: bool
    ) -> None:
        begin, end = was.next_due_unix_s, is_now.next_due_unix_s
        assert begin is not None
        assert end is not None
        demand(end >= begin, "the next time only moves forward", f"from {begin} to {end}")
        decided: list[float] = []
        at = begin
        while at < end:
            decided.append(at)
            later = timing.next_after(at)
            assert later is not None
            at = later
        demand(at == end, "the next time is a time of the schedule", f"{end}")
        demand(all(at <= now for at in decided), "no time is passed over before it is due", f"{decided} at {now}")
        if was.paused and resumes:
            decided = []
        demand(not (decided and was.paused and not resumes), "no time comes due in a pause", f"{decided}")
        if was.overlap is Overlap.REPLACE and is_now.skipped > was.skipped:
            # A newer one has taken its place, or somebody asked for one.
            self._owed -= {run.due_unix_s for run in was.waiting} - {run.due_unix_s for run in is_now.waiting}
        self._owe([at for at in decided if at >= now - was.catch_up_s], was, busy=busy)

    def _owe(self, decided: list[float], schedule: Schedule, *, busy: bool) -> None:
        """Of the times that a commit has decided, those that have to be run."""
        if schedule.coalesce:
            decided = decided[-1:]
        match schedule.overlap:
            case Overlap.SKIP:
                # The first of them, when none went before; it may, and need not, be skipped when one ended just now.
                decided = [] if busy or schedule.waiting else decided[:1]
            case Overlap.REPLACE:
                decided = decided[-1:]
            case _:
                decided = decided[: MOST_WAITING - len(schedule.waiting)]
        self._owed.update(decided)

    def on_end(self, now: float) -> None:
        """Nothing happens any more, but the next time of the schedule."""
        schedule = self.schedule
        assert schedule is not None
        due = schedule.next_due_unix_s
        demand(due is not None and due > now, "what is due is decided", f"{due} at {now}")
        demand(not schedule.waiting, "what waits is started in the end", f"{schedule.waiting}")
        started = [due_of(name) for name in self._runs]
        lost = self._owed - {due for due, asked in started if not asked}
        demand(not lost, "no time is lost", f"{sorted(lost)}")
        by_hand = Counter(asked for _, asked in started if asked)
        demand(all(count == 1 for count in by_hand.values()), "what is asked for once runs once", f"{by_hand}")
        if schedule.overlap is not Overlap.REPLACE:
            missing = {mark[:8] for mark in self.asked} - set(by_hand)
            demand(not missing, "what was promised is run", f"{missing}")
        if schedule.overlap is Overlap.QUEUE:
            in_order = [due for due, asked in started if not asked]
            demand(in_order == sorted(in_order), "a queue keeps its order", f"{in_order}")
