"""Withdraws tasks whose value can no longer be read, and gives back the events that they took.

A wait for an event is withdrawn with all that can only run after it: else it
would take events from those who wait for them now. An event that was taken and
that nobody has read goes back into its place in the stream. What needs no
event runs to its end, as its author meant it to.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.graph import NodeKind, TaskIndex
from holdfast.engine.holding import drop
from holdfast.engine.leaving import discard
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.run_state import RunState
from holdfast.engine.step import Step
from holdfast.engine.taken_events import give_back


def give_up_unused(state: RunState, step: Step) -> None:
    """Give up the tasks that were in use and whose value can no longer be read."""
    tails = _Tails(state)
    while state.unused or state.returned:
        if state.returned:
            event = state.returned.popleft()
            if event.holders <= 0 and state.carried.pop(event.taken.number, None) is event and not event.read:
                give_back(state, event, step)
            continue
        task = state.tasks.get(state.unused.popleft())
        if task is None or task.uses > 0 or task.group != task.index or task.catcher is not None:
            # Gone, in use, or the last of a continuation: its value is that of another task.
            continue
        if task.state is TaskState.DONE:
            drop(state, task)
            continue
        if _waits_for_event(state, task, tails):
            _withdraw(state, task, tails, step)
        else:
            state.unread.setdefault(task.index, task.index in state.named)


def unread_above(state: RunState, task: LiveTask) -> Iterator[TaskIndex]:
    """Find the tasks that continue although unread and that need this one, or are it."""
    seen, todo = {task.index}, [task]
    while todo:
        at = todo.pop()
        if at.index in state.unread:
            yield at.index
        above = [at.group, *at.consumers] if at.catcher is None else [at.group, at.catcher, *at.consumers]
        for index in above:
            found = state.tasks.get(index)
            if found is not None and index not in seen:
                seen.add(index)
                todo.append(found)


class _Tails:
    """For each task that continued: the live task that will give its value. Looked up when first asked for."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._tails: dict[TaskIndex, TaskIndex] | None = None

    def of(self, task: LiveTask) -> LiveTask | None:
        """The live task that will give the value of one that continued; None when it has been given up."""
        if self._tails is None:
            self._tails = tails_of(self._state)
        return self._state.tasks.get(self._tails.get(task.index, -1))


def going_on_unread(state: RunState) -> list[TaskIndex]:
    """Find the tasks named by splits that continue, read or not, and also after the run is loaded again."""
    tails = _Tails(state)
    found = [state.tasks[index] for index in state.named if state.unread.get(index, True)]
    return [
        task.index for task in found if task.state is not TaskState.DONE and not _waits_for_event(state, task, tails)
    ]


def tails_of(state: RunState) -> dict[TaskIndex, TaskIndex]:
    """Find, for each task that continued and still waits for a value, the live task that will give it."""
    tails: dict[TaskIndex, TaskIndex] = {}
    for task in state.tasks.values():
        if task.catcher is not None:
            tails[task.catcher] = task.index
        passes_on = task.state is TaskState.CONTINUED and not task.spec.options.catch_exceptions
        if task.group != task.index and not passes_on:
            tails[task.group] = task.index
    return tails


def _waits_for_event(state: RunState, task: LiveTask, tails: _Tails) -> bool:
    """Whether a task can not have its value before an event has come."""
    seen, todo = {task.index}, [task]
    while todo:
        at = todo.pop()
        if at.spec.kind is NodeKind.EVENT:
            return True
        continued = at.state is TaskState.CONTINUED
        for found in [tails.of(at)] if continued else [state.tasks.get(index) for index in at.spec.inputs]:
            if found is not None and found.state is not TaskState.DONE and found.index not in seen:
                seen.add(found.index)
                todo.append(found)
    return False


def _withdraw(state: RunState, task: LiveTask, tails: _Tails, step: Step) -> None:
    """Withdraw a task that waits for an event, by itself or for one that does; what only it used is looked at next."""
    while task.state is TaskState.CONTINUED:
        # It stays, for what may still run below it: a failure there is its own.
        state.unread[task.index] = False
        tail = tails.of(task)
        if tail is None:
            return
        task = tail
    discard(state, task, step)
