"""A run's state from its records, and the step that sets it going again.

Only what the result still needs comes back: a value that was not stored
(`checkpoint=False`) is computed again when an unfinished task takes it, and
not otherwise. Nothing here reads storage; it is given what was read.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.engine.admission import join
from holdfast.engine.graph import NodeSpec, TaskIndex
from holdfast.engine.holding import hold
from holdfast.engine.inbox import Inbox
from holdfast.engine.leaving import forget_if_unused
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.logged_run import LoggedRun
from holdfast.engine.names import TaskNames, never
from holdfast.engine.reading import acknowledge, read
from holdfast.engine.records import GraphLogged, TimerSet
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import RunState
from holdfast.engine.snapshot import Snapshot
from holdfast.engine.starting import start_when_fed
from holdfast.engine.step import Step


def restore(workflow_id: str, image: RunImage, given_before: Callable[[str], bool] = never) -> RunState:
    """The state that the records tell, its tasks not yet joined to their inputs.

    Args:
        workflow_id: Whose it is.
        image: The records; with a snapshot in it, those that it needs.
        given_before: Whether a task of the workflow has this id; asked from now on, and only after a snapshot.

    Returns:
        The state; only what the result still needs is a live task in it.
    """
    state = RunState(workflow_id=workflow_id, inbox=Inbox(image.last_event))
    for event in image.inbox:
        state.inbox.restore(event.stream, event.number, event.value)
    if image.snapshot is None:
        _restore_from_records(state, image)
    else:
        state.names = TaskNames(image.snapshot.names, given_before)
        _restore_from_snapshot(state, image, image.snapshot)
    return state


def _restore_from_snapshot(state: RunState, image: RunImage, snapshot: Snapshot) -> None:
    state.next_index, state.root = snapshot.next_index, snapshot.root
    state.outer_scope.update(snapshot.outer_scope)
    specs = {
        index: (graph, node) for graph in image.graphs for index, node in enumerate(graph.nodes, start=graph.first)
    }
    for index in snapshot.live:
        state.add(_restore_task(index, specs, image))
    state.tasks[state.root].uses += 1
    for index, uses in snapshot.kept.items():
        state.tasks[index].uses += uses
    _hold_values(state)
    state.named.update(snapshot.named)
    state.unread.update(dict.fromkeys(snapshot.unread, True))
    for number in snapshot.read:
        if number in state.carried:
            state.carried[number].read = True


def _restore_from_records(state: RunState, image: RunImage) -> None:
    logged = LoggedRun(state, image)
    needed = logged.reach([state.root, *logged.pickled])
    unread = [at for at in logged.remaining if at not in needed and at not in image.finished]
    # What waits for an event was withdrawn when nobody could read it any more; the rest goes on.
    unread = [at for at in unread if logged.goes_on_unread(at)]
    needed |= logged.reach(unread)
    for index in sorted(needed):
        state.add(_restore_task(index, logged.specs, image))
    state.tasks[state.root].uses += 1
    unseen = [at for index in needed for at in logged.unseen.get(index, ())]
    for at in (*logged.pickled, *unseen):
        if at in state.tasks:
            state.tasks[at].uses += 1
    _hold_values(state)
    state.named.update(at for at in logged.remaining if at in state.tasks)
    state.unread.update(dict.fromkeys(unread, True))
    logged.note_read(state)
    for event in logged.unread_events(state):
        state.carried[event.taken.number] = event
        state.returned.append(event)


def _hold_values(state: RunState) -> None:
    for task in state.tasks.values():
        value = task.event if task.value is None else task.value
        if value is not None:
            hold(state, value)


def _restore_task(index: TaskIndex, specs: dict[TaskIndex, tuple[GraphLogged, NodeSpec]], image: RunImage) -> LiveTask:
    graph, node = specs[index]
    is_sink = index == graph.sink
    task = LiveTask(
        index=index,
        spec=node,
        group=graph.group if is_sink else index,
        catcher=graph.catcher if is_sink else None,
        scope=graph.scope,
        durable=node.options.checkpoint or index in image.finished,
    )
    done, continuing, waiting = image.finished.get(index), image.continuing.get(index), image.waiting.get(index)
    if done is not None:
        task.state, task.value, task.missing, task.kept = TaskState.DONE, done.value, -1, done.kept
    elif continuing is not None:
        task.state, task.missing = TaskState.CONTINUED, -1
        task.started_unix_s, task.ended_unix_s = continuing.started_unix_s, continuing.ended_unix_s
        task.kept = continuing.kept
    elif waiting is not None:
        task.state = TaskState.WAITING
        task.due_unix_s, task.stream, task.event = waiting.due_unix_s, waiting.stream, waiting.event
        task.deaths, task.errors = waiting.deaths, waiting.errors
        task.started_unix_s = waiting.started_unix_s
    return task


def take_up(state: RunState, step: Step) -> None:
    """Join what was restored, and take up each unfinished task where its record left it."""
    unfinished = [task for task in state.tasks.values() if task.state in (TaskState.BLOCKED, TaskState.WAITING)]
    join(state, (task.index for task in unfinished))
    for task in state.tasks.values():
        # In order of index: whoever stands above has been seen before.
        above = state.tasks.get(task.group) if task.group != task.index else None
        if above is None and task.catcher is not None:
            above = state.tasks.get(task.catcher)
        task.place_wanted_above = above is not None and state.wants_place_after(above)
    for task in list(state.tasks.values()):
        forget_if_unused(state, task)
    for task in unfinished:
        # An event that was there already may have finished others, or the workflow.
        if task.state is not TaskState.WAITING or state.tasks.get(task.index) is not task:
            continue
        if task.due_unix_s is not None:
            step.records.append(TimerSet(task=task.index, due_unix_s=task.due_unix_s))
            if task.stream is not None:
                # It waits for an event, and not for longer than until then.
                read(state, task, task.stream, step)
        elif task.event is not None:
            acknowledge(state, task, step)
        elif task.stream is not None:
            read(state, task, task.stream, step)
        else:
            start_when_fed(state, task, step)
