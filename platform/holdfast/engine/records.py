"""What a run writes down. Loading the records gives the run back.

Records are written in the order given, all of one step in one transaction.
Each is safe to write twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.graph import NodeSpec, TaskIndex
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLogged:
    """Tasks `first`, `first + 1`, ... were admitted.

    Attributes:
        first: Index of the first node.
        nodes: The nodes, their `task_id` made unique, their inputs task indexes.
        sink: Index of the task whose value is the graph's.
        parent: The task that returned the graph; None for the graph submitted.
        group: The task that gets the sink's value; the sink itself when nobody does before a catch.
        catcher: The task whose `catch_exceptions` lies directly around the sink's value, if any.
        scope: The task that catches what fails in this graph, if any.
    """

    first: TaskIndex
    nodes: tuple[NodeSpec, ...]
    sink: TaskIndex
    parent: TaskIndex | None
    group: TaskIndex
    catcher: TaskIndex | None
    scope: TaskIndex | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished:
    """A task has its value.

    Attributes:
        origin: The task under whose record the base is stored, when not this one's.
        kept: Remaining tasks of waits that its code has pickled by itself: where to, is not known.
    """

    task: TaskIndex
    task_id: str
    value: Value
    origin: TaskIndex | None
    started_unix_s: float
    ended_unix_s: float
    kept: tuple[TaskIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContinuing:
    """A task returned a graph; its own execution is over, its value will be the graph's. `kept` as above."""

    task: TaskIndex
    task_id: str
    group: TaskIndex
    started_unix_s: float
    ended_unix_s: float
    kept: tuple[TaskIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
    """A task failed for good, and with it the workflow or the scope it ran in."""

    task: TaskIndex
    task_id: str
    error: Any
    started_unix_s: float
    ended_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWaiting:
    """A task waits: for a time, for an event, or for its next attempt.

    Attributes:
        due_unix_s: When it goes on by itself, if ever.
        stream: The stream it reads, if any.
        event: The event it has taken, to be acknowledged to its listener.
        deaths, errors: Attempts used up so far.
        started_unix_s: When it began, by the clock of the engine's caller.
    """

    task: TaskIndex
    due_unix_s: float | None = None
    stream: tuple[str, str] | None = None
    event: Value | None = None
    deaths: int = 0
    errors: int = 0
    started_unix_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSet:
    """Wake this task at a time."""

    task: TaskIndex
    due_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerCleared:
    """The timer is used up or not needed any more."""

    task: TaskIndex
    due_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTaken:
    """An event of the inbox was given to a task and will be given to no other."""

    task: TaskIndex
    stream: tuple[str, str]
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventGivenBack:
    """A task that took an event was withdrawn before the event was read: it is in the inbox again.

    What was recorded of the task is void.
    """

    task: TaskIndex
    stream: tuple[str, str]
    number: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEnded:
    """The workflow came to its end.

    Attributes:
        status: SUCCESSFUL, FAILED or CANCELED.
        ended_unix_s: When.
        output: The value, when successful; `origin` as in `TaskFinished`.
        error: The error that ended it, when failed.
        failed_task_id: The task it came from, when failed.
    """

    status: WorkflowStatus
    ended_unix_s: float
    output: Value | None = None
    origin: TaskIndex | None = None
    error: Any = None
    failed_task_id: str = ""


Record: TypeAlias = (
    GraphLogged
    | TaskFinished
    | TaskContinuing
    | TaskFailed
    | TaskWaiting
    | TimerSet
    | TimerCleared
    | EventTaken
    | EventGivenBack
    | WorkflowEnded
)
