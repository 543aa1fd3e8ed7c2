"""What an executor does between its inbox and its commands, without Ray, threads or a clock.

Rules of this room:

1. All operations of a batch are one transaction; the commands it returns may be
   carried out because the transaction is durable.
2. Before a run is touched, its lease is checked in that same transaction. A run
   that somebody else has leased is dropped from memory and nothing is written.
3. When a commit fails, every run that it touched is dropped from memory: the
   store is right, memory was ahead of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from holdfast.actors import names
from holdfast.actors.held_runs import SNAPSHOT_SAVES, Held, HeldRuns, change_status
from holdfast.actors.names import process_setting
from holdfast.actors.new_workflow import new_row
from holdfast.actors.operations import (
    Accepted,
    AdmitQueued,
    Batch,
    Cancel,
    Delete,
    Deliver,
    Elsewhere,
    FireTimer,
    GiveUp,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    StartFrom,
    Submit,
    Subscribe,
    Unsubscribe,
    Wake,
)
from holdfast.actors.refusal import Refusal
from holdfast.actors.schedule_messages import DropSchedule, FireSchedule, KeepSchedule, SteerSchedule
from holdfast.actors.schedule_operations import Schedules, Workflows
from holdfast.actors.source_reading import SourceReading
from holdfast.actors.workflow_queue import WorkflowQueue
from holdfast.engine.commands import AcknowledgeEvent
from holdfast.engine.errors import (
    ExecutorReplacedError,
    HoldfastError,
    StorageCorruptError,
    WorkflowDefectError,
    WorkflowEndedError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
)
from holdfast.engine.queueing import Admission
from holdfast.engine.records import EventTaken, TimerSet, WorkflowEnded
from holdfast.engine.run import Run
from holdfast.engine.signals import CancelRequested, EventReceived, TimerDue
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.engine.virtual_actor_errors import IdTakenError
from holdfast.listeners.forms import arguments_of
from holdfast.storage import event_readers, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.answered import find_answer, save_answer
from holdfast.storage.interface import KeyValueStore, WriteTransaction
from holdfast.storage.payload import Payload
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")


class ExecutorCore:
    """Drives the workflows of one executor over a store.

    Args:
        kv: The store.
        name: The executor's name, under which it holds leases.
        process: (process id, start time) that the store has for this name as long as this process is the one that
            bears it; None where there is only one.
        link_blobs: Gives the blobs of one group to another one too, for runs of schedules; None where there are none.
        snapshot_saves: How many records fewer a load from a snapshot must read for the snapshot to be written.
    """

    def __init__(
        self,
        kv: KeyValueStore,
        name: str,
        process: Sequence[int] | None = None,
        link_blobs: Callable[[str, str], None] | None = None,
        *,
        snapshot_saves: float = SNAPSHOT_SAVES,
    ) -> None:
        self.name = name
        self._process = process
        self._kv = kv
        self._runs = HeldRuns(name, snapshot_saves)
        self._sources = SourceReading(self._runs)
        self._queue = WorkflowQueue(self._runs, self._sources)
        workflows = Workflows(
            submit=self._submit,
            cancel=self._cancel,
            resume=lambda txn, workflow_id: self._resume(txn, workflow_id, "", False),
        )
        self._schedules = Schedules(kv.url, workflows, link_blobs, starts=not names.is_dedicated(name))

    @property
    def held(self) -> dict[int, Held]:
        """The runs in memory, by the number of their workflow."""
        return self._runs.held

    @property
    def working_on(self) -> int | None:
        """The workflow that was being worked on when `perform` raised; None when it was none of them."""
        return self._runs.working_on

    def perform(self, operations: Sequence[Operation], now_unix_s: float) -> Batch:
        """Carry out operations in one transaction.

        Args:
            operations: In order. Each is refused or done by itself.
            now_unix_s: The time.

        Returns:
            Outcomes and commands; durable.

        Raises:
            StorageError: The commit failed; nothing was done, and the runs it touched are not held any more.
            ExecutorReplacedError: Another process bears this executor's name; nothing was done.
            Exception: A defect; nothing was done, and `working_on` says where it showed.
        """
        runs = self._runs
        runs.begin(now_unix_s)
        self._queue.begin()
        try:
            with self._kv.write() as txn:
                runs.enter(txn)
                self._check_process(txn)
                for operation in operations:
                    runs.batch.outcomes.append(self._perform(txn, operation))
                    self._sources.read_all(txn)
                    runs.working_on = None
                if self._queue.has_work:
                    self._queue.fill_places(txn, self._schedules)
                runs.put_idle_away(txn)
        except BaseException:
            runs.forget_touched()
            raise
        finally:
            runs.leave()
        return runs.batch

    def _check_process(self, txn: WriteTransaction) -> None:
        """A process that was stopped, replaced and woken must not take leases back: it could under the same name."""
        if self._process is not None and store.load_setting(txn, process_setting(self.name)) != list(self._process):
            raise ExecutorReplacedError(self.name)

    def _perform(self, txn: WriteTransaction, operation: Operation) -> Outcome:
        try:
            match operation:
                case Deliver():
                    return self._deliver(txn, operation)
                case Submit():
                    return self._submit(txn, operation)
                case Resume():
                    return self._resume(txn, operation.workflow_id, operation.nonce, operation.dedicated)
                case Cancel():
                    return self._answer_once(txn, operation, self._cancel)
                case Delete():
                    return self._answer_once(txn, operation, self._delete)
                case Post():
                    return self._post(txn, operation)
                case FireTimer():
                    return self._fire_timer(txn, operation)
                case Recover():
                    return self._recover(txn, operation.seq)
                case Wake():
                    return self._sources.wake(txn, operation.seq)
                case StartFrom():
                    return self._start_from(txn, operation)
                case Subscribe():
                    return self._subscribe(txn, operation)
                case Unsubscribe():
                    known = subscriptions.unsubscribe(txn, operation.name)
                    return Accepted(seq=-1, status=WorkflowStatus.NONE, fresh=known)
                case GiveUp():
                    return self._give_up(txn, operation)
                case AdmitQueued():
                    self._queue.admit_queued(txn)
                    return Accepted(seq=-1, status=WorkflowStatus.NONE)
                case KeepSchedule() | FireSchedule() | SteerSchedule() | DropSchedule():
                    return self._schedules.perform(txn, operation, self._runs.batch, self._runs.now)
        except Refusal as refusal:
            return refusal.error

    # -- operations ----------------------------------------------------------------------------------------------

    def _submit(self, txn: WriteTransaction, submit: Submit) -> Outcome:
        known = self._find(txn, submit.workflow_id)
        if known is not None:
            return self._submit_known(txn, submit, known)
        if store.was_deleted(txn, submit.nonce):
            # Ray repeats a call whose executor died: what it had done may have been deleted meanwhile.
            raise Refusal(WorkflowNotFoundError(submit.workflow_id, self._kv.url))
        if store.is_actors(txn, submit.workflow_id):
            raise Refusal(IdTakenError(submit.workflow_id, "virtual actor"))
        admission = self._queue.decide(txn)
        try:
            run, step = Run.create(submit.workflow_id, submit.graph, self._runs.now)
        except HoldfastError as error:
            raise Refusal(error) from error
        row = store.create(txn, new_row(submit, self.name, admission, self._runs.now))
        if admission is Admission.QUEUED or submit.dedicated:
            # Only the graph of the first step is kept: what it would start is found again when its time comes.
            store.write_records(txn, row, [r for r in step.records if not isinstance(r, TimerSet)][:1])
            if admission is Admission.QUEUED:
                store.save(txn, replace(row, queue_number=store.enqueue(txn, row.seq)))
            else:
                self._queue.hand_over(txn, row)
        else:
            held = Held(run, row, store.take_lease(txn, row.seq, self.name))
            self._runs.hold(held)
            self._runs.write(txn, held, step)
        return Accepted(seq=row.seq, status=row.status)

    def _find(self, txn: WriteTransaction, workflow_id: str) -> WorkflowRow | None:
        """The workflow of an id. A damaged row refuses what is asked of it, and nothing else."""
        try:
            return store.find(txn, workflow_id)
        except StorageCorruptError as error:
            raise Refusal(error) from error

    def _submit_known(self, txn: WriteTransaction, submit: Submit, row: WorkflowRow) -> Outcome:
        again = submit.nonce in (row.nonce, row.resumed_by)
        if again and row.executor == self.name and store.is_held_by(txn, row.seq, self.name):
            # Whoever wrote it down, and was to tell of it, may have died before that.
            self._recover(txn, row.seq)
        if again or row.status is WorkflowStatus.SUCCESSFUL:
            return Accepted(seq=row.seq, status=row.status, fresh=again)
        if row.status.active:
            raise Refusal(
                RuntimeError(
                    f"Workflow[id={row.workflow_id}] is already {row.status.value.lower()}. Wait for it with "
                    f"workflow.get_output({row.workflow_id!r}), or choose another id."
                )
            )
        return self._resume(txn, submit.workflow_id, submit.nonce, submit.dedicated or None)

    def _resume(self, txn: WriteTransaction, workflow_id: str, nonce: str, asked: bool | None) -> Outcome:
        row = self._find(txn, workflow_id)
        if row is None:
            raise Refusal(WorkflowNotResumableError(workflow_id))
        if nonce and row.resumed_by == nonce:
            # Done before, by a process that died before it could say so.
            return Accepted(seq=row.seq, status=row.status)
        if row.status.active:
            raise Refusal(RuntimeError(f"Workflow[id={workflow_id}] is already {row.status.value.lower()}."))
        if row.status is WorkflowStatus.SUCCESSFUL:
            return Accepted(seq=row.seq, status=row.status, fresh=False)
        if row.status is WorkflowStatus.CANCELED:
            raise Refusal(WorkflowNotResumableError(workflow_id, "it was cancelled; delete it to run the id afresh"))
        admission = self._queue.decide(txn, ran_before=row.status is WorkflowStatus.RESUMABLE)
        store.forget_failures(txn, row.seq)
        row = replace(row, resumed_by=nonce)
        executor = self.name
        dedicated = row.dedicated if asked is None else asked
        if dedicated:
            # Not the name it had before: an actor that is being ended may still have that.
            executor = names.dedicated_executor_name(row.nonce, store.current_epoch(txn, row.seq) + 1)
        if admission is Admission.QUEUED:
            number = store.enqueue(txn, row.seq)
            row = change_status(txn, row, StatusSignal.QUEUED, queue_number=number, executor=executor)
        else:
            row = change_status(
                txn, row, StatusSignal.ADMITTED, started_unix_s=self._runs.now, executor=executor, ended_unix_s=None
            )
            if dedicated:
                self._queue.hand_over(txn, row)
            else:
                self._runs.load(txn, row)
        self._schedules.run_resumed(txn, row, self._runs.now)
        return Accepted(seq=row.seq, status=row.status)

    def _answer_once(
        self, txn: WriteTransaction, request: Cancel | Delete, do: Callable[[WriteTransaction, str], Outcome]
    ) -> Outcome:
        """Do what is asked, and keep the answer: Ray repeats a call when the process dies in it.

        Done again, it could meet another workflow that has got the id meanwhile, or none.
        """
        if request.nonce:
            answered = find_answer(txn, request.nonce)
            if answered is not None:
                seq, status = answered
                return Accepted(seq=seq, status=status)
        outcome = do(txn, request.workflow_id)
        if request.nonce and isinstance(outcome, Accepted):
            save_answer(txn, request.nonce, outcome.seq, outcome.status, self._runs.now)
        return outcome

    def _cancel(self, txn: WriteTransaction, workflow_id: str) -> Outcome:
        row = self._find(txn, workflow_id)
        if row is None:
            raise Refusal(WorkflowNotFoundError(workflow_id, self._kv.url))
        if row.status in (WorkflowStatus.SUCCESSFUL, WorkflowStatus.CANCELED):
            return Accepted(seq=row.seq, status=row.status, fresh=False)
        if row.status is WorkflowStatus.RUNNING:
            if row.executor != self.name:
                return Elsewhere(executor=row.executor)
            held = self._runs.take(txn, row.seq) or self._runs.load(txn, row)
            self._runs.apply(txn, held, CancelRequested())
            return Accepted(seq=row.seq, status=held.run.status)
        if row.queue_number is not None:
            store.leave_queue(txn, row.queue_number)
        # One that had failed before keeps the time of its end.
        ended_unix_s = self._runs.now if row.ended_unix_s is None else row.ended_unix_s
        row = change_status(txn, row, StatusSignal.CANCEL_REQUESTED, queue_number=None, ended_unix_s=ended_unix_s)
        event_readers.forget_reader(txn, row.seq, cursors=True)
        self._runs.batch.ended.append(row)
        return Accepted(seq=row.seq, status=row.status)

    def _delete(self, txn: WriteTransaction, workflow_id: str) -> Outcome:
        try:
            row = store.find(txn, workflow_id)
        except StorageCorruptError as error:
            log.error("deleting a workflow that cannot be read workflow_id=%s error=%s", workflow_id, error)
            seq = store.delete_damaged(txn, workflow_id)
            event_readers.forget_reader(txn, seq, cursors=True)
            self._runs.held.pop(seq, None)
            self._runs.batch.lost.append(seq)
            return Accepted(seq=seq, status=WorkflowStatus.NONE)
        if row is None:
            raise Refusal(WorkflowNotFoundError(workflow_id, self._kv.url))
        if row.status.active:
            raise Refusal(WorkflowStillActiveError("DELETE", workflow_id))
        event_readers.forget_reader(txn, row.seq, cursors=True)
        store.delete(txn, row, self._runs.now)
        self._runs.batch.deleted.append(row)
        return Accepted(seq=row.seq, status=WorkflowStatus.NONE)

    def _post(self, txn: WriteTransaction, post: Post) -> Outcome:
        row = self._find(txn, post.workflow_id)
        if row is None:
            raise Refusal(WorkflowNotFoundError(post.workflow_id, self._kv.url))
        if post.dedupe_id is not None and store.has_event(txn, row.seq, post.dedupe_id):
            # Also when it has ended by now: whoever repeats this was not told that it was taken.
            taken_of_this = store.took_event_of(txn, row.seq, post.dedupe_id, post.nonce)
            return Accepted(seq=row.seq, status=row.status, fresh=taken_of_this)
        if row.status in (WorkflowStatus.SUCCESSFUL, WorkflowStatus.CANCELED):
            raise Refusal(WorkflowEndedError(post.workflow_id, row.status.value))
        if row.status is WorkflowStatus.RUNNING and row.executor != self.name:
            return Elsewhere(executor=row.executor)
        held = self._runs.take(txn, row.seq)
        number = store.add_event(txn, row.seq, post.stream, post.value, dedupe_id=post.dedupe_id, nonce=post.nonce)
        logged, commands = len(self._runs.batch.logged), len(self._runs.batch.commands)
        if number is not None and row.status is WorkflowStatus.RUNNING:
            if held is None:
                # Loading reads the inbox, with the event in it.
                self._runs.load(txn, row)
            else:
                signal = EventReceived(stream=post.stream, number=number, value=post.value)
                self._runs.apply(txn, held, signal)
        taken_by = {
            record.task
            for _, record in self._runs.batch.logged[logged:]
            if isinstance(record, EventTaken) and record.number == number
        }
        acknowledging = [
            command.task
            for _, command in self._runs.batch.commands[commands:]
            if isinstance(command, AcknowledgeEvent) and command.task in taken_by
        ]
        return Accepted(
            seq=row.seq,
            status=row.status,
            fresh=number is not None,
            acknowledging=acknowledging[0] if acknowledging else None,
        )

    def _deliver(self, txn: WriteTransaction, deliver: Deliver) -> Outcome:
        held = self._runs.take(txn, deliver.seq)
        if held is None or deliver.epoch not in (None, held.epoch):
            return Accepted(seq=deliver.seq, status=WorkflowStatus.NONE, fresh=False)
        self._runs.apply(txn, held, deliver.signal)
        return Accepted(seq=deliver.seq, status=held.run.status)

    def _fire_timer(self, txn: WriteTransaction, fire: FireTimer) -> Outcome:
        try:
            row = store.get(txn, fire.seq)
        except StorageCorruptError as error:
            log.error("a timer is dropped task=%d error=%s", fire.task, error)
            store.drop_timer(txn, fire.due_unix_s, fire.seq, fire.task)
            return error
        if row is not None and row.status is WorkflowStatus.RUNNING:
            if row.executor != self.name:
                return Elsewhere(executor=row.executor)
            if self._runs.now < fire.due_unix_s:
                return Accepted(seq=fire.seq, status=row.status, fresh=False)
            if self._runs.take(txn, fire.seq) is None:
                self._runs.load(txn, row)
            # An event that is there counts as in time, though nobody has told of it yet.
            self._sources.read_woken(txn, fire.seq)
            self._sources.read_all(txn)
            held = self._runs.take(txn, fire.seq)
            if held is not None:
                signal = TimerDue(task=fire.task, due_unix_s=fire.due_unix_s)
                self._runs.apply(txn, held, signal)
        store.drop_timer(txn, fire.due_unix_s, fire.seq, fire.task)
        return Accepted(seq=fire.seq, status=WorkflowStatus.NONE if row is None else row.status)

    def _recover(self, txn: WriteTransaction, seq: int) -> Outcome:
        try:
            row = store.get(txn, seq)
        except StorageCorruptError as error:
            log.error("a workflow is not taken up: %s", error)
            store.put_away(txn, seq, self.name)
            return error
        if row is None or row.status is not WorkflowStatus.RUNNING:
            store.put_away(txn, seq, self.name)
            return Accepted(seq=seq, status=WorkflowStatus.NONE if row is None else row.status, fresh=False)
        if row.executor != self.name:
            return Elsewhere(executor=row.executor)
        if self._runs.take(txn, seq) is None:
            self._runs.load(txn, row)
        return Accepted(seq=seq, status=row.status)

    def _give_up(self, txn: WriteTransaction, give_up: GiveUp) -> Outcome:
        seq = give_up.seq
        try:
            row = store.get(txn, seq)
        except StorageCorruptError as error:
            store.put_away(txn, seq, self.name)
            return error
        if row is None or not row.status.active:
            store.put_away(txn, seq, self.name)
            return Accepted(seq=seq, status=WorkflowStatus.NONE if row is None else row.status, fresh=False)
        if row.status is WorkflowStatus.RUNNING and row.executor != self.name:
            return Elsewhere(executor=row.executor)
        if row.queue_number is not None:
            store.leave_queue(txn, row.queue_number)
            row = change_status(txn, row, StatusSignal.ADMITTED, started_unix_s=self._runs.now)
        self._runs.held.pop(seq, None)
        # Nothing of the run is asked: its rows may be what is wrong.
        ended = WorkflowEnded(
            status=next_status(row.status, StatusSignal.TASK_FAILED),
            ended_unix_s=self._runs.now,
            error=WorkflowDefectError(row.workflow_id, give_up.problem),
        )
        row = store.write_records(txn, row, [ended])
        event_readers.forget_reader(txn, seq, cursors=False)
        self._runs.batch.ended.append(row)
        return Accepted(seq=seq, status=row.status)

    # -- rules ---------------------------------------------------------------------------------------------------

    def _subscribe(self, txn: WriteTransaction, subscribe: Subscribe) -> Outcome:
        try:
            kept, new = subscriptions.subscribe(txn, subscribe.subscription, self._runs.now)
        except ValueError as error:
            raise Refusal(error) from error
        if new:
            self._runs.batch.sources.append(kept.source)
        return Accepted(seq=-1, status=WorkflowStatus.NONE)

    def _start_from(self, txn: WriteTransaction, start: StartFrom) -> Outcome:
        rule = subscriptions.get_subscription(txn, start.subscription)
        event = subscriptions.is_to_start(txn, start.subscription, start.event)
        if rule is None or event is None or rule.actor is not None:
            return Accepted(seq=-1, status=WorkflowStatus.NONE, fresh=False)
        known = self._find(txn, start.workflow_id)
        if known is not None:
            subscriptions.note_started(txn, rule, start.event, repeated=True)
            return Accepted(seq=known.seq, status=known.status, fresh=False)
        (node,) = rule.graph.nodes
        arguments = Payload(arguments_of(event.note, event.key, event.value))
        submit = Submit(
            workflow_id=start.workflow_id,
            nonce=subscriptions.submission_nonce(rule.number, start.event),
            graph=replace(rule.graph, nodes=(replace(node, arguments=arguments),)),
            user_metadata=rule.user_metadata,
            environment=rule.environment,
        )
        outcome = self._submit(txn, submit)
        subscriptions.note_started(txn, rule, start.event, repeated=False)
        return outcome
