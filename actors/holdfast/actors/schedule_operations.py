"""Schedules in the executor's transaction: what a signal decides and the run that it starts are one commit.

The state of a schedule is its row and nothing else, so any executor may carry any operation out, and a ring that comes
late, twice or to two executors at once does what one in time does. Nothing here knows Ray, threads or a clock.
"""

from __future__ import annotations

import hashlib
import logging
import queue
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from holdfast.actors.operations import Accepted, Batch, Elsewhere, Outcome, Submit
from holdfast.actors.refusal import Refusal
from holdfast.actors.schedule_messages import (
    DropSchedule,
    FireSchedule,
    KeepSchedule,
    ScheduleKept,
    ScheduleOperation,
    Steering,
    SteerSchedule,
    Terms,
)
from holdfast.engine.errors import HoldfastError, ScheduleExistsError, ScheduleNotFoundError, StorageCorruptError
from holdfast.engine.run import Run
from holdfast.engine.schedules import (
    MOST_AT_ONCE,
    CancelRun,
    ClockRead,
    DueRun,
    PauseRequested,
    ResumeRequested,
    ResumeRun,
    RunEnded,
    RunInterrupted,
    RunRefused,
    RunResumed,
    RunStarted,
    Schedule,
    ScheduleSignal,
    StartRun,
    TriggerRequested,
    apply,
    redefined,
)
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.answered import find_answer, save_answer
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.schedule_store import ScheduleRow
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflows:
    """What an executor does with workflows inside its transaction. Each may raise `Refusal`.

    Attributes:
        submit: Run a graph under a new id.
        cancel: Stop a workflow for good.
        resume: Take a workflow up again; the request has no mark of its own.
    """

    submit: Callable[[WriteTransaction, Submit], Outcome]
    cancel: Callable[[WriteTransaction, str], Outcome]
    resume: Callable[[WriteTransaction, str], Outcome]


class Schedules:
    """Carries out what concerns schedules, for one executor.

    Args:
        url: Of the store, for messages.
        workflows: Starts and stops their runs.
        link_blobs: Gives the blobs of one group to another one too; see `BlobStore.link_group`.
        starts: Whether runs may be started here. If not, another executor is rung for.
    """

    def __init__(
        self, url: str, workflows: Workflows, link_blobs: Callable[[str, str], None] | None, *, starts: bool
    ) -> None:
        self._url, self._workflows, self._link_blobs, self._starts = url, workflows, link_blobs, starts
        self._txn: WriteTransaction
        self._batch = Batch()
        self._now = 0.0
        self._resuming = ""

    def perform(
        self, txn: WriteTransaction, operation: ScheduleOperation, batch: Batch, now_unix_s: float
    ) -> ScheduleKept:
        """Carry an operation out.

        Raises:
            Refusal: Nothing was written for it.
        """
        self._begin(txn, batch, now_unix_s)
        match operation:
            case KeepSchedule():
                return self._keep(operation)
            case FireSchedule():
                return self._fire(operation.name)
            case SteerSchedule():
                if find_answer(txn, operation.nonce) is not None:
                    return ScheduleKept(fresh=False, workflow_id=self._run_asked_for(operation))
                kept = self._steer(operation)
            case DropSchedule():
                if find_answer(txn, operation.nonce) is not None:
                    return ScheduleKept(fresh=False)
                kept = self._drop(operation.name)
        # Ray repeats a call when the process dies in it: by then somebody may have asked for something else.
        save_answer(txn, operation.nonce, -1, WorkflowStatus.NONE, now_unix_s)
        return kept

    def runs_over(self, txn: WriteTransaction, rows: Collection[WorkflowRow], batch: Batch, now_unix_s: float) -> None:
        """Workflows have come to their end, or are deleted: if they were runs, the next one may start."""
        self._begin(txn, batch, now_unix_s)
        for workflow in rows:
            row = _schedule_of(txn, workflow)
            if row is not None and workflow.workflow_id in row.schedule.running:
                self._signal(row, RunEnded(workflow_id=workflow.workflow_id))

    def run_resumed(self, txn: WriteTransaction, workflow: WorkflowRow, now_unix_s: float) -> None:
        """A workflow was taken up again: if it is a run, it counts as one that goes on."""
        if workflow.schedule == self._resuming:
            # By the schedule itself, which is about to be written.
            return
        row = _schedule_of(txn, workflow)
        if row is not None:
            signal = RunResumed(workflow_id=workflow.workflow_id)
            schedule, _ = apply(row.schedule, signal, now_unix_s, Timing.from_json(row.timing).next_after)
            if schedule != row.schedule:
                schedule_store.save(txn, replace(row, schedule=schedule), was=row, now_unix_s=now_unix_s)

    def _begin(self, txn: WriteTransaction, batch: Batch, now_unix_s: float) -> None:
        self._txn, self._batch, self._now = txn, batch, now_unix_s

    def _load(self, name: str) -> ScheduleRow:
        try:
            row = schedule_store.load(self._txn, name)
        except StorageCorruptError as error:
            raise Refusal(error) from error
        if row is None:
            raise Refusal(ScheduleNotFoundError(name, self._url))
        return row

    # -- definitions ---------------------------------------------------------------------------------------------

    def _keep(self, keep: KeepSchedule) -> ScheduleKept:
        if store.was_deleted(self._txn, keep.nonce):
            # Ray repeats a call whose executor died: what it had done was deleted or changed since.
            return ScheduleKept(fresh=False)
        try:
            known = schedule_store.load(self._txn, keep.name)
            Run.create(keep.name, keep.graph, self._now)
        except HoldfastError as error:
            raise Refusal(error) from error
        if known is None:
            return self._save_new(keep)
        if known.nonce == keep.nonce:
            return ScheduleKept(wake_unix_s=known.schedule.wake_unix_s)
        different = _differences(known, keep)
        if not different:
            return ScheduleKept(fresh=False, wake_unix_s=known.schedule.wake_unix_s)
        if not keep.replaces:
            raise Refusal(ScheduleExistsError(keep.name, "; ".join(different)))
        return self._redefine(known, keep)

    def _save_new(self, keep: KeepSchedule) -> ScheduleKept:
        timing = keep.terms.timing.anchored(self._now)
        schedule = Schedule(
            name=keep.name,
            overlap=keep.terms.overlap,
            catch_up_s=keep.terms.catch_up_s,
            coalesce=keep.terms.coalesce,
            next_due_unix_s=self._first_due(timing, keep.terms),
        )
        row = ScheduleRow(
            schedule=schedule,
            timing=timing.to_json(),
            nonce=keep.nonce,
            digest=keep.digest,
            has_blobs=keep.has_blobs,
            user_metadata=keep.user_metadata,
            environment=keep.environment,
            created_unix_s=self._now,
        )
        schedule_store.save_graph(self._txn, keep.name, keep.graph)
        schedule_store.save(self._txn, row, was=None, now_unix_s=self._now)
        # A date that has passed is due now.
        return self._signal(row, ClockRead())

    def _redefine(self, known: ScheduleRow, keep: KeepSchedule) -> ScheduleKept:
        timing, due_unix_s = Timing.from_json(known.timing), known.schedule.next_due_unix_s
        if not timing.same_as(keep.terms.timing):
            timing = keep.terms.timing.anchored(self._now)
            due_unix_s = self._first_due(timing, keep.terms)
        schedule = redefined(
            known.schedule,
            overlap=keep.terms.overlap,
            catch_up_s=keep.terms.catch_up_s,
            coalesce=keep.terms.coalesce,
            next_due_unix_s=due_unix_s,
        )
        row = ScheduleRow(
            schedule=schedule,
            timing=timing.to_json(),
            nonce=keep.nonce,
            digest=keep.digest,
            has_blobs=keep.has_blobs,
            user_metadata=keep.user_metadata,
            environment=keep.environment,
            created_unix_s=known.created_unix_s,
        )
        schedule_store.save_graph(self._txn, keep.name, keep.graph)
        schedule_store.save(self._txn, row, was=known, now_unix_s=self._now)
        self._batch.dropped_groups.append(known.nonce)
        return self._signal(row, ClockRead())

    def _first_due(self, timing: Timing, terms: Terms) -> float | None:
        if timing.at_unix_s is None:
            return timing.next_after(self._now)
        if timing.at_unix_s < self._now - terms.catch_up_s:
            ago_s = self._now - timing.at_unix_s
            raise Refusal(
                ValueError(
                    f"{timing} was {ago_s:,.0f} s ago and would never run: catch_up_s={terms.catch_up_s:g} reaches "
                    "less far back. Give a later time, or a larger catch_up_s."
                )
            )
        return timing.at_unix_s

    def _drop(self, name: str) -> ScheduleKept:
        try:
            row = schedule_store.load(self._txn, name)
        except StorageCorruptError as error:
            log.error("deleting a schedule that cannot be read name=%s error=%s", name, error)
            schedule_store.delete_damaged(self._txn, name)
            return ScheduleKept()
        if row is None:
            raise Refusal(ScheduleNotFoundError(name, self._url))
        schedule_store.delete(self._txn, row, self._now)
        self._batch.dropped_groups.append(row.nonce)
        return ScheduleKept()

    # -- signals -------------------------------------------------------------------------------------------------

    def _fire(self, name: str) -> ScheduleKept:
        try:
            row = schedule_store.load(self._txn, name)
        except StorageCorruptError as error:
            log.error("a schedule is not looked at again name=%s error=%s", name, error)
            schedule_store.let_go(self._txn, name)
            return ScheduleKept()
        return ScheduleKept(fresh=False) if row is None else self._signal(row, ClockRead())

    def _steer(self, steer: SteerSchedule) -> ScheduleKept:
        row = self._load(steer.name)
        match steer.steering:
            case Steering.PAUSE:
                return self._signal(row, PauseRequested())
            case Steering.RESUME:
                return self._signal(row, ResumeRequested())
            case Steering.TRIGGER:
                kept = self._signal(row, TriggerRequested(asked=steer.nonce))
                return replace(kept, workflow_id=self._run_asked_for(steer))

    def _run_asked_for(self, steer: SteerSchedule) -> str:
        if steer.steering is not Steering.TRIGGER:
            return ""
        schedule = self._load(steer.name).schedule
        for past in schedule.past:
            if past.asked == steer.nonce:
                return past.workflow_id
        return next((run_id(steer.name, run) for run in schedule.waiting if run.asked == steer.nonce), "")

    def _signal(self, row: ScheduleRow, signal: ScheduleSignal) -> ScheduleKept:
        """Apply a signal, carry out what it asks for, and all that comes of that; then write the schedule down."""
        next_after = Timing.from_json(row.timing).next_after
        schedule = row.schedule
        started = 0
        asked = isinstance(signal, TriggerRequested) or schedule.has_work(self._now)
        signals = [*(self._news_of_runs(schedule) if asked else ()), signal]
        while signals:
            schedule, command = apply(schedule, signals.pop(0), self._now, next_after)
            match command:
                case StartRun() if self._starts and started < MOST_AT_ONCE:
                    workflow_id = self._start(row, command.run)
                    started += 1
                    signals.insert(
                        0,
                        RunRefused() if workflow_id is None else RunStarted(run=command.run, workflow_id=workflow_id),
                    )
                case CancelRun():
                    if self._cancel(command.workflow_id):
                        signals.insert(0, RunEnded(workflow_id=command.workflow_id))
                case ResumeRun():
                    if self._resume(schedule.name, command.workflow_id):
                        signals.insert(0, RunResumed(workflow_id=command.workflow_id))
        schedule_store.save(self._txn, replace(row, schedule=schedule), was=row, now_unix_s=self._now)
        wake_unix_s = schedule.wake_unix_s
        if wake_unix_s is not None:
            earliest = self._batch.earliest_due_unix_s
            self._batch.earliest_due_unix_s = wake_unix_s if earliest is None else min(earliest, wake_unix_s)
        return ScheduleKept(fresh=schedule != row.schedule, wake_unix_s=wake_unix_s)

    def _news_of_runs(self, schedule: Schedule) -> list[ScheduleSignal]:
        """What has become of runs that would hold the next one up: told by their own rows."""
        news: list[ScheduleSignal] = []
        for workflow_id in schedule.running:
            workflow = self._find(workflow_id)
            if workflow is None or workflow.status.ended:
                news.append(RunEnded(workflow_id=workflow_id))
            elif workflow.status is WorkflowStatus.RESUMABLE:
                news.append(RunInterrupted(workflow_id=workflow_id))
        return news

    def _find(self, workflow_id: str) -> WorkflowRow | None:
        try:
            return store.find(self._txn, workflow_id)
        except StorageCorruptError as error:
            # Nothing can drive it: it holds up no other.
            log.error("a run cannot be read workflow_id=%s error=%s", workflow_id, error)
            return None

    # -- commands ------------------------------------------------------------------------------------------------

    def _start(self, row: ScheduleRow, run: DueRun) -> str | None:
        """The id of the workflow that was started; None when there is no place for it."""
        name = row.schedule.name
        workflow_id = base = run_id(name, run)
        others = 0
        while store.knows(self._txn, workflow_id):
            # A workflow of the user's, or of a schedule of this name that was deleted.
            others += 1
            workflow_id = f"{base}-{others}"
        nonce = hashlib.blake2b(f"{row.nonce} {workflow_id}".encode(), digest_size=16).hexdigest()
        graph = schedule_store.load_graph(self._txn, name, blob_group=nonce)
        if row.has_blobs and self._link_blobs is not None:
            # Before the commit, as every blob. It is a matter of names only, and quick.
            self._link_blobs(row.nonce, nonce)
        submit = Submit(
            workflow_id=workflow_id,
            graph=graph,
            nonce=nonce,
            user_metadata=row.user_metadata,
            environment=row.environment,
            schedule=name,
        )
        try:
            self._workflows.submit(self._txn, submit)
        except Refusal as refusal:
            if not isinstance(refusal.error, queue.Full):
                raise
            return None
        self._batch.scheduled.append(workflow_id)
        return workflow_id

    def _cancel(self, workflow_id: str) -> bool:
        """Whether it has ended."""
        outcome = self._workflows.cancel(self._txn, workflow_id)
        if isinstance(outcome, Elsewhere):
            self._batch.cancel_elsewhere.append((outcome.executor, workflow_id))
            return False
        assert isinstance(outcome, Accepted)
        return outcome.status.ended

    def _resume(self, name: str, workflow_id: str) -> bool:
        """Whether it goes on."""
        self._resuming = name
        try:
            self._workflows.resume(self._txn, workflow_id)
        except Refusal as refusal:
            if not isinstance(refusal.error, queue.Full):
                raise
            return False
        finally:
            self._resuming = ""
        return True


def _schedule_of(txn: WriteTransaction, workflow: WorkflowRow) -> ScheduleRow | None:
    """The schedule that a workflow is a run of, if it is one."""
    if not workflow.schedule:
        return None
    try:
        return schedule_store.load(txn, workflow.schedule)
    except StorageCorruptError as error:
        # The workflow is not to blame, and has to go on.
        log.error("a schedule cannot be read name=%s error=%s", workflow.schedule, error)
        return None


def run_id(name: str, run: DueRun) -> str:
    """The workflow id of a run: `<name>-<due time, UTC>`, with a mark at the end when it was asked for by hand."""
    due = datetime.fromtimestamp(run.due_unix_s, timezone.utc)
    said = due.isoformat(timespec="microseconds" if due.microsecond else "seconds").replace("+00:00", "Z")
    return f"{name}-{said}-{run.asked[:8]}" if run.asked else f"{name}-{said}"


def _differences(known: ScheduleRow, keep: KeepSchedule) -> list[str]:
    """What another definition changes, for people."""
    timing, schedule, terms = Timing.from_json(known.timing), known.schedule, keep.terms
    found = []
    if not timing.same_as(terms.timing):
        found.append(f"it is due {timing}, and not {terms.timing}")
    for what, there, given in (
        ("overlap", schedule.overlap.value, terms.overlap.value),
        ("catch_up_s", schedule.catch_up_s, terms.catch_up_s),
        ("coalesce", schedule.coalesce, terms.coalesce),
        ("metadata", dict(known.user_metadata), dict(keep.user_metadata)),
    ):
        if there != given:
            found.append(f"{what} is {there!r}, and not {given!r}")
    if known.digest != keep.digest or known.environment != keep.environment:
        found.append("what it runs (graph, arguments, code or environment) is another")
    return found
