"""How a task comes by an event of the inbox, and has it acknowledged once it is durable.

Nothing here talks to a listener; that is a command, carried out after the
commit.
"""

from __future__ import annotations

from holdfast.engine.commands import AcknowledgeEvent
from holdfast.engine.errors import EventTimeoutError
from holdfast.engine.failing import fail
from holdfast.engine.finishing import succeed
from holdfast.engine.holding import hold
from holdfast.engine.inbox import Stream
from holdfast.engine.leaving import leave_stream
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.run_state import RunState
from holdfast.engine.selectors import is_outside
from holdfast.engine.step import Step
from holdfast.engine.taken_events import log_taken
from holdfast.engine.timers import clear_timer, log_waiting, wait_until
from holdfast.engine.values import Taken, Value


def read(state: RunState, task: LiveTask, stream: Stream, step: Step) -> None:
    """Take the next event of a stream, or stand in line for it."""
    task.stream = stream
    event = state.inbox.read(stream, task.index)
    if event is None:
        limit_s = task.spec.duration_s
        if limit_s is not None and task.due_unix_s is None:
            wait_until(task, task.started_unix_s + limit_s, step)
        else:
            log_waiting(task, step)
        if is_outside(stream[0]):
            step.reads.append(stream)
        return
    number, value = event
    log_taken(state, task, stream, number, value, step)
    take_event(state, task, Value(value, taken=Taken(stream, number, task.index)), step)


def take_event(state: RunState, task: LiveTask, value: Value, step: Step) -> None:
    """An event has come for this task: its value, unless the listener has to be told first."""
    clear_timer(task, step)
    task.stream = None
    if not task.spec.acknowledge:
        task.ended_unix_s = step.now_unix_s
        succeed(state, task, value, step)
        return
    task.event = value
    hold(state, value)
    # Attempts spent on getting the event do not count against acknowledging it.
    task.errors = task.deaths = 0
    log_waiting(task, step)
    acknowledge(state, task, step)


def give_up(state: RunState, task: LiveTask, step: Step) -> None:
    """No event has come in time: the task fails."""
    assert task.stream is not None
    leave_stream(state, task, step)
    task.ended_unix_s = step.now_unix_s
    fail(state, task, EventTimeoutError(task.spec.task_id, task.spec.duration_s or 0.0), step, caught=True)


def acknowledge(state: RunState, task: LiveTask, step: Step) -> None:
    """Tell the listener that the event is durable."""
    assert task.event is not None
    if task.missing > 0:
        # Loaded, and its inputs are computed again: it comes here when they are there.
        task.state = TaskState.BLOCKED
        return
    task.attempt += 1
    state.set_busy(task, TaskState.ACKNOWLEDGING)
    step.commands.append(
        AcknowledgeEvent(
            task=task.index,
            attempt=task.attempt,
            node=task.spec,
            values=state.values_of(task),
            event=task.event,
            deaths=task.deaths,
        )
    )
