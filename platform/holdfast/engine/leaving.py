"""How tasks leave memory: used up, discarded, or because the workflow has ended.

Nothing here gives a task a value or decides what a failure means.
"""

from __future__ import annotations

from typing import Any

from holdfast.engine.commands import Complete, StopListener, StopTask
from holdfast.engine.graph import TaskIndex
from holdfast.engine.holding import drop, inherit
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.records import WorkflowEnded
from holdfast.engine.run_state import RunState
from holdfast.engine.selectors import is_outside
from holdfast.engine.step import Step
from holdfast.engine.taken_events import log_taken_unlogged
from holdfast.engine.timers import clear_timer
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.engine.values import Value


def release_inputs(state: RunState, task: LiveTask) -> None:
    """A task needs its inputs no longer."""
    if task.missing < 0:
        return
    if not task.durable:
        inherit(state, task)
    for at in task.spec.inputs:
        source = state.tasks.get(at)
        if source is not None:
            source.uses -= 1
            if source.state is not TaskState.DONE and task.index in source.consumers:
                source.consumers.remove(task.index)
            forget_if_unused(state, source)
    # Released once: a task that continued and is then resolved comes here twice.
    task.missing = -1


def forget_if_unused(state: RunState, task: LiveTask) -> None:
    """Drop a task that has its value when nobody will use it again; look at one that has not, before the step ends."""
    if task.uses > 0:
        return
    if task.state is TaskState.DONE:
        drop(state, task)
    else:
        state.unused.append(task.index)


def discard(state: RunState, task: LiveTask, step: Step) -> None:
    """Give a task up, whatever it is doing."""
    halt(state, task, step)
    clear_timer(task, step)
    leave_stream(state, task, step)
    release_inputs(state, task)
    drop(state, task)


def leave_stream(state: RunState, task: LiveTask, step: Step) -> None:
    """A task waits for no event any more."""
    if task.stream is not None:
        state.inbox.leave(task.stream, task.index)
        if is_outside(task.stream[0]):
            step.left.append(task.stream)
        task.stream = None


def halt(state: RunState, task: LiveTask, step: Step) -> None:
    """End the attempt or the poll of a task, if there is one."""
    match task.state:
        case TaskState.RUNNING:
            step.commands.append(StopTask(task=task.index, attempt=task.attempt))
        case TaskState.POLLING | TaskState.ACKNOWLEDGING:
            step.commands.append(StopListener(task=task.index, attempt=task.attempt))
        case _:
            return
    state.busy_less(task)


def end_run(
    state: RunState,
    step: Step,
    reason: StatusSignal,
    *,
    output: Value | None = None,
    origin: TaskIndex | None = None,
    error: Any = None,
    failed_task_id: str = "",
) -> None:
    """The workflow has come to its end."""
    state.status = next_status(state.status, reason)
    for task in state.tasks.values():
        halt(state, task, step)
        clear_timer(task, step)
    state.tasks.clear()
    state.unused.clear()
    state.returned.clear()
    if state.status is not WorkflowStatus.FAILED:
        # One that failed may be resumed, and then needs them.
        log_taken_unlogged(state, step)
    step.records.append(
        WorkflowEnded(
            status=state.status,
            ended_unix_s=step.now_unix_s,
            output=output,
            origin=origin,
            error=error,
            failed_task_id=failed_task_id,
        )
    )
    step.commands.append(Complete(status=state.status))
