"""Logs what came of a task where it ran, so that the next can begin there before the executor has heard of it.

The row is the one that the executor writes when it hears: it writes it once
more. It is written under the executor's lease: whoever has another one by now
has not heard of this, and may run the task again.
"""

from __future__ import annotations

from holdfast.engine.errors import StaleLeaseError
from holdfast.engine.records import TaskFinished
from holdfast.engine.signals import TaskReturned
from holdfast.engine.values import Value
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore


def finished_task(task: int, task_id: str, reply: TaskReturned) -> TaskFinished:
    """The record of a task that is followed by one that takes its value, and by nothing else."""
    return TaskFinished(
        task=task,
        task_id=task_id,
        value=Value(reply.value, names=reply.names),
        origin=None,
        started_unix_s=reply.started_unix_s,
        ended_unix_s=reply.ended_unix_s,
        kept=reply.kept,
    )


def log_ahead(kv: KeyValueStore, seq: int, epoch: int, workflow_id: str, record: TaskFinished) -> None:
    """Make durable what came of a task.

    Args:
        kv: The store.
        seq: Number of the workflow.
        epoch: The lease under which the task was started.
        workflow_id: Whose it is.
        record: What came of it.

    Raises:
        StaleLeaseError: Another lease has been taken since, or the workflow does not run any more.
        StorageError: It could not be committed.
    """
    with kv.write() as txn:
        store.check_lease(txn, seq, epoch, workflow_id)
        if not store.is_running(txn, seq):
            raise StaleLeaseError(workflow_id, epoch, epoch)
        store.write_finished(txn, seq, record)
