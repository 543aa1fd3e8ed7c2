"""Whether an attempt that failed is made again, and what runs again with it."""

from __future__ import annotations

from holdfast.engine.failing import fail
from holdfast.engine.graph import NodeKind, TaskIndex
from holdfast.engine.leaving import discard
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.run_state import RunState
from holdfast.engine.signals import TaskLost, TaskRaised
from holdfast.engine.starting import start
from holdfast.engine.step import Step
from holdfast.engine.taken_events import give_back_events
from holdfast.engine.timers import log_waiting, wait_until

LISTENED_WELL_S = 600.0
"""A listener that polled for so long before it raised had recovered from the errors before: they count no more."""


def retry_or_fail(state: RunState, task: LiveTask, signal: TaskRaised | TaskLost, step: Step) -> None:
    """An attempt ended without a value: make another one, now or later, or let the task fail."""
    died = isinstance(signal, TaskLost)
    root = None if task.volatile_root is None else state.tasks.get(task.volatile_root)
    retryable = True if isinstance(signal, TaskLost) else signal.retryable
    if died and root is not None and root.state is TaskState.CONTINUED:
        _discard_below(state, root.index, step)
        task = root
    if died:
        task.deaths += 1
    elif task.spec.kind is NodeKind.EVENT and signal.ended_unix_s - signal.started_unix_s >= LISTENED_WELL_S:
        task.errors = 1
    else:
        task.errors += 1
    options = task.spec.options
    if retryable and options.retry is not None:
        seed = f"{state.workflow_id}/{task.spec.task_id}"
        delay = options.retry.delay_s(task.deaths + task.errors, seed)
        if delay is not None:
            task.state = TaskState.WAITING
            if delay > 0:
                wait_until(task, step.now_unix_s + delay, step)
            else:
                _start_again(state, task, step)
            return
    elif retryable and options.budget.allows(deaths=task.deaths, errors=task.errors, last_was_death=died):
        _start_again(state, task, step)
        return
    names = signal.names if isinstance(signal, TaskRaised) else ()
    fail(state, task, signal.error, step, caught=not died, names=names)


def _start_again(state: RunState, task: LiveTask, step: Step) -> None:
    if task.spec.kind is NodeKind.EVENT:
        # The run may be put away while a listener polls: what has been used up must not be forgotten with it.
        log_waiting(task, step)
    start(state, task, step)


def _discard_below(state: RunState, volatile_root: TaskIndex, step: Step) -> None:
    for other in list(state.tasks.values()):
        if other.volatile_root == volatile_root:
            discard(state, other, step)
    give_back_events(state, volatile_root)
