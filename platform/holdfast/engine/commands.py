"""What a run asks for. Nothing here may be carried out before the records of the same step are durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.graph import NodeSpec, TaskIndex
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTask:
    """Run a task.

    Attributes:
        task, attempt: To be given back in the signals of this attempt.
        node: What to run, its `task_id` the unique one.
        values: The inputs, in the order of `node.inputs`.
        place: The worker to run it in, for an in-place task; None for any.
        hold: Some task may want to run in place after this one: report before leaving the worker.
    """

    task: TaskIndex
    attempt: int
    node: NodeSpec
    values: tuple[Value, ...]
    place: Any = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTask:
    """End an attempt, by force: nobody waits for it any more."""

    task: TaskIndex
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartListener:
    """Poll a listener for this task's event. Asking twice for one attempt is harmless.

    Attributes:
        deaths: How many processes it has taken with it so far: it may have to be kept away from others.
    """

    task: TaskIndex
    attempt: int
    node: NodeSpec
    values: tuple[Value, ...]
    deaths: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopListener:
    """Nobody waits for this event any more."""

    task: TaskIndex
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgeEvent:
    """Tell the listener that its event is durable.

    Attributes:
        deaths: As of `StartListener`, counted from when the event was taken.
    """

    task: TaskIndex
    attempt: int
    node: NodeSpec
    values: tuple[Value, ...]
    event: Value
    deaths: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """The workflow has ended: tell whoever waits."""

    status: WorkflowStatus


Command: TypeAlias = StartTask | StopTask | StartListener | StopListener | AcknowledgeEvent | Complete
