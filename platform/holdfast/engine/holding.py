"""Counts what the values of live tasks keep in use: the tasks that they name, and the events that they carry.

A remaining task of a wait is in use as long as somebody may still ask for it:
its split, or a value in which a user's code has put it, is held by a task whose
value is needed. An event that nobody has read can go back as long as nobody
ever will. Nothing here gives anything up; what is not used any more goes into
the queues of the run.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.run_state import CarriedEvent, RunState
from holdfast.engine.values import Split, Value, events_in, keeps, names_in


def hold(state: RunState, value: Value) -> None:
    """Count one more task that has a value."""
    if not keeps(value):
        return
    for index in names_in(value):
        named = state.tasks.get(index)
        if named is not None:
            named.uses += 1
    if isinstance(value.base, Split):
        state.named.update(index for index, _ in value.base.remaining if index in state.tasks)
    for taken, base in events_in(value):
        state.carried.setdefault(taken.number, CarriedEvent(taken, base)).holders += 1


def let_go(state: RunState, value: Value) -> None:
    """Count one task less that has a value: it is forgotten."""
    if not keeps(value):
        return
    for index in names_in(value):
        named = state.tasks.get(index)
        if named is not None:
            named.uses -= 1
            if named.uses <= 0:
                state.unused.append(index)
    for taken, _ in events_in(value):
        event = state.carried.get(taken.number)
        if event is not None:
            event.holders -= 1
            if event.holders <= 0:
                # Another task may get the value within this step.
                state.returned.append(event)


def note_read(state: RunState, values: Iterable[Value]) -> None:
    """Note that user code is given some values: the events in them cannot go back."""
    if not state.carried:
        return
    for value in values:
        for taken, _ in events_in(value):
            event = state.carried.get(taken.number)
            if event is not None:
                event.read = True


def note_kept(state: RunState, task: LiveTask, kept: Iterable[int]) -> None:
    """Note tasks that a task's code has pickled by itself: they are in use until the workflow ends."""
    for index in kept:
        named = state.tasks.get(index)
        if named is not None and index not in task.kept:
            named.uses += 1
            task.kept += (index,)


def inherit(state: RunState, task: LiveTask) -> None:
    """Keep in use what the inputs of an unlogged task hold: after a crash it would read them again."""
    for at in task.spec.inputs:
        source = state.tasks.get(at)
        if source is not None:
            logged = [source.value] if source.durable and source.value is not None else []
            _take_over(state, task, [*source.holds, *logged])


def pass_holds(state: RunState, task: LiveTask, above: LiveTask) -> None:
    """Pass what a task held on to the one that stands for its value."""
    if task.holds:
        _take_over(state, above, task.holds)


def _take_over(state: RunState, task: LiveTask, values: Iterable[Value]) -> None:
    for value in values:
        # By identity: a value that comes by two ways is held once.
        if keeps(value) and not any(value is known for known in task.holds):
            hold(state, value)
            task.holds.append(value)


def drop_holds(state: RunState, task: LiveTask) -> None:
    """Let go of what a task held while it could run again: it is logged, or forgotten."""
    holds, task.holds = task.holds, []
    for value in holds:
        let_go(state, value)


def drop(state: RunState, task: LiveTask) -> None:
    """Hold a task no longer, nor what its value keeps."""
    if state.tasks.get(task.index) is not task:
        return
    state.remove(task)
    if task.holds:
        drop_holds(state, task)
    value = task.value if task.state is TaskState.DONE else task.event
    if value is not None and keeps(value):
        let_go(state, value)
