"""What a host of virtual actors does between its inbox and its commands, without Ray, threads or a clock.

Rules of this room, which are those of `executor_core`:

1. All operations of a batch are one transaction; the commands it returns may be carried out because that is durable.
   A batch that writes nothing (calls whose callers wait for the value) is no transaction of a writer at all: what
   comes of such a call is written when it takes effect.
2. Before an actor is touched, its lease is checked in that same transaction. One that another host has taken is
   dropped from memory and nothing is written.
3. When a commit fails, every actor that it touched is dropped from memory: the store is right, memory was ahead.
4. What readers get is what is committed, never what is in the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from holdfast.actors.names import process_setting
from holdfast.actors.refusal import Refusal
from holdfast.actors.virtual.activations import Activations, Held, Place, Readable
from holdfast.actors.virtual.intake import Intake, accepted, check_called
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorBatch,
    ActorDone,
    ActorOperation,
    ActorOutcome,
    CallFrom,
    CancelCall,
    ChangeReminder,
    CreateActor,
    DeleteActor,
    EndAttempt,
    EndSubWorkflow,
    FireDue,
    KeepCall,
    OtherHost,
    RecoverActor,
    ResetActor,
    ResumeActor,
    SweepDeleted,
    WithdrawCall,
)
from holdfast.actors.virtual.reminders import change_reminder
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor import VirtualActor
from holdfast.engine.virtual_actor_errors import (
    CallNotFoundError,
    HostReplacedError,
    IdTakenError,
    VirtualActorBusyError,
    VirtualActorError,
)
from holdfast.engine.virtual_actor_records import (
    Condition,
)
from holdfast.engine.virtual_actor_signals import (
    UNCHANGED,
    ActorReset,
    ActorSignal,
    Call,
    CallCancelled,
    CallKept,
    CallWithdrawn,
    HostDied,
    ResumeRequested,
    RunMethod,
    StartSubWorkflow,
)
from holdfast.storage import actor_store as store
from holdfast.storage import leases
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.answered import find_answer, save_answer
from holdfast.storage.interface import KeyValueStore, ReadTransaction, WriteTransaction
from holdfast.storage.settings import load_setting

ROWS_AT_ONCE = 2000
"""Rows of deleted actors that one transaction removes."""

log = logging.getLogger("holdfast")


class ActorCore:
    """Drives the virtual actors of one host over a store.

    Args:
        kv: The store.
        name: The host's name, under which it holds leases.
        place: Says which host an actor belongs to. Pure, and the same in every host.
        process: (process id, start time) that the store has for this name as long as this process is the one that
            bears it; None where there is only one.
        history: How many calls of an actor are kept that have ended.
    """

    def __init__(
        self,
        kv: KeyValueStore,
        name: str,
        place: Place,
        process: Sequence[int] | None = None,
        *,
        history: int = store.HISTORY,
    ) -> None:
        self.name = name
        self.dropped: list[int] = []
        """Actors that the last `perform` forgot because it raised: who waits for their calls has to ask again."""
        self._kv, self._process = kv, process
        self._actors = Activations(kv, name, place, history)
        self._intake = Intake(self._actors, kv.url, name)

    # -- what the host asks --------------------------------------------------------------------------------------

    def perform(self, operations: Sequence[ActorOperation], now_unix_s: float) -> ActorBatch:
        """Carry out operations in one transaction.

        Args:
            operations: In order. Each is refused or done by itself.
            now_unix_s: The time.

        Returns:
            Outcomes and commands; durable.

        Raises:
            StorageError: The commit failed; nothing was done, and the actors it touched (`dropped`) are not held any
                more. Those that have work are among `not_taken_up`.
            HostReplacedError: Another process bears this host's name; nothing was done.
            Exception: A defect; nothing was done, and `working_on` says where it showed.
        """
        actors = self._actors
        actors.begin(now_unix_s)
        self.dropped = []
        try:
            light = [self._light(operation) for operation in operations]
            if all(call is not None for call in light):
                with self._kv.read() as txn:
                    actors.reading = txn
                    for call in light:
                        assert call is not None
                        actors.batch.outcomes.append(_refusing(partial(self._accept_light, txn, *call)))
            else:
                self._write_all(operations)
        except BaseException:
            self.dropped = actors.undone()
            raise
        finally:
            actors.reading = None
        actors.committed()
        self._check_commands()
        return actors.batch

    def read(self, actor_id: str) -> Readable:
        """An actor as it is committed, for its read-only methods. Any thread may ask.

        Raises:
            VirtualActorNotFoundError: There is none.
            VirtualActorNotInitializedError: Its constructor is not done.
            VirtualActorQuarantinedError: Its code is not run.
            StorageCorruptError: Its row is damaged.
        """
        return self._actors.read(actor_id)

    def put_away(self, before_unix_s: float, most: int) -> list[int]:
        """Forget actors that nothing is lost by forgetting. Nothing is written: they are rows already.

        Args:
            before_unix_s: Those that nothing was done with since, in seconds since the epoch.
            most: How many may stay however short their rest has been, those used last.

        Returns:
            Numbers of those that left memory.
        """
        return self._actors.put_away(before_unix_s, most)

    def not_taken_up(self) -> list[int]:
        """Numbers of the actors that are this host's, have work, and are not driven here: `RecoverActor` takes them up.

        Semantics: also one that is in memory under a lease that is gone: it was another host's meanwhile, which gave it
        back. Whoever looks for what is not in memory would never find it, should the message about it be lost.
        """
        with self._kv.read() as txn:
            mine = leases.held_by(txn, self.name)
            return [seq for seq in mine if not self.is_current(seq, leases.current_epoch(txn, seq))]

    @property
    def working_on(self) -> int | None:
        """The actor that was being worked on when `perform` raised; None when it was none of them."""
        return self._actors.working_on

    @property
    def held(self) -> Mapping[int, Held]:
        """The actors in memory, by number; those used last at the end."""
        return self._actors.held

    def is_wanted(self, seq: int, epoch: int, call: tuple[int, int]) -> bool:
        """Whether an attempt, (number, attempt) of its call, is still wanted under this lease."""
        held = self._actors.held.get(seq)
        return held is not None and held.epoch == epoch and held.machine.running == call

    def is_current(self, seq: int, epoch: int) -> bool:
        """Whether an actor is held under this lease: what was started under another is not waited for any more."""
        held = self._actors.held.get(seq)
        return held is not None and held.epoch == epoch

    # -- one batch -----------------------------------------------------------------------------------------------

    def _light(self, operation: ActorOperation) -> tuple[AcceptCall, Held] | None:
        """A call that writes nothing by being accepted: nobody is told, and its actor is at hand and sound."""
        if not isinstance(operation, AcceptCall) or operation.logged or operation.accepted >= 0:
            return None
        held = self._actors.held_by_id(operation.actor_id)
        if held is None or held.machine.standing.condition is not Condition.SOUND or not self._actors.is_mine(held):
            return None
        return operation, held

    def _accept_light(self, txn: ReadTransaction, accept: AcceptCall, held: Held) -> ActorOutcome:
        seq = held.row.seq
        if self._actors.take(txn, seq) is not held:
            # Whoever has it now is asked by whoever asked us.
            return OtherHost(host=self._actors.place(held.row))
        check_called(held.row, accept.class_name)
        known = self._intake.known_call(txn, held, accept.call)
        if known is not None:
            return known
        step = held.machine.apply(Call(spec=accept.call, logged=False), self._actors.now_unix_s)
        assert not step.records, "a call that is not durable is not written"
        self._actors.batch.commands.extend((held.row, held.epoch, command) for command in step.commands)
        return accepted(seq, step.accepted)

    def _write_all(self, operations: Sequence[ActorOperation]) -> None:
        actors = self._actors
        with self._kv.write() as txn:
            actors.reading = txn
            if self._process is not None and load_setting(txn, process_setting(self.name)) != list(self._process):
                raise HostReplacedError(self.name)
            for operation in operations:
                actors.batch.outcomes.append(_refusing(partial(self._perform, txn, operation)))
                actors.working_on = None
            actors.list_touched(txn)

    def _perform(self, txn: WriteTransaction, operation: ActorOperation) -> ActorOutcome:
        match operation:
            case AcceptCall():
                return self._intake.accept(txn, operation)
            case CreateActor():
                return self._intake.create(txn, operation)
            case EndAttempt():
                return self._end_attempt(txn, operation)
            case EndSubWorkflow():
                return self._signal(txn, operation.seq, operation.signal)
            case FireDue():
                return self._intake.fire_due(txn, operation.seq)
            case ResumeActor():
                return self._resume(txn, operation)
            case CancelCall():
                return self._cancel(txn, operation)
            case ResetActor():
                return self._reset(txn, operation)
            case DeleteActor():
                return self._delete(txn, operation)
            case SweepDeleted():
                self._sweep(txn)
                return ActorDone(seq=-1)
            case WithdrawCall():
                return self._withdraw(txn, operation)
            case KeepCall():
                return self._signal(txn, operation.seq, CallKept(number=operation.number))
            case ChangeReminder():
                return self._intake.change_reminder(txn, operation)
            case CallFrom():
                return self._intake.call_from(txn, operation)
            case RecoverActor():
                return self._recover(txn, operation)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _end_attempt(self, txn: WriteTransaction, end: EndAttempt) -> ActorOutcome:
        held = self._actors.take(txn, end.seq)
        if held is None or held.epoch != end.epoch:
            return ActorDone(seq=end.seq, fresh=False)
        version = held.machine.standing.version
        fresh = held.machine.running == (end.signal.number, end.signal.attempt)
        self._actors.write(txn, held, held.machine.apply(end.signal, self._actors.now_unix_s))
        if held.machine.standing.version != version:
            for change in end.reminders:
                self._actors.note_due(change_reminder(txn, end.seq, change, self._actors.now_unix_s))
        return ActorDone(seq=end.seq, fresh=fresh)

    def _signal(self, txn: WriteTransaction, seq: int, signal: ActorSignal) -> ActorOutcome:
        held = self._actors.hold(txn, self._actors.get(txn, seq))
        if isinstance(held, OtherHost):
            return held
        self._actors.write(txn, held, held.machine.apply(signal, self._actors.now_unix_s))
        return ActorDone(seq=seq)

    def _withdraw(self, txn: WriteTransaction, withdraw: WithdrawCall) -> ActorOutcome:
        held = self._actors.hold(txn, self._actors.find(txn, withdraw.actor_id))
        if isinstance(held, OtherHost):
            return held
        queued = held.machine.find(withdraw.mark)
        number = -1 if queued is None else queued.number
        self._actors.write(txn, held, held.machine.apply(CallWithdrawn(number=number), self._actors.now_unix_s))
        return ActorDone(seq=held.row.seq)

    def _resume(self, txn: WriteTransaction, resume: ResumeActor) -> ActorOutcome:
        held = self._actors.hold(txn, self._actors.find(txn, resume.actor_id))
        if isinstance(held, OtherHost):
            return held
        if held.row.resumed_by == resume.nonce:
            # Done before, by a process that died before it could say so.
            return ActorDone(seq=held.row.seq, fresh=False)
        step = held.machine.apply(ResumeRequested(), self._actors.now_unix_s)
        held.row = replace(held.row, resumed_by=resume.nonce)
        self._actors.write(txn, held, step)
        return ActorDone(seq=held.row.seq)

    def _cancel(self, txn: WriteTransaction, cancel: CancelCall) -> ActorOutcome:
        held = self._actors.hold(txn, self._actors.find(txn, cancel.actor_id))
        if isinstance(held, OtherHost):
            return held
        seq = held.row.seq
        queued = next((call for call in held.machine.calls if call.name == cancel.name), None)
        if queued is None:
            if store.call_of_name(txn, seq, cancel.name) is None:
                raise CallNotFoundError(cancel.actor_id, cancel.name)
            return ActorDone(seq=seq, fresh=False, ended=cancel.name)
        signal = CallCancelled(number=queued.number, gone_on=cancel.gone_on)
        self._actors.write(txn, held, held.machine.apply(signal, self._actors.now_unix_s))
        return ActorDone(seq=seq, number=queued.number, ended=cancel.name)

    def _reset(self, txn: WriteTransaction, reset: ResetActor) -> ActorOutcome:
        held = self._actors.hold(txn, self._actors.find(txn, reset.actor_id))
        if isinstance(held, OtherHost):
            return held
        seq, state = held.row.seq, reset.state
        if find_answer(txn, reset.nonce) is not None:
            # Done before, by a process that died before it could say so.
            return ActorDone(seq=seq, fresh=False, ended=held.row.standing.last_call)
        ended = held.machine.calls[0].name if held.machine.calls else ""
        signal = ActorReset(
            state=UNCHANGED if state is None else replace(state, class_version=held.row.spec.class_version),
            expected_version=reset.expected_version,
        )
        self._actors.write(txn, held, held.machine.apply(signal, self._actors.now_unix_s))
        save_answer(txn, reset.nonce, seq, WorkflowStatus.NONE, self._actors.now_unix_s)
        return ActorDone(seq=seq, ended=ended)

    def _recover(self, txn: WriteTransaction, recover: RecoverActor) -> ActorOutcome:
        seq = recover.seq
        try:
            row = self._actors.get_or_none(txn, seq)
        except Refusal as refusal:
            log.error("a virtual actor is not taken up: %s", refusal.error)
            leases.put_away(txn, seq, self.name)
            raise
        if row is None:
            leases.put_away(txn, seq, self.name)
            return ActorDone(seq=seq, fresh=False)
        if recover.died_in:
            # Whoever has it: it was this host that died over it, and this is what leaves a trace of that.
            held = self._actors.take(txn, seq) or self._actors.load(txn, row)
            step = held.machine.apply(HostDied(method=recover.died_in), self._actors.now_unix_s)
            if step.records:
                held.row = replace(held.row, suspected=True)
            self._actors.write(txn, held, step)
        else:
            found = self._actors.hold(txn, row)
            if isinstance(found, OtherHost):
                if leases.holder(txn, seq) == self.name:
                    leases.put_away(txn, seq, self.name)
                    self._give(txn, row, found.host)
                return found
            held = found
        place = self._actors.place(held.row)
        if place != self.name:
            self._actors.show(txn, held)
            self._actors.drop(seq)
            self._actors.batch.lost.append(seq)
            if held.machine.working:
                self._give(txn, held.row, place)
            return OtherHost(host=place)
        return ActorDone(seq=seq)

    def _give(self, txn: WriteTransaction, row: ActorRow, host: str) -> None:
        """Have another host take an actor up, if it has work. That one finds it also when the message is lost."""
        standing, calls = row.standing, store.load_calls(txn, row.seq)
        machine, _ = VirtualActor.load(row.actor_id, row.spec.terms, standing, calls, self._actors.now_unix_s)
        if machine.working:
            leases.take_lease(txn, row.seq, host)
            self._actors.batch.elsewhere.append((host, row.seq))

    # -- deleting ------------------------------------------------------------------------------------------------

    def _delete(self, txn: WriteTransaction, delete: DeleteActor) -> ActorOutcome:
        if delete.nonce:
            answered = find_answer(txn, delete.nonce)
            if answered is not None:
                return ActorDone(seq=answered[0], fresh=False)
        try:
            row = self._actors.find(txn, delete.actor_id)
        except Refusal as refusal:
            if not isinstance(refusal.error, StorageCorruptError):
                raise
            log.error("deleting a virtual actor that cannot be read id=%s error=%s", delete.actor_id, refusal.error)
            seq = store.unlist_damaged(txn, delete.actor_id)
        else:
            held = self._actors.hold(txn, row)
            if isinstance(held, OtherHost):
                return held
            if held.machine.status is WorkflowStatus.RUNNING or not held.machine.idle:
                first = next((call.name for call in held.machine.calls), "")
                raise VirtualActorBusyError("DELETE", delete.actor_id, first)
            seq = row.seq
            store.unlist(txn, held.row, self._actors.now_unix_s)
        if seq in self._actors.held:
            self._actors.drop(seq)
        self._actors.batch.deleted.append(seq)
        if delete.nonce:
            save_answer(txn, delete.nonce, seq, WorkflowStatus.NONE, self._actors.now_unix_s)
        self._sweep(txn)
        return ActorDone(seq=seq)

    def _sweep(self, txn: WriteTransaction) -> None:
        swept = store.sweep_deleted(txn, ROWS_AT_ONCE)
        self._actors.batch.sweep = swept.more
        self._actors.batch.blob_groups.extend(swept.blob_groups)

    def _check_commands(self) -> None:
        """Leave out what a later signal of the same batch has made pointless; the rows are those of the end."""
        kept = []
        for row, epoch, command in self._actors.batch.commands:
            held = self._actors.held.get(row.seq)
            if isinstance(command, RunMethod | StartSubWorkflow):
                if held is None or held.epoch != epoch:
                    continue
                machine = held.machine
                if isinstance(command, RunMethod) and machine.running != (command.call.number, command.attempt):
                    continue
                if isinstance(command, StartSubWorkflow) and machine.follows != command.sub.workflow_id:
                    continue
            kept.append((row if held is None else held.row, epoch, command))
        self._actors.batch.commands = kept


def _refusing(do: Callable[[], ActorOutcome]) -> ActorOutcome:
    try:
        return do()
    except Refusal as refusal:
        return refusal.error
    except (VirtualActorError, IdTakenError) as error:
        # The machine, or the store, has refused it before anything was changed.
        return error
