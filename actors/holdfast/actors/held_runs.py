"""The runs that an executor has in memory, and what a batch does with them.

Every way to a run goes through here, because what must not be forgotten is
done here: its lease is checked in the transaction of the batch before it is
touched, its records are written in that same transaction, and what they lead
to (commands, ends, events to read) is gathered for the batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import partial

from holdfast.actors import names
from holdfast.actors.operations import Batch
from holdfast.engine.errors import StaleLeaseError
from holdfast.engine.records import TimerCleared, TimerSet
from holdfast.engine.run import Run
from holdfast.engine.signals import Signal
from holdfast.engine.step import Step
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.storage import event_readers, snapshots
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.workflow_row import WorkflowRow

SNAPSHOT_SAVES = 50
"""How many records fewer loading must read for a snapshot to be worth writing: a short sleeper never has one."""


@dataclass(slots=True)
class Held:
    """A run in memory, under the lease that lets its records be written."""

    run: Run
    row: WorkflowRow
    epoch: int


class HeldRuns:
    """What an executor holds, and the batch that is being worked on.

    Args:
        name: The executor's name, under which it holds leases.
        snapshot_saves: How many records fewer a load from a snapshot must read for the snapshot to be written.

    Attributes:
        held: The runs, by the number of their workflow.
        working_on: The workflow that is being worked on.
        batch: What comes of the batch.
        now: Its time.
        to_read: Streams of outside sources that a run began to wait for, to be read before the batch ends.
    """

    def __init__(self, name: str, snapshot_saves: float) -> None:
        self.name = name
        self.held: dict[int, Held] = {}
        self.working_on: int | None = None
        self.batch = Batch()
        self.now = 0.0
        self.to_read: deque[tuple[int, tuple[str, str]]] = deque()
        self._touched: dict[int, None] = {}
        self._snapshot_saves = snapshot_saves
        self._timers_set: dict[tuple[int, int], float] = {}
        self._transaction: WriteTransaction | None = None

    def begin(self, now_unix_s: float) -> None:
        """Forget the batch before; the next one is worked on at this time."""
        self.working_on, self.batch, self.now = None, Batch(), now_unix_s
        self._touched = {}
        self.to_read.clear()
        self._timers_set.clear()

    def enter(self, txn: WriteTransaction) -> None:
        """The transaction of the batch is open."""
        self._transaction = txn

    def leave(self) -> None:
        """The transaction of the batch is over."""
        self._transaction = None
        # Schedules have said theirs.
        found = [due for due in (self.batch.earliest_due_unix_s, *self._timers_set.values()) if due is not None]
        self.batch.earliest_due_unix_s = min(found, default=None)

    def forget_touched(self) -> None:
        """The batch was not committed: memory is ahead of the store."""
        for seq in self._touched:
            self.held.pop(seq, None)
        if self.working_on is not None:
            self.held.pop(self.working_on, None)

    def take(self, txn: WriteTransaction, seq: int) -> Held | None:
        """The held run, its lease checked in this transaction; None when it is not held, or not any more."""
        self.working_on = seq
        held = self.held.get(seq)
        if held is None or seq in self._touched:
            return held
        try:
            store.check_lease(txn, seq, held.epoch, held.row.workflow_id)
        except StaleLeaseError:
            del self.held[seq]
            self.batch.lost.append(seq)
            return None
        self._touched[seq] = None
        return held

    def hold(self, held: Held) -> None:
        """Keep a run whose lease was taken in this transaction."""
        self.held[held.row.seq] = held
        self._touched[held.row.seq] = None

    def load(self, txn: WriteTransaction, row: WorkflowRow) -> Held:
        """Take a workflow up from the store, under a new lease, and go on with it."""
        self.working_on = row.seq
        epoch = store.take_lease(txn, row.seq, self.name)
        image = snapshots.load_run(txn, row.seq, epoch)
        run, step = Run.load(row.workflow_id, image, self.now, partial(self._given_before, row.seq))
        held = Held(run, row, epoch)
        self.hold(held)
        self.write(txn, held, step)
        return held

    def _given_before(self, seq: int, task_id: str) -> bool:
        """Whether a task has this id. A run asks while it takes a signal, which it does in transactions only."""
        assert self._transaction is not None
        return store.has_task(self._transaction, seq, task_id)

    def apply(self, txn: WriteTransaction, held: Held, signal: Signal) -> None:
        """Give a run a signal, and write what it decides."""
        self.write(txn, held, held.run.apply(signal, self.now))

    def write(self, txn: WriteTransaction, held: Held, step: Step) -> None:
        """Write the records of a step, and gather what it leads to."""
        held.row = store.write_records(txn, held.row, step.records)
        batch = self.batch
        for record in step.records:
            batch.logged.append((held.row, record))
            if isinstance(record, TimerSet):
                self._timers_set[held.row.seq, record.task] = record.due_unix_s
            elif isinstance(record, TimerCleared):
                # Most that fire are set by the load and cleared at once: nobody is to ring for those.
                self._timers_set.pop((held.row.seq, record.task), None)
        batch.commands.extend((held.row, command) for command in step.commands)
        for stream in step.left:
            if not held.run.awaits(stream):
                event_readers.stop_waiting(txn, held.row.seq, stream)
        self.to_read.extend((held.row.seq, stream) for stream in step.reads)
        if held.run.status.ended:
            event_readers.forget_reader(txn, held.row.seq, cursors=held.run.status is not WorkflowStatus.FAILED)
        if held.run.status.ended and self.held.pop(held.row.seq, None) is not None:
            batch.ended.append(held.row)

    def put_idle_away(self, txn: WriteTransaction) -> None:
        """Let go of the runs of the batch whose tasks all wait: what is left of them is rows."""
        self.working_on = None
        if names.is_dedicated(self.name):
            # That it holds its workflow is what keeps it alive.
            return
        for seq in self._touched:
            held = self.held.get(seq)
            if held is not None and held.run.idle:
                self.working_on = seq
                del self.held[seq]
                store.put_away(txn, seq, self.name)
                snapshot = held.run.snapshot(saves=self._snapshot_saves)
                if snapshot is not None:
                    snapshots.save_snapshot(txn, seq, held.epoch, snapshot)
                self.batch.put_away.append(seq)
        self.working_on = None


def change_status(
    txn: WriteTransaction,
    row: WorkflowRow,
    signal: StatusSignal,
    *,
    executor: str | None = None,
    queue_number: int | None = None,
    started_unix_s: float | None = None,
    ended_unix_s: float | None = None,
) -> WorkflowRow:
    """Change the status of a workflow that no run decides about: it is queued, admitted, or cancelled in the queue.

    Args:
        txn: The transaction.
        row: As the store has it.
        signal: What happened.
        executor: Who is to drive it; None for who did.
        queue_number: Its place in the queue; None for none.
        started_unix_s: When it was started; None for what it was.
        ended_unix_s: When it ended; None for not.

    Returns:
        The row as it is now.
    """
    changed = replace(
        row,
        status=next_status(row.status, signal),
        executor=row.executor if executor is None else executor,
        queue_number=queue_number,
        started_unix_s=row.started_unix_s if started_unix_s is None else started_unix_s,
        ended_unix_s=ended_unix_s,
        error=None,
        failed_task_id="",
    )
    store.save(txn, changed, was=row)
    return changed
