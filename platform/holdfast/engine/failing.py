"""What becomes of a failure that no retry forgives: a value of the catching task around, or the end.

Whether to try again is decided elsewhere (`retrying`), before this.
"""

from __future__ import annotations

from typing import Any

from holdfast.engine.finishing import finish
from holdfast.engine.graph import TaskIndex
from holdfast.engine.leaving import discard, end_run
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.records import TaskFailed
from holdfast.engine.run_state import RunState
from holdfast.engine.step import Step
from holdfast.engine.timers import log_waiting
from holdfast.engine.transitions import StatusSignal
from holdfast.engine.values import Value


def fail(
    state: RunState,
    task: LiveTask,
    error: Any,
    step: Step,
    *,
    caught: bool,
    names: tuple[TaskIndex, ...] = (),
) -> None:
    """A task has failed for good.

    Args:
        state: Of the run.
        task: The task.
        error: Its error.
        step: Takes what is decided.
        caught: Whether `catch_exceptions` applies to this kind of failure.
        names: Remaining tasks of waits in the error.
    """
    value = Value(error, caught=True, names=names)
    if caught and task.spec.options.catch_exceptions:
        finish(state, task, value, step)
        return
    if task.durable:
        if task.errors or task.deaths:
            # Whoever resumes the workflow begins to count anew; an event that was taken is kept.
            task.errors = task.deaths = 0
            log_waiting(task, step)
        step.records.append(
            TaskFailed(
                task=task.index,
                task_id=task.spec.task_id,
                error=error,
                started_unix_s=task.started_unix_s,
                ended_unix_s=task.ended_unix_s,
            )
        )
    catcher = open_scope(state, task.scope) if caught else None
    if catcher is None:
        end_run(state, step, StatusSignal.TASK_FAILED, error=error, failed_task_id=task.spec.task_id)
        return
    for other in list(state.tasks.values()):
        if other is not catcher and _lies_in(state, other, catcher.index):
            discard(state, other, step)
    finish(state, catcher, value, step)


def open_scope(state: RunState, scope: TaskIndex | None) -> LiveTask | None:
    """The nearest catching task around that has not got its value yet."""
    while scope is not None:
        task = state.tasks.get(scope)
        if task is not None and task.state is TaskState.CONTINUED:
            return task
        scope = state.outer_scope.get(scope)
    return None


def _lies_in(state: RunState, task: LiveTask, scope: TaskIndex) -> bool:
    at = task.scope
    while at is not None and at != scope:
        at = state.outer_scope.get(at)
    return at == scope
