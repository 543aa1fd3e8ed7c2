"""What is known of a virtual actor: where it stands, the calls in its mailbox, and how a call ended.

Plain values, and the records that the machine wants written. States, arguments, results and errors are opaque here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from holdfast.engine.graph import TaskOptions
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value

DEFAULT_MAILBOX_LIMIT = 1000
"""Calls that a mailbox holds, those that run included, unless its class says otherwise."""

DEATHS_ALLOWED = 5
"""So many hosts in a row may die over an actor's code before it is quarantined."""


class Condition(str, Enum):
    """Whether an actor takes the next call out of its mailbox."""

    SOUND = "sound"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How an actor treats its calls; what its class says.

    Attributes:
        class_name: Module and qualified name, for messages.
        mailbox_limit: How many calls its mailbox holds.
        suspends: A call that fails for good holds the mailbox until somebody resumes the actor (`on_error="suspend"`).
    """

    class_name: str = ""
    mailbox_limit: int = DEFAULT_MAILBOX_LIMIT
    suspends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec(PlainPickle):
    """A writing call as it is asked for.

    Attributes:
        method: Its method; "__init__" for a constructor.
        nonce: Random mark of the request: one that comes again is the same call.
        arguments: Opaque.
        key: The user's idempotency key: calls of one actor with the same key are one call; empty for none.
        name: The name asked for; empty for the method's. Made unique as task ids are: `add`, `add_1`, ...
        options: Retries, `catch_exceptions`, `timeout_s` of an attempt and metadata, as of a task.
        creates: It is a constructor.
        chain: Ids of the actors that wait for its answer, the outermost first: a call to one of them is a cycle.
        origin: Who asked, for people: "", "reminder NAME" or "event NAME".
        inside: Number of the call that it is a part of (`self.method.step(...)`): that one has gone on as a workflow,
            and this one runs before it is over. None for a call of its own.
        lent: Its arguments are those of a reminder, which goes on using them.
    """

    method: str
    nonce: str
    arguments: Any = b""
    key: str = ""
    name: str = ""
    options: TaskOptions = field(default_factory=TaskOptions)
    creates: bool = False
    chain: tuple[str, ...] = ()
    origin: str = ""
    inside: int | None = None
    lent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubWorkflow:
    """What a method returned in place of a value: a workflow that gives the call its value.

    Attributes:
        workflow_id: Under which id it runs.
        nonce: Mark of its submission, the same each time: submitted again it is the same workflow.
        request: Opaque; what is to be submitted.
    """

    workflow_id: str
    nonce: str
    request: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCall:
    """A call in a mailbox.

    Attributes:
        number: Its place in the order of acceptance. Rises within an actor, with gaps where calls were lost that
            nobody had been told were accepted.
        name: Unique among the calls of the actor that are kept.
        spec: What was asked for.
        accepted_unix_s: When.
        logged: Whether it has a row. A call whose caller waits for the value needs none: if the host dies, it is
            asked for again.
        errors: How many attempts have raised.
        due_unix_s: When it is tried again, while it waits for that.
        continues: The workflow whose end is the end of the call, while it waits for that.
        started_unix_s, ended_unix_s: Of the method itself, once a sub-workflow goes on from it.
        failed: It has failed for good, and holds the mailbox.
    """

    number: int
    name: str
    spec: CallSpec
    accepted_unix_s: float
    logged: bool = False
    errors: int = 0
    due_unix_s: float | None = None
    continues: SubWorkflow | None = None
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an actor stands: what is committed of it, but for its mailbox.

    Attributes:
        version: How many calls have taken effect, the constructor included: the state is the fold of these.
        state: Opaque; None before the constructor is done.
        initialized: Whether the constructor is done.
        condition: Whether it takes the next call.
        error: What suspended or quarantined it, opaque; None while it is sound.
        said: The last error of a call, in words; empty when there was none.
        deaths: Hosts that died over its code since a call last took effect.
        next_number: Number of the next call.
        names: How often a name was asked for, of those asked for more than once.
        last_call: Name of the call that ended last; empty for none.
        called_unix_s: When that was.
    """

    version: int = 0
    state: Any = None
    initialized: bool = False
    condition: Condition = Condition.SOUND
    error: Any = None
    said: str = ""
    deaths: int = 0
    next_number: int = 0
    names: Mapping[str, int] = field(default_factory=dict)
    last_call: str = ""
    called_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(PlainPickle):
    """How a call ended.

    Attributes:
        value: Its value (with `caught` an error that `catch_exceptions` made a value of); None when it failed.
        error: What it failed with, opaque; None when it has a value.
        version: Of the state, right after it.
    """

    value: Value | None = None
    error: Any = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall:
    """A call that has ended.

    Attributes:
        number, name, method, nonce, key, metadata, origin: As asked for.
        outcome: How.
        accepted_unix_s: When it was accepted.
        started_unix_s, ended_unix_s: When its last attempt began, and when it was over; equal where none ran.
    """

    number: int
    name: str
    method: str
    nonce: str
    outcome: Outcome
    key: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    accepted_unix_s: float = 0.0
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0


def status_of(standing: Standing, *, calls: bool) -> WorkflowStatus:
    """What an actor is listed as.

    Args:
        standing: Where it stands.
        calls: Whether there is a call in its mailbox.
    """
    if standing.condition is Condition.QUARANTINED:
        return WorkflowStatus.FAILED
    if standing.condition is Condition.SUSPENDED:
        return WorkflowStatus.RESUMABLE
    if calls:
        return WorkflowStatus.RUNNING
    return WorkflowStatus.SUCCESSFUL if standing.initialized else WorkflowStatus.FAILED


# -- records -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLogged:
    """A call is in the mailbox, as it is told here; it may have been there otherwise before."""

    call: QueuedCall


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A call is over and leaves the mailbox.

    Attributes:
        call: How it ended.
        logged: Whether it had a row in the mailbox.
        continued: Whether it had gone on as a workflow.
        arguments: What it was called with, opaque: nobody needs it any more.
    """

    call: FinishedCall
    logged: bool
    continued: bool = False
    arguments: Any = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingChanged:
    """Where the actor stands now.

    Attributes:
        standing: All of it.
        state_changed: Whether the state is another one: only then is the old one's place free.
    """

    standing: Standing
    state_changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySet:
    """Look at the actor at a time: a call is tried again."""

    due_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryCleared:
    """That time has come, or is not needed any more."""

    due_unix_s: float


ActorRecord: TypeAlias = CallLogged | CallEnded | StandingChanged | RetrySet | RetryCleared
