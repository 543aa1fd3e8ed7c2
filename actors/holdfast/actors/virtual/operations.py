"""What a host of virtual actors can be asked to do to the store, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from holdfast.engine.graph import TaskOptions
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.schedules import Overlap
from holdfast.engine.virtual_actor_records import CallSpec, Outcome
from holdfast.engine.virtual_actor_signals import (
    ActorCommand,
    MethodContinued,
    MethodRaised,
    MethodReturned,
    SubWorkflowEnded,
    TimeoutReached,
)
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage.actor_row import ActorRow, ActorSpec, ActorState

# -- reminders, also as part of other operations -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReminder(PlainPickle):
    """Call a method at certain times. One of the same name takes the place of the one before.

    Attributes:
        name: Its name.
        method, arguments, options: The call; arguments are a `Payload`, or a `Blob` of the actor's group.
        nonce: Mark of this request: set twice it is set once.
        timing: The times; intervals are counted from the moment it is set.
        after_s: In place of `timing`: once, so many seconds from the moment it is set.
        overlap, catch_up_s: As of a `Reminder`.
    """

    name: str
    method: str
    nonce: str
    arguments: Any = b""
    options: TaskOptions = field(default_factory=TaskOptions)
    timing: Timing | None = None
    after_s: float | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up_s: float | None = None

    def __post_init__(self) -> None:
        if (self.timing is None) == (self.after_s is None):
            raise ValueError(f"the reminder {self.name!r} needs one of timing and after_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReminder(PlainPickle):
    """Make no more calls by the reminder of this name. Those in the mailbox stay there."""

    name: str


ReminderChange: TypeAlias = SetReminder | CancelReminder


# -- operations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateActor:
    """Make an actor, or find that it is there. Always durable when it is accepted.

    Attributes:
        actor_id: Its id.
        spec: Its class. Of one that is there, the same class in the same or a higher version takes the place of the
            one that is stored; another class is refused.
        call: Its constructor; `creates` is set, `nonce` is also the group of its blobs.
    """

    actor_id: str
    spec: ActorSpec
    call: CallSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptCall:
    """Call a writing method.

    Attributes:
        actor_id: Of whom.
        call: What.
        logged: Whether it is durable when it is accepted (`run_async`), or its caller waits for the value (`run`).
        accepted: Its number, when it has had a row: unknown now, it is over and forgotten. -1 when it may be new.
        class_name: What the caller takes the actor to be; empty when it takes it as it is.
    """

    actor_id: str
    call: CallSpec
    logged: bool = True
    accepted: int = -1
    class_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAttempt:
    """An attempt that a `RunMethod` started has come to its end.

    Attributes:
        seq: The actor.
        epoch: The lease under which it was started; attempts of another one are forgotten.
        signal: How it ended.
        reminders: What the method asked for: done in the transaction in which it takes effect, or not at all.
    """

    seq: int
    epoch: int
    signal: MethodReturned | MethodContinued | MethodRaised | TimeoutReached
    reminders: tuple[ReminderChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSubWorkflow:
    """The workflow that a `StartSubWorkflow` asked for has ended. Told twice it counts once."""

    seq: int
    signal: SubWorkflowEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class FireDue:
    """Some time of an actor may have come: reminders, a call that is tried again. Needless looks are harmless."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeActor:
    """Go on with an actor that is suspended or quarantined. `nonce`: asked twice it is resumed once."""

    actor_id: str
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """Cancel a call in any of its stages; one that is over stays as it is.

    Attributes:
        actor_id: Whose.
        name: Its name.
        gone_on: Only if it has gone on as a workflow.
    """

    actor_id: str
    name: str
    gone_on: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetActor:
    """End the call that an actor is stuck in, and give the actor a state.

    Attributes:
        actor_id: Which.
        nonce: Asked twice it is reset once.
        state: The state to go on from, of the class's version that is stored; None for the one that is committed.
        expected_version: Of the state that the caller has seen; None for any.
    """

    actor_id: str
    nonce: str
    state: ActorState | None = None
    expected_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteActor:
    """Forget an actor that does not work. `nonce`: asked twice it gets the first answer; empty for none."""

    actor_id: str
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepDeleted:
    """Remove some rows of actors that were deleted; see `ActorBatch.sweep`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawCall:
    """Take a call out of the mailbox before it runs.

    Attributes:
        actor_id: Whose.
        mark: Its nonce, or `key_mark` of its idempotency key.
    """

    actor_id: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCall:
    """Give a call a row that has none: it takes long."""

    seq: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeReminder:
    """Set or cancel a reminder from outside the actor. Any host may do it. `class_name`: as in `AcceptCall`."""

    actor_id: str
    change: ReminderChange
    class_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFrom:
    """Make the call of an event; done before, it has no effect.

    Attributes:
        subscription: Number of the rule, which has an actor.
        event: Number of the event.
        actor_id: Of which actor. One that is not there is made if the rule says so.
        after: Number of the event of this actor that has to have its call before; 0 for none. So they keep their
            order also when one of them is refused.
    """

    subscription: int
    event: int
    actor_id: str
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverActor:
    """Hold an actor that is this host's and has work, and that it does not hold in memory.

    Attributes:
        seq: Which.
        died_in: The method that ran when the host before this one died; empty when it was not this one's code. That
            counts once for each time that it is told.
    """

    seq: int
    died_in: str = ""


ActorOperation: TypeAlias = (
    CreateActor
    | AcceptCall
    | EndAttempt
    | EndSubWorkflow
    | FireDue
    | ResumeActor
    | CancelCall
    | ResetActor
    | DeleteActor
    | SweepDeleted
    | WithdrawCall
    | KeepCall
    | ChangeReminder
    | CallFrom
    | RecoverActor
)


# -- outcomes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAccepted(PlainPickle):
    """A call is accepted, now or before.

    Attributes:
        seq, number, name: Where it stands; number -1 for a constructor of an actor that is there already.
        fresh: Whether it was accepted now; else it is the one that came before with the same mark.
        outcome: How it ended, when it has; also the failure of one that holds the mailbox.
    """

    seq: int
    number: int
    name: str
    fresh: bool = True
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDone(PlainPickle):
    """Done.

    Attributes:
        seq: Of the actor.
        fresh: Whether it changed anything.
        count: How many calls it made.
        number: Of a call, -1 for none.
        ended: Name of the call that it ended, now or before; empty for none.
    """

    seq: int
    fresh: bool = True
    count: int = 0
    number: int = -1
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherHost(PlainPickle):
    """Another host has this actor: ask that."""

    host: str


ActorOutcome: TypeAlias = CallAccepted | ActorDone | OtherHost | Exception


@dataclass(slots=True, kw_only=True)
class ActorBatch:
    """What came of one transaction. Nothing of it was to be seen before the commit.

    Attributes:
        outcomes: One per operation, in order.
        commands: (actor, epoch of its lease, command), to be carried out now. The row is as of the end.
        lost: Actors that another host has: stop what runs for them, and let who waits ask again.
        deleted: Actors that are not there any more.
        elsewhere: (host, actor) of those that another host has to take up.
        freed: Keys of blobs that can go.
        blob_groups: Groups of blobs that can go.
        sweep: There are rows of deleted actors: perform `SweepDeleted` when there is time.
        earliest_due_unix_s: The earliest time set, for the alarm.
    """

    outcomes: list[ActorOutcome] = field(default_factory=list)
    commands: list[tuple[ActorRow, int, ActorCommand]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    elsewhere: list[tuple[str, int]] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    blob_groups: list[str] = field(default_factory=list)
    sweep: bool = False
    earliest_due_unix_s: float | None = None

    def note_due(self, due_unix_s: float) -> None:
        """Somebody is to be looked at, at this time."""
        if self.earliest_due_unix_s is None or due_unix_s < self.earliest_due_unix_s:
            self.earliest_due_unix_s = due_unix_s
