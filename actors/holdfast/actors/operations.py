"""What an executor can be asked to do to the store, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from holdfast.actors.schedule_messages import ScheduleKept, ScheduleOperation
from holdfast.engine.commands import Command
from holdfast.engine.graph import Graph, TaskIndex
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.records import Record
from holdfast.engine.signals import Signal
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_row import WorkflowRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Run a graph under an id; or, when the id is known, what `workflow.run` says of that.

    Attributes:
        nonce: Random mark of this submission: sent twice it counts once. Also the group of the workflow's blobs.
        environment: Hash of the runtime environment in the code store; empty for none.
        dedicated: Give it an executor of its own.
        schedule: Name of the schedule that it is a run of; empty for none.
    """

    workflow_id: str
    graph: Graph
    nonce: str
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    dedicated: bool = False
    schedule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Take a workflow up again that failed or lost its cluster.

    Attributes:
        nonce: Random mark of this request: sent twice it counts once.
        dedicated: Whether to give it an executor of its own; None for as it was submitted.
    """

    workflow_id: str
    nonce: str = ""
    dedicated: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop a workflow for good.

    Attributes:
        nonce: Random mark of this request: sent twice it counts once; empty for none.
    """

    workflow_id: str
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Forget a workflow that is not active.

    Attributes:
        nonce: Random mark of this request: sent twice it counts once; empty for none.
    """

    workflow_id: str
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Put an event into a workflow's inbox.

    Attributes:
        dedupe_id: Events of one workflow with the same id are one; None for no check.
        nonce: Random mark of this request: sent twice it gets the first answer again; empty for none.
    """

    workflow_id: str
    stream: tuple[str, str]
    value: Any
    dedupe_id: str | None = None
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Give a run a signal.

    Attributes:
        epoch: The lease under which what it tells of was started; None for any. Attempts are numbered anew under
            each lease: one of an older lease could be taken for another.
    """

    seq: int
    signal: Signal
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FireTimer:
    """A row of the due index has come due."""

    seq: int
    task: TaskIndex
    due_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recover:
    """Hold a workflow that is this executor's and that it does not hold in memory."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """There is an event of an outside source for a workflow that waits."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Start a workflow with each event of a stream from now on."""

    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Start no more workflows by this rule."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFrom:
    """Submit the workflow of an event; done before, it has no effect.

    Attributes:
        subscription: Number of the rule.
        event: Number of the event.
        workflow_id: Under which id. One that is known already is left alone.
    """

    subscription: int
    event: int
    workflow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Make a workflow FAILED that cannot be worked on.

    Attributes:
        problem: What came of the last try.
    """

    seq: int
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitQueued:
    """Start queued workflows while there are free places."""


Operation: TypeAlias = (
    Submit
    | Resume
    | Cancel
    | Delete
    | Post
    | Deliver
    | FireTimer
    | Recover
    | Wake
    | Subscribe
    | Unsubscribe
    | StartFrom
    | GiveUp
    | AdmitQueued
    | ScheduleOperation
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(PlainPickle):
    """Done.

    Attributes:
        seq: The workflow; -1 where none is meant.
        status: Its status now.
        fresh: Whether this operation set it going (False: it had ended before, nothing runs again).
        acknowledging: Of an event: the task that took it, when its listener is told of it now.
        handled: Of an event that was followed: whether its listener took it well.
    """

    seq: int
    status: WorkflowStatus
    fresh: bool = True
    acknowledging: TaskIndex | None = None
    handled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Another executor drives this workflow: ask it."""

    executor: str


Outcome: TypeAlias = Accepted | Elsewhere | ScheduleKept | Exception


@dataclass(slots=True, kw_only=True)
class Batch:
    """What came of one transaction. Nothing of it was to be seen before the commit.

    Attributes:
        outcomes: One per operation, in order.
        commands: (workflow, command), to be carried out now.
        logged: (workflow, record) as committed, for the log lines.
        ended: Workflows that came to their end.
        deleted: Workflows whose blobs can go.
        lost: Numbers of workflows that somebody else drives now: stop what runs for them.
        put_away: Numbers of workflows that only wait, and left memory.
        elsewhere: (executor, number) of workflows that another executor has to take up.
        sources: Outside sources that somebody waits for, and nobody did before.
        cancel_elsewhere: (executor, id) of workflows that another executor has to cancel.
        scheduled: Ids of workflows that a schedule has started.
        dropped_groups: Groups of blobs that can go: those of schedules.
        earliest_due_unix_s: The earliest timer set, for the alarm.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    commands: list[tuple[WorkflowRow, Command]] = field(default_factory=list)
    logged: list[tuple[WorkflowRow, Record]] = field(default_factory=list)
    ended: list[WorkflowRow] = field(default_factory=list)
    deleted: list[WorkflowRow] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    put_away: list[int] = field(default_factory=list)
    elsewhere: list[tuple[str, int]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    cancel_elsewhere: list[tuple[str, str]] = field(default_factory=list)
    scheduled: list[str] = field(default_factory=list)
    dropped_groups: list[str] = field(default_factory=list)
    earliest_due_unix_s: float | None = None
