"""The queue in front of the running workflows: who may start, who waits, and who drives whom.

The limits are counters in the store, looked at in the transaction that starts
a workflow: several executors share them, and none holds a copy.
"""

from __future__ import annotations

import logging
import queue

from holdfast.actors.held_runs import HeldRuns, change_status
from holdfast.actors.refusal import Refusal
from holdfast.actors.schedule_operations import Schedules
from holdfast.actors.source_reading import SourceReading
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.queueing import Admission
from holdfast.engine.transitions import StatusSignal, WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")


class WorkflowQueue:
    """Gives workflows their places.

    Args:
        runs: What the executor holds.
        sources: Reads what runs wait for when they are loaded.
    """

    def __init__(self, runs: HeldRuns, sources: SourceReading) -> None:
        self._runs, self._sources = runs, sources
        self._has_new = False

    def begin(self) -> None:
        """A batch begins: nothing was queued in it."""
        self._has_new = False

    @property
    def has_work(self) -> bool:
        """Whether places may have become free in this batch, or somebody may have to be given one."""
        return bool(self._runs.batch.ended or self._runs.batch.deleted or self._has_new)

    def decide(self, txn: WriteTransaction, *, ran_before: bool = False) -> Admission:
        """Whether a workflow may start now.

        Args:
            txn: The transaction.
            ran_before: It had a place when its cluster was lost.

        Raises:
            Refusal: The queue is full.
        """
        admission = store.load_limits(txn).decide(
            running=store.count(txn, WorkflowStatus.RUNNING),
            pending=store.count(txn, WorkflowStatus.PENDING),
            ran_before=ran_before,
        )
        if admission is Admission.REFUSED:
            raise Refusal(queue.Full("Workflow queue has been full"))
        if admission is Admission.QUEUED:
            # Those before it may wait for nobody: they were queued when the last cluster was lost.
            self._has_new = True
        return admission

    def fill_places(self, txn: WriteTransaction, schedules: Schedules) -> None:
        """Start what is queued, and what schedules let wait for the end of a run.

        One that finds its event there may end at once, and leave its place to the next.
        """
        batch, now = self._runs.batch, self._runs.now
        told = 0
        schedules.runs_over(txn, batch.deleted, batch, now)
        while True:
            self._has_new = False
            self.admit_queued(txn)
            over, told = batch.ended[told:], len(batch.ended)
            schedules.runs_over(txn, over, batch, now)
            self._sources.read_all(txn)
            if told == len(batch.ended) and not self._has_new:
                return

    def admit_queued(self, txn: WriteTransaction) -> None:
        """Start queued workflows while there is room."""
        limits = store.load_limits(txn)
        while limits.may_start(running=store.count(txn, WorkflowStatus.RUNNING)):
            first = store.first_queued(txn)
            if first is None:
                return
            number, seq = first
            store.leave_queue(txn, number)
            self._runs.working_on = seq
            try:
                row = store.get(txn, seq)
            except StorageCorruptError as error:
                log.error("a queued workflow is passed over: %s", error)
                continue
            assert row is not None
            row = change_status(txn, row, StatusSignal.ADMITTED, started_unix_s=self._runs.now)
            if row.executor == self._runs.name:
                self._runs.load(txn, row)
            else:
                self.hand_over(txn, row)

    def hand_over(self, txn: WriteTransaction, row: WorkflowRow) -> None:
        """Have another executor drive a workflow."""
        # That one finds it here even when the message about it is lost.
        store.take_lease(txn, row.seq, row.executor)
        self._runs.batch.elsewhere.append((row.executor, row.seq))
