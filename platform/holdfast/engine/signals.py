"""What can happen to a run. Every signal may come late, twice or out of order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.graph import Graph, TaskIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """Something an attempt reports.

    Attributes:
        task: The task.
        attempt: Number of the attempt, as given in the command that started it.
        started_unix_s, ended_unix_s: When it ran, by the worker's clock.
        place: The worker, when it stands ready to run an in-place task next; else None.
        kept: Remaining tasks of waits that the user's code pickled by itself meanwhile: where to, is not known.
    """

    task: TaskIndex
    attempt: int
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    place: Any = None
    kept: tuple[TaskIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReturned(_Attempt):
    """The task returned a value. `names` are the remaining tasks of waits in it."""

    value: Any
    names: tuple[TaskIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContinued(_Attempt):
    """The task returned a graph in place of a value."""

    graph: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRaised(_Attempt):
    """The task raised. `retryable` is what the worker found by the user's exception types; `names` as above."""

    error: Any
    retryable: bool = True
    names: tuple[TaskIndex, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLost(_Attempt):
    """The worker died. `error` describes how."""

    error: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    """A time that was asked for has come."""

    task: TaskIndex
    due_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReceived:
    """An event of a stream reached this workflow's inbox. Numbers rise within a workflow."""

    stream: tuple[str, str]
    number: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPolled:
    """A listener's own poll returned an event for this task."""

    task: TaskIndex
    attempt: int
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EventAcknowledged:
    """The listener's `event_checkpointed` came to its end."""

    task: TaskIndex
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """What a listener waits for became known: a stream, or a point in time."""

    task: TaskIndex
    attempt: int
    stream: tuple[str, str] | None = None
    due_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody asked to cancel the workflow."""


Signal: TypeAlias = (
    TaskReturned
    | TaskContinued
    | TaskRaised
    | TaskLost
    | TimerDue
    | EventReceived
    | EventPolled
    | EventAcknowledged
    | Subscribed
    | CancelRequested
)
