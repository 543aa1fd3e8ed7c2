"""What a task does when its inputs are there, by the kind of its node."""

from __future__ import annotations

from holdfast.engine.commands import StartListener, StartTask
from holdfast.engine.errors import ResultNotStoredError
from holdfast.engine.failing import fail
from holdfast.engine.finishing import check_wait
from holdfast.engine.given_numbers import FARTHEST_UNIX_S
from holdfast.engine.graph import NodeKind
from holdfast.engine.holding import note_read
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.reading import acknowledge, read
from holdfast.engine.run_state import RunState
from holdfast.engine.step import Step
from holdfast.engine.timers import wait_until


def start(state: RunState, task: LiveTask, step: Step) -> None:
    """Start a task that lacks nothing, or has what it needs to begin to wait."""
    match task.spec.kind:
        case NodeKind.CALL:
            _start_call(state, task, step)
        case NodeKind.WAIT:
            _start_wait(state, task, step)
        case NodeKind.SLEEP:
            note_read(state, state.values_of(task))
            task.state = TaskState.WAITING
            task.started_unix_s = step.now_unix_s
            # Rows of older versions have None for infinity.
            duration_s = FARTHEST_UNIX_S if task.spec.duration_s is None else task.spec.duration_s
            wait_until(task, step.now_unix_s + duration_s, step)
        case NodeKind.EVENT:
            _start_event(state, task, step)


def start_when_fed(state: RunState, task: LiveTask, step: Step) -> None:
    """Start a task that waited; after a load its inputs may have to be computed again first."""
    if task.missing > 0:
        task.state = TaskState.BLOCKED
    else:
        start(state, task, step)


def _start_call(state: RunState, task: LiveTask, step: Step) -> None:
    place = step.place if task.spec.options.in_place else None
    if task.spec.process_local and place is None:
        fail(
            state,
            task,
            ResultNotStoredError(
                f"task {task.spec.task_id!r} was given a value that lives only in the worker that returned it, "
                "and that worker is not there any more",
                "Give it no inputs that other workers compute, or pass a value that can be pickled",
            ),
            step,
            caught=True,
        )
        return
    task.attempt += 1
    # Until the worker says when it began: for who asks about a running task.
    task.started_unix_s = step.now_unix_s
    values = state.values_of(task)
    if state.carried:
        note_read(state, values)
    state.set_busy(task, TaskState.RUNNING)
    step.commands.append(
        StartTask(
            task=task.index,
            attempt=task.attempt,
            node=task.spec,
            values=values,
            place=place,
            hold=state.wants_place_after(task),
        )
    )


def _start_wait(state: RunState, task: LiveTask, step: Step) -> None:
    task.started_unix_s = step.now_unix_s
    task.state = TaskState.WAITING
    if check_wait(state, task, step):
        return
    if task.spec.duration_s is not None and task.due_unix_s is None:
        wait_until(task, step.now_unix_s + task.spec.duration_s, step)


def _start_event(state: RunState, task: LiveTask, step: Step) -> None:
    if task.started_unix_s == 0.0:
        task.started_unix_s = step.now_unix_s
    # They are the arguments of its listener.
    note_read(state, state.values_of(task))
    if task.event is not None:
        acknowledge(state, task, step)
    elif task.spec.stream is not None:
        task.state = TaskState.WAITING
        read(state, task, task.spec.stream, step)
    elif task.spec.due_unix_s is not None:
        task.state = TaskState.WAITING
        wait_until(task, task.spec.due_unix_s, step)
    else:
        task.attempt += 1
        state.set_busy(task, TaskState.POLLING)
        step.commands.append(
            StartListener(
                task=task.index,
                attempt=task.attempt,
                node=task.spec,
                values=state.values_of(task),
                deaths=task.deaths,
            )
        )
