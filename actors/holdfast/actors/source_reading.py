"""How a run gets the events of outside sources that it waits for.

An event is pulled from its stream into the workflow's inbox in the transaction
of the batch that gives it to the run: where the workflow stands in the stream
and what it has taken are never apart.
"""

from __future__ import annotations

import logging

from holdfast.actors.held_runs import HeldRuns
from holdfast.actors.operations import Accepted, Elsewhere, Outcome
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.signals import EventReceived
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.forms import payload_of
from holdfast.storage import event_readers
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.payload import Payload

log = logging.getLogger("holdfast")

_TO_BE_RESUMED = (WorkflowStatus.RESUMABLE, WorkflowStatus.PENDING)
"""Nobody drives these, and they wait all the same: what has come for them is not to be removed."""


class SourceReading:
    """Gives runs their events.

    Args:
        runs: What the executor holds.
    """

    def __init__(self, runs: HeldRuns) -> None:
        self._runs = runs

    def wake(self, txn: WriteTransaction, seq: int) -> Outcome:
        """There are events for a workflow: rows in the store say in which streams."""
        try:
            row = store.get(txn, seq)
        except StorageCorruptError as error:
            log.error("a workflow is not woken: %s", error)
            event_readers.forget_reader(txn, seq, cursors=False)
            return error
        if row is not None and row.status in _TO_BE_RESUMED:
            event_readers.leave_unread(txn, seq)
            return Accepted(seq=seq, status=row.status, fresh=False)
        if row is None or row.status is not WorkflowStatus.RUNNING:
            # One that failed waits for nothing: whoever resumes it reads on, with what is kept by then.
            event_readers.forget_reader(txn, seq, cursors=False)
            return Accepted(seq=seq, status=WorkflowStatus.NONE if row is None else row.status, fresh=False)
        if row.executor != self._runs.name:
            return Elsewhere(executor=row.executor)
        if self._runs.take(txn, seq) is None:
            # What it waits for is read with it.
            self._runs.load(txn, row)
        self.read_woken(txn, seq)
        return Accepted(seq=seq, status=row.status)

    def read_woken(self, txn: WriteTransaction, seq: int) -> None:
        """Have the streams read in which there is something for a workflow."""
        self._runs.to_read.extend((seq, stream) for stream in event_readers.woken(txn, seq))

    def read_all(self, txn: WriteTransaction) -> None:
        """Give runs the events that they wait for: in a loop, since an event may lead to the next wait at once."""
        runs = self._runs
        while runs.to_read:
            seq, stream = runs.to_read.popleft()
            held = runs.take(txn, seq)
            if held is None:
                # It has ended by another event, or somebody else drives it.
                continue
            if not held.run.awaits(stream):
                event_readers.stop_waiting(txn, seq, stream)
                continue
            event, new_source = event_readers.pull(txn, held.row, stream)
            if new_source is not None:
                runs.batch.sources.append(new_source)
            if event is None:
                continue
            value = Payload(payload_of(event.note, event.key, event.value))
            number = store.add_event(txn, seq, stream, value)
            assert number is not None
            # Others may wait on the same stream.
            runs.to_read.append((seq, stream))
            runs.apply(txn, held, EventReceived(stream=stream, number=number, value=value))
