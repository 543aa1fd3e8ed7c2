"""Which task this code runs in, if any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The task that is running.

    Attributes:
        workflow_id, task_id: As the user sees them.
    """

    workflow_id: str
    task_id: str


_current: ContextVar[TaskContext | None] = ContextVar("holdfast_task", default=None)


def current_task() -> TaskContext | None:
    """The task that runs this code; None outside of one."""
    return _current.get()


@contextmanager
def running(context: TaskContext) -> Iterator[None]:
    """Say that a task runs, for as long as the block does."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
