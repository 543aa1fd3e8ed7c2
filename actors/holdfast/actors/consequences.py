"""What follows from a batch that is durable: calls, answers, messages to other actors, and lines for people.

Nothing here may be done before the commit, and nothing here may be relied on
after it: this process can die at any line, and the store says it all again to
the next one.
"""

from __future__ import annotations

import logging
import sys
import time

import ray

from holdfast.actors import names
from holdfast.actors.answers import Answers
from holdfast.actors.event_reports import EventReports
from holdfast.actors.operations import Batch
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.running_calls import RunningCalls
from holdfast.actors.troubles import Troubles
from holdfast.engine.commands import AcknowledgeEvent, Complete, StartListener, StartTask, StopListener, StopTask
from holdfast.engine.records import TaskContinuing, TaskFailed, TaskFinished
from holdfast.storage.blobs import BlobStore
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")


class Consequences:
    """Carries out what batches ask for.

    Args:
        launcher: Starts what runs, and knows the management actor.
        calls: What runs for workflows.
        answers: Who waits for values.
        reports: Who waits for a listener to have taken an event.
        troubles: Workflows that the work failed on.
        blobs: Of the folder.
    """

    def __init__(
        self,
        launcher: Launcher,
        calls: RunningCalls,
        answers: Answers,
        reports: EventReports,
        troubles: Troubles,
        blobs: BlobStore,
    ) -> None:
        self._launcher, self._calls, self._answers = launcher, calls, answers
        self._reports, self._troubles, self._blobs = reports, troubles, blobs
        self._told_unix_s: float | None = None
        self._say: list[str] = []

    def say_created(self, workflow_id: str) -> None:
        """Have a line about a new workflow printed with what its batch leads to."""
        self._say.append(f'Workflow job created. [id="{workflow_id}"]')

    def carry_out(self, batch: Batch) -> None:
        """Do what a durable batch asks for, and tell those who wait for it."""
        for seq in batch.lost:
            self._calls.stop_all(seq)
            self._reports.ended(seq)
        # What a worker has run ahead is started and finished in one batch.
        started = {(row.seq, one.task) for row, one in batch.commands if isinstance(one, StartTask)}
        said = set()
        for row, record in batch.logged:
            self._reports.logged(row, record)
            if isinstance(record, TaskFinished):
                if (row.seq, record.task) in started:
                    said.add((row.seq, record.task))
                    self._say_task(row, record.task_id, "RUNNING")
                self._say_task(row, record.task_id, "SUCCESSFUL")
            elif isinstance(record, TaskFailed):
                self._say_task(row, record.task_id, "FAILED")
            elif isinstance(record, TaskContinuing):
                self._say_task(row, record.task_id, "CONTINUED")
                continue
            else:
                continue
            self._answers.task_ended(row)
        for row, command in batch.commands:
            match command:
                case StartTask():
                    if (row.seq, command.task) not in said:
                        self._say_task(row, command.node.task_id, "RUNNING")
                    self._calls.start_task(row, command)
                case StartListener() | AcknowledgeEvent():
                    self._calls.start_listener(row, command)
                case StopTask() | StopListener():
                    self._calls.stop(row.seq, command.task)
                case Complete():
                    log.debug("workflow ended workflow_id=%s status=%s", row.workflow_id, command.status.value)
        for row in batch.ended:
            self._troubles.forget(row.seq)
            self._calls.forget_ahead(row.seq)
            self._answers.ended(row)
            self._reports.ended(row.seq)
        for workflow_id in batch.scheduled:
            self.say_created(workflow_id)
        for group in (*(row.nonce for row in batch.deleted), *batch.dropped_groups):
            self._blobs.delete_group(group)
        for executor, workflow_id in batch.cancel_elsewhere:
            self._cancel_elsewhere(executor, workflow_id)
        for executor, seq in batch.elsewhere:
            if names.is_dedicated(executor):
                self._launcher.management.keep_executor.remote(executor)
            else:
                ray.get_actor(executor, namespace=names.NAMESPACE).recover.remote([seq])
        for source in batch.sources:
            self._launcher.management.note_source.remote(source)
        self._tell_alarm(batch.earliest_due_unix_s)
        self._print()

    def _print(self) -> None:
        if self._say:
            sys.stderr.write("\n".join(self._say) + "\n")
            sys.stderr.flush()
            self._say.clear()

    def _cancel_elsewhere(self, executor: str, workflow_id: str) -> None:
        try:
            ray.get_actor(executor, namespace=names.NAMESPACE).cancel.remote(workflow_id)
        except ValueError:
            # One of a single workflow, not there yet or not any more: the schedule is looked at again.
            log.info("executor %s is not there to cancel workflow_id=%s", executor, workflow_id)

    def _say_task(self, row: WorkflowRow, task_id: str, status: str) -> None:
        self._say.append(f"Task status [{status}]\t[{row.workflow_id}@{task_id}]")

    def _tell_alarm(self, due_unix_s: float | None) -> None:
        """Have the management actor wake us in time. It reads the timers itself when it starts."""
        if due_unix_s is None:
            return
        if self._told_unix_s is None or due_unix_s < self._told_unix_s or self._told_unix_s <= time.time():
            self._told_unix_s = due_unix_s
            self._launcher.management.note_deadline.remote(due_unix_s)
