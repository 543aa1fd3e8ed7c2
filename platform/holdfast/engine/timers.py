"""What a task waits for, written down: its due time, and the record that a restart goes on from.

Nothing here fires a timer; that a time has come is a signal to the run.
"""

from __future__ import annotations

from holdfast.engine.given_numbers import FARTHEST_UNIX_S
from holdfast.engine.live_task import LiveTask
from holdfast.engine.records import TaskWaiting, TimerCleared, TimerSet
from holdfast.engine.step import Step

CLOCK_GRAIN_S = 1e-6
"""The index of due times counts in microseconds: a timer may come this much before the float that asked for it."""


def wait_until(task: LiveTask, due_unix_s: float, step: Step) -> None:
    """Let a task wait for a time."""
    # In this order what is not a number becomes the past.
    task.due_unix_s = min(max(0.0, due_unix_s), FARTHEST_UNIX_S)
    log_waiting(task, step)
    step.records.append(TimerSet(task=task.index, due_unix_s=task.due_unix_s))


def log_waiting(task: LiveTask, step: Step) -> None:
    """Write all down that is not to be lost: the latest record of a task takes the place of the one before."""
    if task.durable:
        step.records.append(
            TaskWaiting(
                task=task.index,
                due_unix_s=task.due_unix_s,
                stream=task.stream,
                event=task.event,
                deaths=task.deaths,
                errors=task.errors,
                started_unix_s=task.started_unix_s,
            )
        )


def clear_timer(task: LiveTask, step: Step) -> None:
    """The task waits for no time any more."""
    if task.due_unix_s is not None:
        step.records.append(TimerCleared(task=task.index, due_unix_s=task.due_unix_s))
        task.due_unix_s = None
