"""How calls get into the mailboxes of virtual actors: from callers, constructors, reminders and events.

Whatever the way, a call that came before is known by its mark and is not taken twice; and what brought it (the time of
a reminder, the row of an event) is used up in the transaction that writes the call.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from holdfast.actors.refusal import Refusal
from holdfast.actors.virtual.activations import Activations, Held
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorDone,
    ActorOutcome,
    CallAccepted,
    CallFrom,
    ChangeReminder,
    CreateActor,
    OtherHost,
    SetReminder,
)
from holdfast.actors.virtual.reminders import (
    HOLD_S,
    change_reminder,
    origin_of,
    pass_over,
    reminder_call,
    repeats,
    take_due,
)
from holdfast.actors.virtual.requests import HEARING
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor import key_mark
from holdfast.engine.virtual_actor_classes import is_known_as, is_later_class
from holdfast.engine.virtual_actor_errors import (
    CallOutcomeForgottenError,
    OtherClassError,
    OutOfTurnError,
    VirtualActorError,
    VirtualActorNotFoundError,
)
from holdfast.engine.virtual_actor_records import CallSpec, FinishedCall, Outcome, QueuedCall
from holdfast.engine.virtual_actor_signals import Call, CallWithdrawn, RetryDue
from holdfast.listeners.forms import arguments_of
from holdfast.storage import actor_reminders, subscriptions
from holdfast.storage import actor_store as store
from holdfast.storage.actor_row import ActorRow, ActorSpec
from holdfast.storage.answered import find_answer, save_answer
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.payload import Payload
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_store import was_deleted

CALLS_AT_ONCE = 100
"""Calls that one look makes of the times that a reminder has missed."""

log = logging.getLogger("holdfast")


class Intake:
    """Takes calls in for the actors of one host.

    Args:
        actors: Those in memory.
        url: Of the store, for messages.
        name: The host's name.
    """

    def __init__(self, actors: Activations, url: str, name: str) -> None:
        self._actors, self._url, self._name = actors, url, name

    def accept(self, txn: WriteTransaction, accept: AcceptCall) -> ActorOutcome:
        """A caller calls."""
        held = self._actors.hold(txn, self._actors.find(txn, accept.actor_id))
        if isinstance(held, OtherHost):
            return held
        check_called(held.row, accept.class_name)
        if accept.accepted >= 0 and self.known_call(txn, held, accept.call) is None:
            # Made again it would take effect twice.
            raise CallOutcomeForgottenError(accept.actor_id, f"number {accept.accepted}")
        return self._call(txn, held, accept.call, logged=accept.logged)

    def _call(self, txn: WriteTransaction, held: Held, call: CallSpec, *, logged: bool) -> CallAccepted:
        known = self.known_call(txn, held, call)
        if known is not None and (known.outcome is not None or not logged):
            return known
        step = held.machine.apply(Call(spec=call, logged=logged), self._actors.now_unix_s)
        self._actors.write(txn, held, step)
        return known or accepted(held.row.seq, step.accepted)

    def known_call(self, txn: ReadTransaction, held: Held, call: CallSpec) -> CallAccepted | None:
        """What a call is answered that came before, with the same nonce or the same idempotency key."""
        seq = held.row.seq
        for mark in (call.nonce, key_mark(call.key) if call.key else ""):
            if not mark:
                continue
            queued = held.machine.find(mark)
            if queued is not None:
                outcome = Outcome(error=held.machine.standing.error) if queued.failed else None
                return CallAccepted(seq=seq, number=queued.number, name=queued.name, fresh=False, outcome=outcome)
            number = store.call_of_mark(txn, seq, mark)
            found = None if number is None else store.get_call(txn, seq, number)
            if isinstance(found, FinishedCall):
                return CallAccepted(seq=seq, number=found.number, name=found.name, fresh=False, outcome=found.outcome)
        return None

    def create(self, txn: WriteTransaction, create: CreateActor) -> ActorOutcome:
        """Somebody wants an actor: the one that is there, or a new one."""
        row = self._actors.find_or_none(txn, create.actor_id)
        if row is not None:
            return self._create_known(txn, create, row)
        if was_deleted(txn, create.call.nonce):
            # Ray repeats a call whose host died: what it had made may have been deleted meanwhile.
            raise VirtualActorNotFoundError(create.actor_id, self._url)
        row = ActorRow(
            seq=0,
            actor_id=create.actor_id,
            spec=create.spec,
            nonce=create.call.nonce,
            created_unix_s=self._actors.now_unix_s,
        )
        place = self._actors.place(row)
        if place != self._name:
            return OtherHost(host=place)
        row = store.create(txn, row)
        held = self._actors.load(txn, row)
        return self._call(txn, held, create.call, logged=True)

    def _create_known(self, txn: WriteTransaction, create: CreateActor, row: ActorRow) -> ActorOutcome:
        held = self._actors.hold(txn, row)
        if isinstance(held, OtherHost):
            return held
        self._take_class(txn, held, create.spec)
        if held.row.standing.initialized:
            known = self.known_call(txn, held, create.call)
            return known or CallAccepted(seq=row.seq, number=-1, name="", fresh=False)
        return self._call(txn, held, create.call, logged=True)

    def _take_class(self, txn: WriteTransaction, held: Held, spec: ActorSpec) -> None:
        """Put an actor's class, as it was given last, in the place of the one that is stored.

        Raises:
            OtherClassError: It is of another class.
        """
        newest = newest_class(held.row, spec)
        if newest != held.row.spec:
            changed = replace(held.row, spec=newest)
            store.save(txn, changed, was=held.row)
            held.row, held.machine.terms = changed, newest.terms

    # -- time ----------------------------------------------------------------------------------------------------

    def fire_due(self, txn: WriteTransaction, seq: int) -> ActorOutcome:
        """Some time of an actor may have come."""
        try:
            row = self._actors.get_or_none(txn, seq)
        except Refusal as refusal:
            log.error("what is due for a virtual actor is dropped: %s", refusal.error)
            actor_reminders.forget_due(txn, seq, self._actors.now_unix_s)
            raise
        if row is None:
            actor_reminders.forget_due(txn, seq, self._actors.now_unix_s)
            return ActorDone(seq=seq, fresh=False)
        held = self._actors.hold(txn, row)
        if isinstance(held, OtherHost):
            return held
        self._actors.write(txn, held, held.machine.apply(RetryDue(), self._actors.now_unix_s))
        count = 0
        for reminder in actor_reminders.list_reminders(txn, seq):
            if reminder.next_due_unix_s > self._actors.now_unix_s:
                break
            if reminder.look_unix_s > self._actors.now_unix_s:
                continue
            count += self._remind(txn, held, reminder.name)
        return ActorDone(seq=seq, count=count)

    def _remind(self, txn: WriteTransaction, held: Held, name: str) -> int:
        """Make the calls of a reminder that are due, as far as `overlap` lets them and the mailbox takes them."""
        seq, now, count = held.row.seq, self._actors.now_unix_s, 0
        first = actor_reminders.find(txn, seq, name)
        if first is not None:
            pass_over(txn, seq, first, now)
        for _ in range(CALLS_AT_ONCE):
            # What is left then is still in the index: it comes with the next look.
            reminder = actor_reminders.find(txn, seq, name)
            if reminder is None or reminder.next_due_unix_s > now:
                break
            waiting = held.machine.waiting(origin_of(reminder)) if repeats(reminder) else []
            if waiting and reminder.overlap is Overlap.SKIP:
                self._actors.note_due(take_due(txn, seq, reminder, called=False, skipped=1))
                continue
            replaced = [] if reminder.overlap is not Overlap.REPLACE else [call for call in waiting if not call.failed]
            try:
                for call in replaced:
                    step = held.machine.apply(CallWithdrawn(number=call.number), now)
                    self._actors.write(txn, held, step)
                self._call(txn, held, reminder_call(seq, reminder), logged=True)
            except VirtualActorError as error:
                log.warning("a reminder is held back name=%s actor_id=%s reason=%s", name, held.row.actor_id, error)
                held_back = replace(reminder, held_until_unix_s=now + HOLD_S)
                actor_reminders.save(txn, seq, held_back, was=reminder)
                self._actors.note_due(held_back.held_until_unix_s)
                break
            count += 1
            self._actors.note_due(take_due(txn, seq, reminder, skipped=len(replaced)))
        return count

    def change_reminder(self, txn: WriteTransaction, operation: ChangeReminder) -> ActorOutcome:
        """Set or cancel a reminder, from outside the actor."""
        change, now = operation.change, self._actors.now_unix_s
        row = self._actors.find(txn, operation.actor_id)
        check_called(row, operation.class_name)
        if isinstance(change, SetReminder):
            if find_answer(txn, change.nonce) is not None:
                # Asked again, when it may have been cancelled meanwhile.
                return ActorDone(seq=row.seq, fresh=False)
            save_answer(txn, change.nonce, row.seq, WorkflowStatus.NONE, now)
        self._actors.note_due(change_reminder(txn, row.seq, change, now, actor_id=row.actor_id))
        return ActorDone(seq=row.seq)

    # -- events --------------------------------------------------------------------------------------------------

    def call_from(self, txn: WriteTransaction, call_from: CallFrom) -> ActorOutcome:
        """An event calls."""
        rule = subscriptions.get_subscription(txn, call_from.subscription)
        event = subscriptions.is_to_start(txn, call_from.subscription, call_from.event)
        if rule is None or event is None or rule.actor is None:
            return ActorDone(seq=-1, fresh=False)
        if call_from.after and subscriptions.is_to_start(txn, rule.number, call_from.after) is not None:
            raise OutOfTurnError(call_from.actor_id, call_from.event, call_from.after)
        nonce = subscriptions.submission_nonce(rule.number, call_from.event)
        held = self._called_by(txn, rule, rule.actor, call_from.actor_id, nonce)
        if isinstance(held, OtherHost):
            return held
        (node,) = rule.graph.nodes
        method, _, _ = node.task_id.partition(HEARING)
        call = CallSpec(
            method=node.task_id,
            nonce=nonce,
            name=method,
            arguments=Payload(arguments_of(event.note, event.key, event.value)),
            options=node.options,
            origin=f"event {rule.name}",
        )
        accepted = self._call(txn, held, call, logged=True)
        subscriptions.note_started(txn, rule, call_from.event, repeated=not accepted.fresh)
        return accepted

    def _called_by(
        self, txn: WriteTransaction, rule: Subscription, spec: ActorSpec, actor_id: str, nonce: str
    ) -> Held | OtherHost:
        """The actor that an event calls. If the rule says so this is as `get_or_create`, without arguments."""
        row = self._actors.find_or_none(txn, actor_id)
        if row is not None:
            held = self._actors.hold(txn, row)
            if isinstance(held, OtherHost):
                return held
            if not rule.creates:
                newest_class(held.row, spec)
                return held
            self._take_class(txn, held, spec)
            if held.row.standing.initialized:
                return held
        elif not rule.creates:
            raise VirtualActorNotFoundError(actor_id, self._url)
        made_by = hashlib.blake2b(f"{nonce} creates".encode(), digest_size=16).hexdigest()
        constructor = CallSpec(method="__init__", nonce=made_by, creates=True, origin=f"event {rule.name}")
        made = self.create(txn, CreateActor(actor_id=actor_id, spec=spec, call=constructor))
        if isinstance(made, OtherHost):
            return made
        return self._actors.hold(txn, self._actors.find(txn, actor_id))


def accepted(seq: int, call: QueuedCall | None) -> CallAccepted:
    """What is said of a call that the machine has taken; None for a constructor of an actor that has one."""
    if call is None:
        return CallAccepted(seq=seq, number=-1, name="", fresh=False)
    return CallAccepted(seq=seq, number=call.number, name=call.name)


def check_called(row: ActorRow, class_name: str) -> None:
    """Refuse a caller that asks for an actor as one of another class, as by a handle that outlived its actor.

    Args:
        row: The actor.
        class_name: What the caller takes it to be; empty: as it is.

    Raises:
        OtherClassError: It is of another class.
    """
    spec = row.spec
    if class_name and not is_known_as(class_name, spec.class_name, spec.formerly):
        raise OtherClassError(row.actor_id, spec.class_name, class_name)


def newest_class(row: ActorRow, spec: ActorSpec) -> ActorSpec:
    """Give the class that an actor has when it is asked for as one of a class: the newer one of that and its own.

    Raises:
        OtherClassError: It is of another class.
    """
    old = row.spec
    if spec == old:
        return old
    later = is_later_class(spec.class_name, spec.class_version, spec.formerly, old.class_name, old.class_version)
    if not later and not is_known_as(spec.class_name, old.class_name, old.formerly):
        raise OtherClassError(row.actor_id, old.class_name, spec.class_name)
    if spec.class_version < old.class_version or not (later or is_known_as(spec.class_name, old.class_name, ())):
        # An older one may not know the state.
        return old
    names = {*spec.formerly, *old.formerly, old.class_name} - {spec.class_name}
    return replace(spec, formerly=tuple(sorted(names)))
