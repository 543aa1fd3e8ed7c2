"""Deliberate faults of virtual actors, one at a time: the laws must catch each, or they guard nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from holdfast.actors.virtual import intake
from holdfast.actors.virtual.activations import Activations
from holdfast.actors.virtual.intake import Intake
from holdfast.actors.virtual.operations import AcceptCall, ActorBatch, ActorDone, ActorOperation, CallFrom, EndAttempt
from holdfast.engine.virtual_actor import VirtualActor
from holdfast.engine.virtual_actor_errors import CallCancelledError, MailboxFullError, VirtualActorQuarantinedError
from holdfast.engine.virtual_actor_records import (
    ActorRecord,
    CallEnded,
    CallLogged,
    Condition,
    Outcome,
    RetrySet,
    StandingChanged,
)
from holdfast.engine.virtual_actor_signals import AnswerCall, MethodRaised, MethodReturned
from holdfast.storage import actor_reminders, actor_store, layout, leases, start_rows, subscriptions
from holdfast.storage.interface import WriteTransaction
from tests.simulation.actor_hosts import Host
from tests.simulation.actor_plans import dump_state, load_state, value_of
from tests.simulation.actor_world import ActorWorld, MakeActorWorld
from tests.simulation.faults import let_user_code_end_what_runs_it


@dataclass(frozen=True, slots=True)
class ActorFault:
    """What is wrong, how it is put in, and the world it shows in."""

    name: str
    inject: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    make: MakeActorWorld = ActorWorld


# -- worlds ------------------------------------------------------------------------------------------------------------


class KeylessWorld(ActorWorld):
    """Idempotency keys get lost."""

    def perform(self, host: Host, operations: list[ActorOperation]) -> ActorBatch:
        return super().perform(host, [_without_key(operation) for operation in operations])


def _without_key(operation: ActorOperation) -> ActorOperation:
    if isinstance(operation, AcceptCall):
        return replace(operation, call=replace(operation.call, key=""))
    return operation


class RemindingWorld(ActorWorld):
    """Each actor has a reminder."""

    reminders = 1.0


class ForgetfulWorld(ActorWorld):
    """What a host that is gone was to take up stays with it."""

    fewer_hosts = 1.0

    def give_away(self, txn: WriteTransaction) -> None:
        return


class CarelessWorld(ActorWorld):
    """What a method that raised has done to the state is kept."""

    def perform(self, host: Host, operations: list[ActorOperation]) -> ActorBatch:
        return super().perform(host, [_kept(host, operation) for operation in operations])


def _kept(host: Host, operation: ActorOperation) -> ActorOperation:
    if not isinstance(operation, EndAttempt) or not isinstance(operation.signal, MethodRaised):
        return operation
    held = host.core.held.get(operation.seq)
    if held is None or not held.machine.calls or held.machine.running is None:
        return operation
    marks = [*load_state(held.machine.standing.state), held.machine.calls[0].spec.nonce]
    signal = operation.signal
    return replace(
        operation,
        signal=MethodReturned(
            number=signal.number, attempt=signal.attempt, state=dump_state(marks), value=value_of(marks)
        ),
    )


class BelievingWorld(ActorWorld):
    """Whatever an attempt reports is taken for the report of the one that runs."""

    def perform(self, host: Host, operations: list[ActorOperation]) -> ActorBatch:
        return super().perform(host, [_believed(host, operation) for operation in operations])


def _believed(host: Host, operation: ActorOperation) -> ActorOperation:
    held = host.core.held.get(operation.seq) if isinstance(operation, EndAttempt) else None
    if held is None or held.machine.running is None or not isinstance(operation, EndAttempt):
        return operation
    number, attempt = held.machine.running
    return replace(operation, epoch=held.epoch, signal=replace(operation.signal, number=number, attempt=attempt))


class HastyWorld(ActorWorld):
    """Events do not wait for those before them."""

    def perform(self, host: Host, operations: list[ActorOperation]) -> ActorBatch:
        return super().perform(host, [_in_haste(operation) for operation in operations])


def _in_haste(operation: ActorOperation) -> ActorOperation:
    return replace(operation, after=0) if isinstance(operation, CallFrom) else operation


# -- what is written ---------------------------------------------------------------------------------------------------


def _written(change: Callable[[ActorRecord], ActorRecord | None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Some records are written otherwise, or not at all."""
    honest = actor_store.write_records

    def write(txn: Any, row: Any, records: Sequence[ActorRecord], **about: Any) -> Any:
        changed = [record for one in records if (record := change(one)) is not None]
        return honest(txn, row, changed, **about)

    return lambda patch: patch.setattr(actor_store, "write_records", write)


def _lose_odd_calls(record: ActorRecord) -> ActorRecord | None:
    return None if isinstance(record, CallLogged) and record.call.number % 2 else record


def _keep_what_has_ended(record: ActorRecord) -> ActorRecord | None:
    return replace(record, logged=False) if isinstance(record, CallEnded) else record


def _lose_states(record: ActorRecord) -> ActorRecord | None:
    return None if isinstance(record, StandingChanged) and record.standing.version % 3 == 2 else record


def _lose_times(record: ActorRecord) -> ActorRecord | None:
    return None if isinstance(record, RetrySet) else record


def _forget_how_it_goes_on(record: ActorRecord) -> ActorRecord | None:
    if isinstance(record, CallLogged) and record.call.continues is not None:
        return CallLogged(call=replace(record.call, continues=None))
    return record


# -- what is decided ---------------------------------------------------------------------------------------------------


def _keep_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Activations, "undone", lambda actors: [])


def _accept_stale_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "check_lease", lambda *given: None)


def _know_nothing_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Intake, "known_call", lambda core, *given: None)


def _load_backwards(patch: pytest.MonkeyPatch) -> None:
    honest = actor_store.load_calls
    patch.setattr(actor_store, "load_calls", lambda *given: honest(*given)[::-1])


def _pass_over_what_failed(patch: pytest.MonkeyPatch) -> None:
    honest = VirtualActor._fail

    def fail(machine: Any, *given: Any) -> None:
        honest(machine, *given)
        if machine.standing.condition is Condition.SUSPENDED:
            machine._calls.rotate(-1)

    patch.setattr(VirtualActor, "_fail", fail)


def _skip_times(patch: pytest.MonkeyPatch) -> None:
    honest = intake.take_due

    def take_due(txn: Any, seq: int, reminder: Any, **about: Any) -> Any:
        honest(txn, seq, reminder, **about)
        following = actor_reminders.find(txn, seq, reminder.name)
        return None if following is None else honest(txn, seq, following)

    patch.setattr(intake, "take_due", take_due)


def _pile_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualActor, "waiting", lambda *given: [])


def _wait_for_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualActor, "waiting", lambda machine, origin: [*machine.calls])


def _make_up_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualActor, "waiting", lambda *given: [])
    patch.setattr(intake, "pass_over", lambda *given: None)


def _drop_refused_events(patch: pytest.MonkeyPatch) -> None:
    honest = Intake.call_from

    def call_from(core: Any, txn: Any, call: Any) -> Any:
        try:
            return honest(core, txn, call)
        except (MailboxFullError, VirtualActorQuarantinedError):
            subscriptions.set_aside(txn, call.subscription, call.event)
            return ActorDone(seq=-1)

    patch.setattr(Intake, "call_from", call_from)


def _forget_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(actor_store, "HISTORY_S", -1e9)


def _list_no_status(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(actor_store, "save_status", lambda *given: None)


def _list_no_work(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualActor, "working", property(lambda machine: False))


def _have_no_limit(patch: pytest.MonkeyPatch) -> None:
    honest = VirtualActor._check

    def check(machine: Any, *given: Any) -> None:
        try:
            honest(machine, *given)
        except MailboxFullError:
            return

    patch.setattr(VirtualActor, "_check", check)


def _wait_for_no_sub_workflow(patch: pytest.MonkeyPatch) -> None:
    honest = VirtualActor._settle

    def settle(machine: Any, step: Any) -> None:
        honest(machine, step)
        calls = machine._calls
        if len(calls) > 1 and calls[0].continues is not None and machine._running is None:
            machine._run(calls[1], step)

    patch.setattr(VirtualActor, "_settle", settle)


def _leave_marks(patch: pytest.MonkeyPatch) -> None:
    honest = layout.rows_of_actor
    patch.setattr(layout, "rows_of_actor", lambda seq: tuple(one for one in honest(seq) if one[:2] != b"vd"))


def _leave_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(start_rows, "remove", lambda txn, rule, event: txn.delete(layout.start(rule, event)))


class CancellingWorld(ActorWorld):
    """Much is cancelled."""

    cancels = 0.5


def _ended(end: Callable[[Any, Any, Any, Callable[..., None]], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A call that is cancelled ends otherwise."""
    honest = VirtualActor._end
    return lambda patch: patch.setattr(
        VirtualActor, "_end", lambda machine, call, step: end(machine, call, step, honest)
    )


def _let_it_take_effect(machine: Any, call: Any, step: Any, honest: Callable[..., None]) -> None:
    if machine.standing.initialized and call.continues is None and call.spec.nonce != "must not run":
        machine._take_effect(dump_state([*load_state(machine.standing.state), call.spec.nonce]))
    honest(machine, call, step)


def _only_say_so(machine: Any, call: Any, step: Any, honest: Callable[..., None]) -> None:
    outcome = Outcome(error=CallCancelledError(machine.actor_id, call.name), version=machine.standing.version)
    step.commands.append(AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome))


def _end_the_last(machine: Any, call: Any, step: Any, honest: Callable[..., None]) -> None:
    honest(machine, machine.calls[-1], step)


FAULTS = (
    ActorFault("what ends a method ends its thread", let_user_code_end_what_runs_it),
    ActorFault("memory is kept that was ahead of the store", _keep_memory),
    ActorFault("a stale epoch is accepted", _accept_stale_epochs),
    ActorFault("a call that comes again is a new one", _know_nothing_again),
    ActorFault("an idempotency key is not looked at", make=KeylessWorld),
    ActorFault("old calls are forgotten at once", _forget_at_once),
    ActorFault("an accepted call is not written", _written(_lose_odd_calls)),
    ActorFault("a call that has ended stays in the mailbox", _written(_keep_what_has_ended)),
    ActorFault("the end of a call is written without its state", _written(_lose_states)),
    ActorFault("a call that is tried again has no time", _written(_lose_times)),
    ActorFault("what a call went on with is forgotten", _written(_forget_how_it_goes_on)),
    ActorFault("a mailbox is read backwards", _load_backwards),
    ActorFault("a call that holds the mailbox is passed over", _pass_over_what_failed),
    ActorFault("the next writer does not wait for a sub-workflow", _wait_for_no_sub_workflow),
    ActorFault("what a method did before it raised is kept", make=CarelessWorld),
    ActorFault("what an old attempt reports is taken", make=BelievingWorld),
    ActorFault("a call that is cancelled takes effect", _ended(_let_it_take_effect), CancellingWorld),
    ActorFault("a call is said to be cancelled and is not", _ended(_only_say_so), CancellingWorld),
    ActorFault("another call is cancelled in its place", _ended(_end_the_last), CancellingWorld),
    ActorFault("a mailbox has no limit", _have_no_limit),
    ActorFault("a reminder skips times", _skip_times),
    ActorFault("calls of a reminder pile up", _pile_up, RemindingWorld),
    ActorFault("a flood of calls makes up for what a reminder missed", _make_up_for_all, RemindingWorld),
    ActorFault("a reminder waits for calls of others", _wait_for_others, RemindingWorld),
    ActorFault("an event that finds no room is lost", _drop_refused_events),
    ActorFault("an event overtakes one before it", make=HastyWorld),
    ActorFault("the status is not written", _list_no_status),
    ActorFault("nobody knows who has work", _list_no_work),
    ActorFault("what a host had that is gone is left with it", make=ForgetfulWorld),
    ActorFault("marks of calls outlive their actor", _leave_marks),
    ActorFault("a message that is a call stays a message", _leave_messages),
)
