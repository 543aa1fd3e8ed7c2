"""One virtual actor's state machine: signals in, records and commands out.

Rules of this room:

1. One writing call at a time, in the order of acceptance. What waits (for a retry, for its sub-workflow, for somebody
   to resume the actor) is waited for by all that came after it; only calls that are a part of it run meanwhile.
2. A call takes effect in the step that commits its state: when its method returns, or goes on as a sub-workflow. One
   that raises leaves the state as it was, whatever becomes of the call.
3. A call without a row is one that nobody was told is accepted. It may be forgotten; a call with a row may not.
4. A step's commands are carried out only after its records are durable.

Nothing here knows Ray, asyncio, storage or the clock; time comes in with each signal. What is in memory is ahead of
the store until the records are written: readers are given what is committed, by whoever commits.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.engine.errors import HoldfastError, TaskTimeoutError
from holdfast.engine.names import TaskNames, never
from holdfast.engine.timers import CLOCK_GRAIN_S
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value
from holdfast.engine.virtual_actor_errors import (
    CallCancelledError,
    CallNotWithdrawnError,
    CallOverError,
    CallWithdrawnError,
    MailboxFullError,
    VirtualActorCycleError,
    VirtualActorNotInitializedError,
    VirtualActorNotResumableError,
    VirtualActorQuarantinedError,
    VirtualActorVersionError,
)
from holdfast.engine.virtual_actor_records import (
    DEATHS_ALLOWED,
    ActorRecord,
    CallEnded,
    CallLogged,
    CallSpec,
    Condition,
    FinishedCall,
    Outcome,
    QueuedCall,
    RetryCleared,
    RetrySet,
    Standing,
    StandingChanged,
    SubWorkflow,
    Terms,
    status_of,
)
from holdfast.engine.virtual_actor_signals import (
    UNCHANGED,
    ActorCommand,
    ActorReset,
    ActorSignal,
    AnswerCall,
    Call,
    CallCancelled,
    CallKept,
    CallWithdrawn,
    HostDied,
    MethodContinued,
    MethodRaised,
    MethodReturned,
    ResumeRequested,
    RetryDue,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
    SubWorkflowEnded,
    TimeoutReached,
)


@dataclass(slots=True, kw_only=True)
class ActorStep:
    """The outcome of a signal: records to commit, then commands to carry out.

    Attributes:
        now_unix_s: The time of the step, given from outside.
        accepted: Of a call: itself in the mailbox, or the one it repeats; None when it has no place there, being a
            constructor of an actor that has one.
    """

    now_unix_s: float
    accepted: QueuedCall | None = None
    records: list[ActorRecord] = field(default_factory=list)
    commands: list[ActorCommand] = field(default_factory=list)


class VirtualActor:
    """An actor that is active in some host. Make one with `load`."""

    def __init__(
        self,
        actor_id: str,
        terms: Terms,
        standing: Standing,
        calls: Iterable[QueuedCall],
        given_before: Callable[[str], bool],
    ) -> None:
        self.actor_id = actor_id
        self.terms = terms
        self._standing = standing
        self._calls = deque(calls)
        self._names = TaskNames(standing.names, given_before)
        self._marks: dict[str, QueuedCall] = {}
        self._attempt = 0
        # The call that runs, the calls that are a part of the first one, and whether its sub-workflow is on its way.
        self._running: QueuedCall | None = None
        self._inner: deque[QueuedCall] = deque()
        self._follows = False
        self._moved = False
        self._state_moved = False
        self._rows = 0
        for call in self._calls:
            self._rows += call.logged
            self._names.observe(call.name)
            self._mark(call)
        if self._calls and self._calls[-1].number >= standing.next_number:
            self._standing = replace(standing, next_number=self._calls[-1].number + 1)

    @classmethod
    def load(
        cls,
        actor_id: str,
        terms: Terms,
        standing: Standing,
        calls: Iterable[QueuedCall],
        now_unix_s: float,
        given_before: Callable[[str], bool] = never,
    ) -> tuple[VirtualActor, ActorStep]:
        """An actor as its records tell it, and the step that sets it going again.

        Args:
            actor_id: Whose state it is.
            terms: How it treats its calls.
            standing: Where it stands; `Standing()` for a new one.
            calls: Its mailbox, in order.
            now_unix_s: The time, in seconds since the epoch.
            given_before: Whether a call that is kept has a name; asked about names that `standing` does not count.
        """
        actor, step = cls(actor_id, terms, standing, calls, given_before), ActorStep(now_unix_s=now_unix_s)
        actor._settle(step)
        return actor, step

    # -- what the shell asks -------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Where it stands; ahead of the store until the records are committed."""
        return self._standing

    @property
    def calls(self) -> tuple[QueuedCall, ...]:
        """The mailbox, in order; the first one is the call that runs, or that the others wait for."""
        return tuple(self._calls)

    @property
    def length(self) -> int:
        """How many calls are in the mailbox."""
        return len(self._calls)

    @property
    def logged(self) -> bool:
        """Whether some call in the mailbox has a row."""
        return self._rows > 0

    @property
    def status(self) -> WorkflowStatus:
        """What it is listed as, by its records."""
        return status_of(self._standing, calls=self.logged)

    @property
    def working(self) -> bool:
        """Whether some host must hold it: something goes on, or must go on again after a crash, because of its rows."""
        if self._standing.condition is not Condition.SOUND or not self._calls:
            return False
        return self._calls[0].due_unix_s is None and self.logged

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting it until somebody calls, or its time comes."""
        return self._running is None and not self._inner and not self.working and self._rows == len(self._calls)

    @property
    def running(self) -> tuple[int, int] | None:
        """(number, attempt) of the call that runs; None when none does."""
        return None if self._running is None else (self._running.number, self._attempt)

    @property
    def follows(self) -> str | None:
        """The id of the sub-workflow whose end is waited for; None when there is none."""
        continues = self._calls[0].continues if self._follows else None
        return None if continues is None else continues.workflow_id

    def find(self, mark: str) -> QueuedCall | None:
        """The call of a nonce or an idempotency key (`key_mark`), while it is in the mailbox."""
        return self._marks.get(mark)

    def waiting(self, origin: str) -> list[QueuedCall]:
        """Find the calls of an origin that wait for their turn: none that runs, or continues as a workflow."""
        return [call for call in self._calls if call.spec.origin == origin and not self._goes_on(call)]

    # -- signals -------------------------------------------------------------------------------------------------

    def apply(self, signal: ActorSignal, now_unix_s: float) -> ActorStep:
        """Take one signal.

        Args:
            signal: What happened.
            now_unix_s: The time, in seconds since the epoch.

        Returns:
            What to write and then to do; empty when the signal changes nothing.

        Raises:
            MailboxFullError, VirtualActorNotInitializedError, VirtualActorQuarantinedError, VirtualActorCycleError:
                A call is refused.
            VirtualActorNotResumableError: There is nothing to resume.
            CallNotWithdrawnError: The call runs, or is over.
            VirtualActorVersionError: It is not to be reset from this version.

        Semantics: when it raises nothing has changed.
        """
        step = ActorStep(now_unix_s=now_unix_s)
        match signal:
            case Call():
                self._accept(signal, step)
            case MethodReturned() | MethodContinued() | MethodRaised() | TimeoutReached():
                self._attempt_ended(signal, step)
            case SubWorkflowEnded():
                self._sub_workflow_ended(signal, step)
            case RetryDue():
                self._retry_due(step)
            case HostDied():
                self._host_died(signal, step)
            case ResumeRequested():
                self._resume(step)
            case CallWithdrawn():
                self._withdraw(signal, step)
            case CallCancelled():
                self._cancel(signal, step)
            case ActorReset():
                self._reset(signal, step)
            case CallKept():
                for call in self._calls:
                    if call.number == signal.number and not call.logged:
                        self._log(call, step)
        self._settle(step)
        return step

    # -- calls ---------------------------------------------------------------------------------------------------

    def _accept(self, signal: Call, step: ActorStep) -> None:
        spec = signal.spec
        known = self._marks.get(spec.nonce) or (self._marks.get(key_mark(spec.key)) if spec.key else None)
        if known is not None:
            if signal.logged and not known.logged:
                known = self._log(known, step)
            step.accepted = known
            return
        if spec.inside is not None:
            step.accepted = self._accept_inner(spec, step)
            return
        creating = any(call.spec.creates for call in self._calls)
        if spec.creates and (self._standing.initialized or creating):
            return
        self._check(spec, creating)
        call = self._number(spec, step)
        self._calls.append(call)
        if signal.logged or self._standing.condition is not Condition.SOUND:
            # Who waits for somebody to resume the actor may wait for longer than any process lives.
            call = self._log(call, step)
        step.accepted = call

    def _accept_inner(self, spec: CallSpec, step: ActorStep) -> QueuedCall:
        """A part of the first call: whoever asks is a task of its sub-workflow, and asks again after a crash."""
        outer = self._calls[0] if self._calls else None
        if self._standing.condition is Condition.QUARANTINED:
            raise self._quarantine_error()
        if outer is None or outer.number != spec.inside or not self._follows:
            raise CallOverError(self.actor_id, spec.method, spec.inside or 0)
        # Whoever waits for the first call waits for this one.
        call = self._number(replace(spec, chain=outer.spec.chain), step)
        self._inner.append(call)
        return call

    def _number(self, spec: CallSpec, step: ActorStep) -> QueuedCall:
        call = QueuedCall(
            number=self._standing.next_number,
            name=self._names.assign(spec.name or spec.method),
            spec=spec,
            accepted_unix_s=step.now_unix_s,
        )
        self._standing = replace(self._standing, next_number=call.number + 1)
        self._mark(call)
        return call

    def _check(self, spec: CallSpec, creating: bool) -> None:
        standing = self._standing
        if self.actor_id in spec.chain:
            raise VirtualActorCycleError((*spec.chain[spec.chain.index(self.actor_id) :], self.actor_id))
        if standing.condition is Condition.QUARANTINED:
            raise self._quarantine_error()
        if not standing.initialized and not creating and not spec.creates:
            raise self._not_initialized_error()
        if len(self._calls) >= self.terms.mailbox_limit:
            raise MailboxFullError(self.actor_id, self.terms.mailbox_limit)

    def _mark(self, call: QueuedCall) -> None:
        self._marks[call.spec.nonce] = call
        if call.spec.key:
            self._marks[key_mark(call.spec.key)] = call

    def _change(self, call: QueuedCall, changed: QueuedCall) -> None:
        for calls in (self._calls, self._inner):
            for place, other in enumerate(calls):
                if other is call:
                    calls[place] = changed
                    self._mark(changed)
                    return

    def _log(self, call: QueuedCall, step: ActorStep, **changes: Any) -> QueuedCall:
        """Write a call's row, changed so."""
        changed = replace(call, logged=True, **changes)
        self._rows += not call.logged
        self._change(call, changed)
        step.records.append(CallLogged(call=changed))
        return changed

    def _withdraw(self, signal: CallWithdrawn, step: ActorStep) -> None:
        call = next((call for call in self._calls if call.number == signal.number), None)
        if call is None or self._goes_on(call):
            raise CallNotWithdrawnError(self.actor_id, f"number {signal.number}")
        # One that holds the mailbox has run, and ends as it had failed.
        error = self._standing.error if call.failed else CallWithdrawnError(self.actor_id, call.name)
        self._finish(call, Outcome(error=error), step)

    def _cancel(self, signal: CallCancelled, step: ActorStep) -> None:
        call = next((call for call in self._calls if call.number == signal.number), None)
        if call is not None and not (signal.gone_on and call.continues is None):
            self._end(call, step)

    def _reset(self, signal: ActorReset, step: ActorStep) -> None:
        if signal.expected_version not in (None, self._standing.version):
            raise VirtualActorVersionError(self.actor_id, signal.expected_version or 0, self._standing.version)
        if self._calls:
            if signal.state is not UNCHANGED:
                # There is a state that the others can run on, also when this one was to make it.
                self._move(initialized=True)
            self._end(self._calls[0], step)
        if signal.state is not UNCHANGED:
            self._take_effect(signal.state)
        if self._standing.condition is not Condition.SOUND:
            self._move(condition=Condition.SOUND, error=None, deaths=0)

    def _end(self, call: QueuedCall, step: ActorStep) -> None:
        """End a call, wherever it has come to. What it does from now on is not to be seen."""
        error: Any = CallCancelledError(self.actor_id, call.name)
        if call is self._calls[0]:
            self._drop_inner(error, step)
            self._stop(step)
            self._follows = False
            if call.failed:
                # Its caller has heard how it failed.
                error = self._standing.error
        if call.failed and self._standing.condition is Condition.SUSPENDED:
            self._move(condition=Condition.SOUND, error=None)
        if not call.failed:
            self._move(said=str(error))
        self._finish(call, Outcome(error=error), step)

    def _goes_on(self, call: QueuedCall) -> bool:
        """Whether a call runs, or has taken effect and waits for its sub-workflow."""
        if call is not self._calls[0]:
            return False
        return self._running is not None or self._follows or (call.continues is not None and not call.failed)

    # -- attempts ------------------------------------------------------------------------------------------------

    def _attempt_ended(
        self, signal: MethodReturned | MethodContinued | MethodRaised | TimeoutReached, step: ActorStep
    ) -> None:
        call = self._running
        if call is None or self.running != (signal.number, signal.attempt):
            return
        # It may have got a row meanwhile.
        call = self._marks[call.spec.nonce]
        self._running = None
        match signal:
            case MethodReturned():
                self._take_effect(signal.state)
                self._finish(call, self._value(call, signal.value), step, signal.started_unix_s, signal.ended_unix_s)
            case MethodContinued():
                assert call.spec.inside is None, "a part of a call goes on within the workflow of that call"
                self._take_effect(signal.state)
                self._log(
                    call,
                    step,
                    errors=0,
                    started_unix_s=signal.started_unix_s,
                    ended_unix_s=signal.ended_unix_s,
                    continues=SubWorkflow(
                        workflow_id=f"{self.actor_id}/{call.name}",
                        nonce=sub_workflow_nonce(self.actor_id, call.spec.nonce),
                        request=signal.request,
                    ),
                )
            case MethodRaised():
                call = self._timed(call, signal.started_unix_s, signal.ended_unix_s)
                self._retry_or_fail(call, signal.error, signal.said, signal.retryable, step)
            case TimeoutReached():
                step.commands.append(StopMethod(number=call.number, attempt=self._attempt))
                error = TaskTimeoutError(call.name, call.spec.options.timeout_s or 0.0)
                call = self._timed(call, signal.started_unix_s, signal.ended_unix_s)
                self._retry_or_fail(call, error, str(error), True, step)

    def _timed(self, call: QueuedCall, started_unix_s: float, ended_unix_s: float) -> QueuedCall:
        changed = replace(call, started_unix_s=started_unix_s, ended_unix_s=ended_unix_s)
        self._change(call, changed)
        return changed

    def _take_effect(self, state: Any) -> None:
        standing = self._standing
        if state is UNCHANGED:
            state = standing.state
        else:
            self._state_moved = True
        self._move(
            version=standing.version + 1,
            state=state,
            initialized=True,
            deaths=0,
        )

    def _value(self, call: QueuedCall, base: Any) -> Outcome:
        value = Value(base)
        return Outcome(value=value.wrapped() if call.spec.options.catch_exceptions else value)

    def _retry_or_fail(self, call: QueuedCall, error: Any, said: str, retryable: bool, step: ActorStep) -> None:
        options, errors = call.spec.options, call.errors + 1
        # A part of a call is asked for by a task, which has retries of its own.
        retryable = retryable and call.spec.inside is None
        if retryable and options.retry is not None:
            delay = options.retry.delay_s(errors, f"{self.actor_id}/{call.name}")
            if delay is not None:
                due = step.now_unix_s + delay if delay > 0 else None
                self._log(call, step, errors=errors, due_unix_s=due)
                if due is not None:
                    step.records.append(RetrySet(due_unix_s=due))
                return
        elif retryable and options.budget.allows(deaths=0, errors=errors, last_was_death=False):
            changed = replace(call, errors=errors)
            self._change(call, changed)
            if call.logged:
                step.records.append(CallLogged(call=changed))
            return
        self._fail(call, error, said, step)

    def _fail(self, call: QueuedCall, error: Any, said: str, step: ActorStep) -> None:
        """A call has failed for good: that is its value, or what its caller gets, or what holds the mailbox."""
        if call.spec.options.catch_exceptions and not call.spec.creates:
            self._finish(call, Outcome(value=Value(error, caught=True)), step)
            return
        if call.spec.inside is not None:
            # It had no effect, and leaves no trace: the task that asked for it fails, and may ask again.
            self._drop(call)
            outcome = Outcome(error=error, version=self._standing.version)
            step.commands.append(AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome))
            return
        self._move(said=said)
        if self.terms.suspends:
            self._move(condition=Condition.SUSPENDED, error=error)
            self._log(call, step, failed=True)
            for other in list(self._calls):
                if not other.logged:
                    self._log(other, step)
            outcome = Outcome(error=error, version=self._standing.version)
            step.commands.append(AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome, final=False))
            return
        self._finish(call, Outcome(error=error), step)

    def _finish(
        self,
        call: QueuedCall,
        outcome: Outcome,
        step: ActorStep,
        started_unix_s: float | None = None,
        ended_unix_s: float | None = None,
    ) -> None:
        if call.due_unix_s is not None:
            step.records.append(RetryCleared(due_unix_s=call.due_unix_s))
        self._drop(call)
        ended = ended_unix_s or call.ended_unix_s or step.now_unix_s
        self._move(names=self._names.repeated, last_call=call.name, called_unix_s=step.now_unix_s)
        outcome = replace(outcome, version=self._standing.version)
        finished = FinishedCall(
            number=call.number,
            name=call.name,
            method=call.spec.method,
            nonce=call.spec.nonce,
            key=call.spec.key,
            metadata=call.spec.options.metadata,
            origin=call.spec.origin,
            outcome=outcome,
            accepted_unix_s=call.accepted_unix_s,
            started_unix_s=started_unix_s or call.started_unix_s or ended,
            ended_unix_s=ended,
        )
        continued = call.continues is not None
        arguments = b"" if call.spec.lent else call.spec.arguments
        step.records.append(CallEnded(call=finished, logged=call.logged, continued=continued, arguments=arguments))
        step.commands.append(AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome))
        if call.spec.creates and not self._standing.initialized:
            # There is no state that the others could run on.
            while self._calls:
                self._finish(self._calls[0], Outcome(error=self._not_initialized_error()), step)

    def _drop(self, call: QueuedCall) -> None:
        (self._calls if call.spec.inside is None else self._inner).remove(call)
        self._rows -= call.logged
        self._marks.pop(call.spec.nonce, None)
        if call.spec.key:
            self._marks.pop(key_mark(call.spec.key), None)

    # -- what calls wait for -------------------------------------------------------------------------------------

    def _sub_workflow_ended(self, signal: SubWorkflowEnded, step: ActorStep) -> None:
        call = self._calls[0] if self._calls else None
        if call is None or call.continues is None or call.continues.workflow_id != signal.workflow_id:
            return
        if not self._follows:
            # Of an earlier try: it is suspended, and nobody has resumed it.
            return
        self._follows = False
        self._drop_inner(CallOverError(self.actor_id, "what is left", call.number), step)
        # The end of the call is the end of what it went on with.
        call = self._timed(call, call.started_unix_s, step.now_unix_s)
        if signal.error is None:
            self._finish(call, self._value(call, signal.value), step)
        else:
            self._fail(call, signal.error, signal.said, step)

    def _drop_inner(self, error: HoldfastError, step: ActorStep) -> None:
        """The call that these are parts of is over, or held up."""
        if self._running is not None and self._running.spec.inside is not None:
            self._stop(step)
        while self._inner:
            call = self._inner[0]
            self._drop(call)
            outcome = Outcome(error=error, version=self._standing.version)
            step.commands.append(AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome))

    def _stop(self, step: ActorStep) -> None:
        if self._running is not None:
            step.commands.append(StopMethod(number=self._running.number, attempt=self._attempt))
            self._running = None

    def _retry_due(self, step: ActorStep) -> None:
        call = self._calls[0] if self._calls else None
        if call is None or call.due_unix_s is None or step.now_unix_s < call.due_unix_s - CLOCK_GRAIN_S:
            return
        step.records.append(RetryCleared(due_unix_s=call.due_unix_s))
        self._log(call, step, due_unix_s=None)

    def _host_died(self, signal: HostDied, step: ActorStep) -> None:
        if self._standing.condition is not Condition.SOUND:
            return
        deaths = self._standing.deaths + 1
        self._move(deaths=deaths)
        if deaths < DEATHS_ALLOWED:
            return
        error = VirtualActorQuarantinedError(self.actor_id, self.terms.class_name, signal.method, deaths)
        self._move(condition=Condition.QUARANTINED, error=error, said=str(error))
        self._drop_inner(error, step)
        self._stop(step)
        self._follows = False
        for call in list(self._calls):
            outcome = Outcome(error=error, version=self._standing.version)
            step.commands.append(
                AnswerCall(number=call.number, nonce=call.spec.nonce, outcome=outcome, final=not call.logged)
            )
            if not call.logged:
                # Its caller is told that it failed: it must not take effect after all.
                self._drop(call)

    def _resume(self, step: ActorStep) -> None:
        if self._standing.condition is Condition.SOUND:
            reason = "it is not held up by anything"
            if not self._standing.initialized and not self._calls:
                reason = "its constructor failed; call get_or_create again"
            raise VirtualActorNotResumableError(self.actor_id, reason, self._calls[0].name if self._calls else "")
        self._move(condition=Condition.SOUND, error=None, deaths=0)
        if self._calls and self._calls[0].failed:
            # A sub-workflow that has failed is resumed, and its call stays marked until that is over.
            call = self._calls[0]
            self._log(call, step, errors=0, failed=call.continues is not None)

    # -- going on ------------------------------------------------------------------------------------------------

    def _settle(self, step: ActorStep) -> None:
        if self._moved:
            step.records.append(StandingChanged(standing=self._standing, state_changed=self._state_moved))
            self._moved = self._state_moved = False
        if not self._calls or self._standing.condition is not Condition.SOUND:
            return
        call = self._calls[0]
        if call.continues is not None and not self._follows:
            self._follows = True
            step.commands.append(StartSubWorkflow(sub=call.continues, call=call, resumes=call.failed))
        if call.continues is not None:
            if self._inner:
                self._run(self._inner[0], step)
        elif call.due_unix_s is None:
            self._run(call, step)

    def _run(self, call: QueuedCall, step: ActorStep) -> None:
        if self._running is not None:
            return
        self._running = call
        self._attempt += 1
        standing = self._standing
        step.commands.append(
            RunMethod(call=call, attempt=self._attempt, state=standing.state, version=standing.version)
        )

    def _move(self, **changes: Any) -> None:
        self._standing = replace(self._standing, **changes)
        self._moved = True

    def _not_initialized_error(self) -> VirtualActorNotInitializedError:
        return VirtualActorNotInitializedError(self.actor_id, f"its constructor failed: {self._standing.said}")

    def _quarantine_error(self) -> HoldfastError:
        error = self._standing.error
        if isinstance(error, HoldfastError):
            return error
        return VirtualActorQuarantinedError(self.actor_id, self.terms.class_name, "", self._standing.deaths)


def key_mark(key: str) -> str:
    """An idempotency key as a mark: no nonce, which is hex, can be the same."""
    return "key:" + key


def sub_workflow_nonce(actor_id: str, call_nonce: str) -> str:
    """The mark of the submission of what a call goes on with: the same each time."""
    return hashlib.blake2b(f"{actor_id}\0{call_nonce}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
