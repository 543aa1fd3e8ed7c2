"""What can happen to a virtual actor, and what it asks for.

Every signal may come late, twice or out of order; one of another attempt, or for a call that is over, changes
nothing. No command may be carried out before the records of the same step are durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from holdfast.engine.virtual_actor_records import CallSpec, Outcome, QueuedCall, SubWorkflow


class Unchanged(Enum):
    """In place of a state: the call left it as it was."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Somebody calls a writing method, or the constructor.

    Attributes:
        spec: What is asked for.
        logged: Whether it has to be durable before it runs: its caller will be told that it was accepted. Otherwise
            the caller waits for the value, and asks again when it hears nothing.
    """

    spec: CallSpec
    logged: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """Something an attempt reports.

    Attributes:
        number, attempt: As given in the command that started it.
        started_unix_s, ended_unix_s: When it ran.
    """

    number: int
    attempt: int
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReturned(_Attempt):
    """A method returned a value. `state` is the new state, or UNCHANGED."""

    value: Any
    state: Any = UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContinued(_Attempt):
    """A method returned steps, nodes or a continuation. `state` as above; `request` is opaque: what to submit."""

    request: Any
    state: Any = UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRaised(_Attempt):
    """A method raised: whatever it did to the state is not to be seen again.

    Attributes:
        error: Opaque.
        said: The error in words.
        retryable: What the host found by the user's exception types.
    """

    error: Any
    said: str = ""
    retryable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutReached(_Attempt):
    """An attempt took longer than its `timeout_s`. What it still does is not to be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubWorkflowEnded:
    """The workflow that a call waits for came to its end, with a value or an error.

    Attributes:
        workflow_id: Which.
        value: Its value; `Value.base` as a call's own would be.
        error: Its error, opaque; None when it has a value.
        said: The error in words.
    """

    workflow_id: str
    value: Any = None
    error: Any = None
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDied:
    """The process that ran this actor's code died over it.

    Attributes:
        method: What ran.
    """

    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDue:
    """The time of a call that is tried again has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """Somebody has mended what suspended or quarantined the actor: go on, with the call that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallWithdrawn:
    """Nobody wants this call any more. One that runs goes on."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCancelled:
    """A call is cancelled that waits, runs, or holds the mailbox. What it has not committed takes no effect.

    Attributes:
        number: Which.
        gone_on: Only if it has gone on as a workflow.
    """

    number: int
    gone_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorReset:
    """A stuck actor is reset: the first call of the mailbox is ended, and nothing holds up the others.

    Attributes:
        state: The state to go on from; UNCHANGED for the one that is committed.
        expected_version: Of the state that the caller has seen: at another one nothing is done. None for any.
    """

    state: Any = UNCHANGED
    expected_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKept:
    """A call that had no row gets one: it takes long, and is to be seen."""

    number: int


ActorSignal: TypeAlias = (
    Call
    | MethodReturned
    | MethodContinued
    | MethodRaised
    | TimeoutReached
    | SubWorkflowEnded
    | HostDied
    | RetryDue
    | ResumeRequested
    | CallWithdrawn
    | CallCancelled
    | ActorReset
    | CallKept
)


# -- commands ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMethod:
    """Run a method, or the constructor, on a state.

    Attributes:
        call: Which; its number, and `attempt`, are to be given back in the signals.
        attempt: Rises within an activation.
        state, version: The state to run it on; None and 0 for a constructor. A host that has the object of this
            version at hand may use that.
    """

    call: QueuedCall
    attempt: int
    state: Any
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMethod:
    """Nobody waits for this attempt any more. What it has done to the object is to be thrown away."""

    number: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSubWorkflow:
    """Submit a workflow and report its end. Asked again (after a restart) it is the same workflow.

    Attributes:
        sub: What.
        call: For whom.
        resumes: It has failed before: resume it.
    """

    sub: SubWorkflow
    call: QueuedCall
    resumes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCall:
    """Tell whoever waits for a call.

    Attributes:
        number, nonce: Which.
        outcome: What.
        final: Whether the call is over. One that failed and holds the mailbox is not: it runs again on resume.
    """

    number: int
    nonce: str
    outcome: Outcome
    final: bool = True


ActorCommand: TypeAlias = RunMethod | StopMethod | StartSubWorkflow | AnswerCall
