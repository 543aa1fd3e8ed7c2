"""Events that a task took and whose result is not logged yet.

An event leaves the inbox with the record that holds it, never before. Where
nothing is logged the event is remembered here until nobody needs it, or goes
back into its stream when the task that took it has to run again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from holdfast.engine.graph import TaskIndex
from holdfast.engine.inbox import Stream
from holdfast.engine.live_task import LiveTask
from holdfast.engine.records import EventGivenBack, EventTaken
from holdfast.engine.run_state import CarriedEvent, RunState, TakenUnlogged
from holdfast.engine.step import Step


def log_taken(state: RunState, task: LiveTask, stream: Stream, number: int, value: Any, step: Step) -> None:
    """The event leaves the inbox with the record that holds it; where nothing is logged, when nobody needs it."""
    taken = EventTaken(task=task.index, stream=stream, number=number)
    if task.durable:
        step.records.append(taken)
    else:
        state.taken_unlogged.append(TakenUnlogged(taken, value, task.volatile_root))


def log_taken_unlogged(state: RunState, step: Step, task: TaskIndex | None = None) -> None:
    """Let the events of unlogged tasks leave the inbox: all of them, or those of one task."""
    if state.taken_unlogged:
        step.records.extend(t.taken for t in state.taken_unlogged if task in (None, t.taken.task))
        state.taken_unlogged = [t for t in state.taken_unlogged if task not in (None, t.taken.task)]


def give_back(state: RunState, event: CarriedEvent, step: Step) -> None:
    """Put an event that was not read, and can no longer be, back into its place."""
    stream, number, task = event.taken
    unlogged = [one for one in state.taken_unlogged if one.taken.number == number]
    if unlogged:
        # It has not left the inbox.
        state.taken_unlogged = [one for one in state.taken_unlogged if one.taken.number != number]
    else:
        step.records.append(EventGivenBack(task=task, stream=stream, number=number, value=event.value))
    _call_reader(state, stream, number, event.value)


def give_back_events(state: RunState, volatile_root: TaskIndex) -> None:
    """What tasks that run again had taken goes back into its stream, and to who waits for it now."""
    back = [t for t in state.taken_unlogged if t.volatile_root == volatile_root]
    state.taken_unlogged = [t for t in state.taken_unlogged if t.volatile_root != volatile_root]
    numbers = {one.taken.number for one in back}
    state.returned = deque(event for event in state.returned if event.taken.number not in numbers)
    for one in back:
        state.carried.pop(one.taken.number, None)
        _call_reader(state, one.taken.stream, one.taken.number, one.value)


def _call_reader(state: RunState, stream: Stream, number: int, value: Any) -> None:
    reader = state.inbox.give_back(stream, number, value)
    if reader is not None:
        state.called_back.append(state.tasks[reader])
