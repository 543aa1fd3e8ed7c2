"""A task that a run holds in memory: one that is not finished, or whose value is still needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from holdfast.engine.graph import NodeSpec, TaskIndex
from holdfast.engine.values import Value


class TaskState(Enum):
    """What a live task is doing."""

    BLOCKED = "inputs are missing"
    RUNNING = "an attempt runs in a worker"
    WAITING = "for a time, a stream, or other tasks"
    POLLING = "a listener polls for its event"
    ACKNOWLEDGING = "the listener is told that its event is durable"
    CONTINUED = "another graph computes its value"
    DONE = "it has its value"


@dataclass(slots=True, kw_only=True)
class LiveTask:
    """One task's state. Changed by the run only.

    Attributes:
        index: The task's number.
        spec: Its node; `task_id` unique, `inputs` task indexes.
        group: The task that gets this one's value when it has it: itself, or where the chain of continuations
            it belongs to began. One hop however long the chain.
        catcher: The task whose `catch_exceptions` lies directly around this one's value.
        scope: The task that catches what fails here.
        durable: Whether it is logged.
        numbered: Whether its graph is logged, so that its number stands for it after a crash too.
        place_wanted_above: A task that takes the value of the chain it ends, or of a catch around it, runs in place.
        volatile_root: The task to run again when the worker that holds process-local values dies.
        missing: How many inputs have no value yet.
        consumers: Who takes its value, once per use.
        uses: How many uses are not over yet, by tasks that take it and values that name it; at 0 a finished task is
            forgotten.
        holds: Of one that is not logged: the values that it would read once more after a crash.
        kept: Remaining tasks of waits that its code has pickled by itself.
    """

    index: TaskIndex
    spec: NodeSpec
    group: TaskIndex
    catcher: TaskIndex | None = None
    scope: TaskIndex | None = None
    durable: bool = True
    numbered: bool = True
    place_wanted_above: bool = False
    volatile_root: TaskIndex | None = None
    state: TaskState = TaskState.BLOCKED
    missing: int = 0
    consumers: list[TaskIndex] = field(default_factory=list)
    uses: int = 0
    holds: list[Value] = field(default_factory=list)
    kept: tuple[TaskIndex, ...] = ()
    attempt: int = 0
    deaths: int = 0
    errors: int = 0
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    value: Value | None = None
    due_unix_s: float | None = None
    stream: tuple[str, str] | None = None
    event: Value | None = None
