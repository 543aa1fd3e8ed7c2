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
import queue
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from holdfast.actors import names
from holdfast.actors.names import process_setting
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
from holdfast.engine.commands import AcknowledgeEvent
from holdfast.engine.errors import (
    ExecutorReplacedError,
    HoldfastError,
    StaleLeaseError,
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
from holdfast.engine.step import Step
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.listeners.forms import arguments_of, payload_of
from holdfast.storage import event_readers, schedule_store, snapshots, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.answered import find_answer, forget_all_answers, save_answer
from holdfast.storage.interface import KeyValueStore, WriteTransaction
from holdfast.storage.payload import Payload
from holdfast.storage.workflow_row import WorkflowRow

SNAPSHOT_SAVES = 50
"""How many records fewer loading must read for a snapshot to be worth writing: a short sleeper never has one."""

log = logging.getLogger("holdfast")


@dataclass(slots=True)
class Held:
    """A run in memory, under the lease that lets its records be written."""

    run: Run
    row: WorkflowRow
    epoch: int


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
        self.held: dict[int, Held] = {}
        self.working_on: int | None = None
        """The workflow that was being worked on when `perform` raised; None when it was none of them."""
        self._kv = kv
        self._touched: dict[int, None] = {}
        self._batch = Batch()
        self._now = 0.0
        self._queued = False
        self._to_read: deque[tuple[int, tuple[str, str]]] = deque()
        self._snapshot_saves = snapshot_saves
        self._transaction: WriteTransaction | None = None
        runs = Workflows(
            submit=self._submit,
            cancel=self._cancel,
            resume=lambda txn, workflow_id: self._resume(txn, workflow_id, "", False),
        )
        self._schedules = Schedules(kv.url, runs, link_blobs, starts=not names.is_dedicated(name))

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
        self.working_on = None
        self._batch, self._touched, self._now, self._queued = Batch(), {}, now_unix_s, False
        self._to_read.clear()
        try:
            with self._kv.write() as txn:
                self._transaction = txn
                self._check_process(txn)
                for operation in operations:
                    self._batch.outcomes.append(self._perform(txn, operation))
                    self._read_sources(txn)
                    self.working_on = None
                if self._batch.ended or self._batch.deleted or self._queued:
                    self._fill_places(txn)
                self.working_on = None
                self._put_idle_away(txn)
        except BaseException:
            for seq in self._touched:
                self.held.pop(seq, None)
            if self.working_on is not None:
                self.held.pop(self.working_on, None)
            raise
        finally:
            self._transaction = None
        return self._batch

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
                    return self._wake(txn, operation.seq)
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
                    self._admit_queued(txn)
                    return Accepted(seq=-1, status=WorkflowStatus.NONE)
                case KeepSchedule() | FireSchedule() | SteerSchedule() | DropSchedule():
                    return self._schedules.perform(txn, operation, self._batch, self._now)
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
        admission = self._decide(txn)
        try:
            run, step = Run.create(submit.workflow_id, submit.graph, self._now)
        except HoldfastError as error:
            raise Refusal(error) from error
        row = WorkflowRow(
            seq=0,
            workflow_id=submit.workflow_id,
            status=next_status(
                WorkflowStatus.NONE,
                StatusSignal.ADMITTED if admission is Admission.ADMITTED else StatusSignal.QUEUED,
            ),
            executor=names.dedicated_executor_name(submit.nonce, 1) if submit.dedicated else self.name,
            user_metadata=submit.user_metadata,
            submitted_unix_s=self._now,
            started_unix_s=self._now if admission is Admission.ADMITTED else None,
            nonce=submit.nonce,
            environment=submit.environment,
            dedicated=submit.dedicated,
            schedule=submit.schedule,
        )
        row = store.create(txn, row)
        if admission is Admission.QUEUED or submit.dedicated:
            # Only the graph of the first step is kept: what it would start is found again when its time comes.
            store.write_records(txn, row, [r for r in step.records if not isinstance(r, TimerSet)][:1])
            if admission is Admission.QUEUED:
                store.save(txn, replace(row, queue_number=store.enqueue(txn, row.seq)))
            else:
                self._hand_over(txn, row)
        else:
            held = Held(run, row, store.take_lease(txn, row.seq, self.name))
            self._hold(held)
            self._write(txn, held, step)
        return Accepted(seq=row.seq, status=row.status)

    def _find(self, txn: WriteTransaction, workflow_id: str) -> WorkflowRow | None:
        """The workflow of an id. A damaged row refuses what is asked of it, and nothing else."""
        try:
            return store.find(txn, workflow_id)
        except StorageCorruptError as error:
            raise Refusal(error) from error

    def _submit_known(self, txn: WriteTransaction, submit: Submit, row: WorkflowRow) -> Outcome:
        again = submit.nonce in (row.nonce, row.resumed_by)
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
        admission = self._decide(txn, ran_before=row.status is WorkflowStatus.RESUMABLE)
        store.forget_failures(txn, row.seq)
        row = replace(row, resumed_by=nonce)
        executor = self.name
        dedicated = row.dedicated if asked is None else asked
        if dedicated:
            # Not the name it had before: an actor that is being ended may still have that.
            executor = names.dedicated_executor_name(row.nonce, store.current_epoch(txn, row.seq) + 1)
        if admission is Admission.QUEUED:
            number = store.enqueue(txn, row.seq)
            row = self._change(txn, row, StatusSignal.QUEUED, queue_number=number, executor=executor)
        else:
            row = self._change(
                txn, row, StatusSignal.ADMITTED, started_unix_s=self._now, executor=executor, ended_unix_s=None
            )
            if dedicated:
                self._hand_over(txn, row)
            else:
                self._load(txn, row)
        self._schedules.run_resumed(txn, row, self._now)
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
            save_answer(txn, request.nonce, outcome.seq, outcome.status, self._now)
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
            held = self._take(txn, row.seq) or self._load(txn, row)
            self._write(txn, held, held.run.apply(CancelRequested(), self._now))
            return Accepted(seq=row.seq, status=held.run.status)
        if row.queue_number is not None:
            store.leave_queue(txn, row.queue_number)
        # One that had failed before keeps the time of its end.
        ended_unix_s = self._now if row.ended_unix_s is None else row.ended_unix_s
        row = self._change(txn, row, StatusSignal.CANCEL_REQUESTED, queue_number=None, ended_unix_s=ended_unix_s)
        event_readers.forget_reader(txn, row.seq, cursors=True)
        self._batch.ended.append(row)
        return Accepted(seq=row.seq, status=row.status)

    def _delete(self, txn: WriteTransaction, workflow_id: str) -> Outcome:
        try:
            row = store.find(txn, workflow_id)
        except StorageCorruptError as error:
            log.error("deleting a workflow that cannot be read workflow_id=%s error=%s", workflow_id, error)
            seq = store.delete_damaged(txn, workflow_id)
            event_readers.forget_reader(txn, seq, cursors=True)
            self.held.pop(seq, None)
            self._batch.lost.append(seq)
            return Accepted(seq=seq, status=WorkflowStatus.NONE)
        if row is None:
            raise Refusal(WorkflowNotFoundError(workflow_id, self._kv.url))
        if row.status.active:
            raise Refusal(WorkflowStillActiveError("DELETE", workflow_id))
        event_readers.forget_reader(txn, row.seq, cursors=True)
        store.delete(txn, row, self._now)
        self._batch.deleted.append(row)
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
        held = self._take(txn, row.seq)
        number = store.add_event(txn, row.seq, post.stream, post.value, dedupe_id=post.dedupe_id, nonce=post.nonce)
        logged, commands = len(self._batch.logged), len(self._batch.commands)
        if number is not None and row.status is WorkflowStatus.RUNNING:
            if held is None:
                # Loading reads the inbox, with the event in it.
                self._load(txn, row)
            else:
                signal = EventReceived(stream=post.stream, number=number, value=post.value)
                self._write(txn, held, held.run.apply(signal, self._now))
        taken_by = {
            record.task
            for _, record in self._batch.logged[logged:]
            if isinstance(record, EventTaken) and record.number == number
        }
        acknowledging = [
            command.task
            for _, command in self._batch.commands[commands:]
            if isinstance(command, AcknowledgeEvent) and command.task in taken_by
        ]
        return Accepted(
            seq=row.seq,
            status=row.status,
            fresh=number is not None,
            acknowledging=acknowledging[0] if acknowledging else None,
        )

    def _deliver(self, txn: WriteTransaction, deliver: Deliver) -> Outcome:
        held = self._take(txn, deliver.seq)
        if held is None or deliver.epoch not in (None, held.epoch):
            return Accepted(seq=deliver.seq, status=WorkflowStatus.NONE, fresh=False)
        self._write(txn, held, held.run.apply(deliver.signal, self._now))
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
            if self._now < fire.due_unix_s:
                return Accepted(seq=fire.seq, status=row.status, fresh=False)
            if self._take(txn, fire.seq) is None:
                self._load(txn, row)
            # An event that is there counts as in time, though nobody has told of it yet.
            self._to_read.extend((fire.seq, stream) for stream in event_readers.woken(txn, fire.seq))
            self._read_sources(txn)
            held = self._take(txn, fire.seq)
            if held is not None:
                signal = TimerDue(task=fire.task, due_unix_s=fire.due_unix_s)
                self._write(txn, held, held.run.apply(signal, self._now))
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
        if self._take(txn, seq) is None:
            self._load(txn, row)
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
            row = self._change(txn, row, StatusSignal.ADMITTED, started_unix_s=self._now)
        self.held.pop(seq, None)
        # Nothing of the run is asked: its rows may be what is wrong.
        ended = WorkflowEnded(
            status=next_status(row.status, StatusSignal.TASK_FAILED),
            ended_unix_s=self._now,
            error=WorkflowDefectError(row.workflow_id, give_up.problem),
        )
        row = store.write_records(txn, row, [ended])
        event_readers.forget_reader(txn, seq, cursors=False)
        self._batch.ended.append(row)
        return Accepted(seq=seq, status=row.status)

    # -- outside sources -----------------------------------------------------------------------------------------

    def _wake(self, txn: WriteTransaction, seq: int) -> Outcome:
        try:
            row = store.get(txn, seq)
        except StorageCorruptError as error:
            log.error("a workflow is not woken: %s", error)
            event_readers.forget_reader(txn, seq, cursors=False)
            return error
        if row is None or row.status is not WorkflowStatus.RUNNING:
            # Whoever takes it up again reads on from where it was.
            event_readers.forget_reader(txn, seq, cursors=False)
            return Accepted(seq=seq, status=WorkflowStatus.NONE if row is None else row.status, fresh=False)
        if row.executor != self.name:
            return Elsewhere(executor=row.executor)
        if self._take(txn, seq) is None:
            # What it waits for is read with it.
            self._load(txn, row)
        self._to_read.extend((seq, stream) for stream in event_readers.woken(txn, seq))
        return Accepted(seq=seq, status=row.status)

    def _read_sources(self, txn: WriteTransaction) -> None:
        """Give runs the events that they wait for: in a loop, since an event may lead to the next wait at once."""
        while self._to_read:
            seq, stream = self._to_read.popleft()
            held = self._take(txn, seq)
            if held is None:
                # It has ended by another event, or somebody else drives it.
                continue
            if not held.run.awaits(stream):
                event_readers.stop_waiting(txn, seq, stream)
                continue
            event, new_source = event_readers.pull(txn, held.row, stream)
            if new_source is not None:
                self._batch.sources.append(new_source)
            if event is None:
                continue
            value = Payload(payload_of(event.note, event.key, event.value))
            number = store.add_event(txn, seq, stream, value)
            assert number is not None
            signal = EventReceived(stream=stream, number=number, value=value)
            # Others may wait on the same stream.
            self._to_read.append((seq, stream))
            self._write(txn, held, held.run.apply(signal, self._now))

    def _subscribe(self, txn: WriteTransaction, subscribe: Subscribe) -> Outcome:
        try:
            kept, new = subscriptions.subscribe(txn, subscribe.subscription, self._now)
        except ValueError as error:
            raise Refusal(error) from error
        if new:
            self._batch.sources.append(kept.source)
        return Accepted(seq=-1, status=WorkflowStatus.NONE)

    def _start_from(self, txn: WriteTransaction, start: StartFrom) -> Outcome:
        rule = subscriptions.get_subscription(txn, start.subscription)
        event = subscriptions.is_to_start(txn, start.subscription, start.event)
        if rule is None or event is None:
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

    # -- queue ---------------------------------------------------------------------------------------------------

    def _decide(self, txn: WriteTransaction, *, ran_before: bool = False) -> Admission:
        admission = store.load_limits(txn).decide(
            running=store.count(txn, WorkflowStatus.RUNNING),
            pending=store.count(txn, WorkflowStatus.PENDING),
            ran_before=ran_before,
        )
        if admission is Admission.REFUSED:
            raise Refusal(queue.Full("Workflow queue has been full"))
        if admission is Admission.QUEUED:
            # Those before it may wait for nobody: they were queued when the last cluster was lost.
            self._queued = True
        return admission

    def _fill_places(self, txn: WriteTransaction) -> None:
        """Start what is queued, and what schedules let wait for the end of a run.

        One that finds its event there may end at once, and leave its place to the next.
        """
        ended, told = self._batch.ended, 0
        self._schedules.runs_over(txn, self._batch.deleted, self._batch, self._now)
        while True:
            self._queued = False
            self._admit_queued(txn)
            over, told = ended[told:], len(ended)
            self._schedules.runs_over(txn, over, self._batch, self._now)
            self._read_sources(txn)
            if told == len(ended) and not self._queued:
                return

    def _admit_queued(self, txn: WriteTransaction) -> None:
        limits = store.load_limits(txn)
        while limits.may_start(running=store.count(txn, WorkflowStatus.RUNNING)):
            first = store.first_queued(txn)
            if first is None:
                return
            number, seq = first
            store.leave_queue(txn, number)
            self.working_on = seq
            try:
                row = store.get(txn, seq)
            except StorageCorruptError as error:
                log.error("a queued workflow is passed over: %s", error)
                continue
            assert row is not None
            row = self._change(
                txn, row, StatusSignal.ADMITTED, started_unix_s=self._now, queue_number=None, ended_unix_s=None
            )
            if row.executor == self.name:
                self._load(txn, row)
            else:
                self._hand_over(txn, row)

    def _hand_over(self, txn: WriteTransaction, row: WorkflowRow) -> None:
        """Have another executor drive a workflow."""
        # That one finds it here even when the message about it is lost.
        store.take_lease(txn, row.seq, row.executor)
        self._batch.elsewhere.append((row.executor, row.seq))

    # -- runs ----------------------------------------------------------------------------------------------------

    def _take(self, txn: WriteTransaction, seq: int) -> Held | None:
        """The held run, its lease checked in this transaction; None when it is not held, or not any more."""
        self.working_on = seq
        held = self.held.get(seq)
        if held is None or seq in self._touched:
            return held
        try:
            store.check_lease(txn, seq, held.epoch, held.row.workflow_id)
        except StaleLeaseError:
            del self.held[seq]
            self._batch.lost.append(seq)
            return None
        self._touched[seq] = None
        return held

    def _hold(self, held: Held) -> None:
        self.held[held.row.seq] = held
        self._touched[held.row.seq] = None

    def _load(self, txn: WriteTransaction, row: WorkflowRow) -> Held:
        self.working_on = row.seq
        epoch = store.take_lease(txn, row.seq, self.name)
        image = snapshots.load_run(txn, row.seq, epoch)
        run, step = Run.load(row.workflow_id, image, self._now, partial(self._given_before, row.seq))
        held = Held(run, row, epoch)
        self._hold(held)
        self._write(txn, held, step)
        return held

    def _given_before(self, seq: int, task_id: str) -> bool:
        """Whether a task has this id. A run asks while it takes a signal, which it does in transactions only."""
        assert self._transaction is not None
        return store.has_task(self._transaction, seq, task_id)

    def _write(self, txn: WriteTransaction, held: Held, step: Step) -> None:
        held.row = store.write_records(txn, held.row, step.records)
        batch = self._batch
        for record in step.records:
            batch.logged.append((held.row, record))
            if isinstance(record, TimerSet) and (
                batch.earliest_due_unix_s is None or record.due_unix_s < batch.earliest_due_unix_s
            ):
                batch.earliest_due_unix_s = record.due_unix_s
        batch.commands.extend((held.row, command) for command in step.commands)
        self._to_read.extend((held.row.seq, stream) for stream in step.reads)
        if held.run.status.ended:
            event_readers.forget_reader(txn, held.row.seq, cursors=held.run.status is not WorkflowStatus.FAILED)
        if held.run.status.ended and self.held.pop(held.row.seq, None) is not None:
            batch.ended.append(held.row)

    def _put_idle_away(self, txn: WriteTransaction) -> None:
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
                self._batch.put_away.append(seq)
        self.working_on = None

    def _change(
        self,
        txn: WriteTransaction,
        row: WorkflowRow,
        signal: StatusSignal,
        *,
        executor: str | None = None,
        queue_number: int | None = None,
        started_unix_s: float | None = None,
        ended_unix_s: float | None = None,
    ) -> WorkflowRow:
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


def lose_cluster(kv: KeyValueStore, executors: Sequence[str]) -> int:
    """Mark what ran on a cluster that is gone as RESUMABLE. For a platform that starts on an old folder.

    Args:
        kv: The store.
        executors: Those of the new platform: what is queued is theirs from now on.

    Returns:
        How many workflows were running.
    """
    with kv.write() as txn:
        store.forget_deleted(txn)
        forget_all_answers(txn)
        for setting in store.settings_beginning(txn, process_setting("")):
            store.drop_setting(txn, setting)
        running = store.list_seqs(txn, WorkflowStatus.RUNNING)
        for seq in running:
            try:
                row = store.get(txn, seq)
            except StorageCorruptError as error:
                log.error("a workflow is left as it is: %s", error)
                store.let_go(txn, seq)
                continue
            assert row is not None
            changed = replace(row, status=next_status(row.status, StatusSignal.CLUSTER_LOST))
            store.save(txn, changed, was=row)
            store.put_away(txn, seq, row.executor)
        for row in store.list_by_ids(txn, store.list_seqs(txn, WorkflowStatus.PENDING)):
            if not names.is_dedicated(row.executor):
                store.save(txn, replace(row, executor=names.executor_for(row.workflow_id, executors)))
        schedule_store.wake_waiting(txn)
    return len(running)
