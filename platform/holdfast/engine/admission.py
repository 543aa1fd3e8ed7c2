"""How the tasks of a graph come into a run: numbered, named, joined to their inputs.

Nothing here starts a task; those that lack nothing go into the queue of the
run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from holdfast.engine.abandoning import unread_above
from holdfast.engine.errors import InvalidGraphError
from holdfast.engine.failing import fail
from holdfast.engine.graph import Graph, NodeKind, TaskIndex
from holdfast.engine.holding import drop, pass_holds
from holdfast.engine.leaving import release_inputs
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.records import GraphLogged, TaskContinuing
from holdfast.engine.run_state import RunState
from holdfast.engine.step import Step


def admit(state: RunState, graph: Graph, parent: LiveTask | None, step: Step) -> TaskIndex:
    """Take a graph's nodes in; the index of its sink."""
    first = state.next_index
    sink = first + graph.sink
    state.next_index += len(graph.nodes)
    group, catcher, scope = sink, None, None
    durable, volatile_root = True, None
    if parent is not None:
        scope = parent.index if parent.spec.options.catch_exceptions else parent.scope
        volatile_root = parent.volatile_root
        if volatile_root is None and any(node.process_local for node in graph.nodes):
            # The parent is logged once the value is known, and stands for all that is below it until then.
            volatile_root = group = parent.index
        if parent.spec.options.catch_exceptions:
            group, catcher = sink, parent.index
            state.enter_scope(parent.index, parent.scope)
        elif volatile_root != parent.index:
            group = parent.group
        durable = volatile_root is None and _may_be_logged(state, graph, parent)
    nodes = tuple(
        replace(
            node,
            task_id=state.names.assign(node.task_id),
            inputs=tuple(first + at if at >= 0 else -at - 1 for at in node.inputs),
        )
        for node in graph.nodes
    )
    for offset, node in enumerate(nodes):
        index = first + offset
        is_sink = index == sink
        state.add(
            LiveTask(
                index=index,
                spec=node,
                group=group if is_sink else index,
                catcher=catcher if is_sink else None,
                scope=scope,
                durable=durable and node.options.checkpoint,
                numbered=durable,
                volatile_root=volatile_root,
                place_wanted_above=is_sink and parent is not None and state.wants_place_after(parent),
            )
        )
    if durable:
        step.records.append(
            GraphLogged(
                first=first,
                nodes=nodes,
                sink=sink,
                parent=None if parent is None else parent.index,
                group=group,
                catcher=catcher,
                scope=scope,
            )
        )
    join(state, range(first, first + len(nodes)))
    return sink


def _may_be_logged(state: RunState, graph: Graph, parent: LiveTask) -> bool:
    """Not below a task that is not logged, and not with an input whose number means nothing after a crash."""
    if not (parent.durable and parent.spec.options.checkpoint):
        return False
    return all(state.tasks[-at - 1].numbered for node in graph.nodes for at in node.inputs if at < 0)


def join(state: RunState, indexes: Iterable[TaskIndex]) -> None:
    """Join tasks to their inputs; those that lack nothing are ready."""
    for index in indexes:
        task = state.tasks[index]
        for at in task.spec.inputs:
            source = state.tasks[at]
            source.uses += 1
            if source.state is not TaskState.DONE:
                source.consumers.append(index)
                task.missing += 1
        if task.missing == 0 or task.spec.kind is NodeKind.WAIT:
            state.ready.append(task)


def continue_with(state: RunState, task: LiveTask, graph: Graph, step: Step) -> None:
    """A task returned a graph: from now on that computes its value."""
    try:
        graph.check(known=state.tasks)
    except InvalidGraphError as error:
        fail(state, task, error, step, caught=True)
        return
    is_volatile_root = task.volatile_root is None and any(node.process_local for node in graph.nodes)
    task.state = TaskState.CONTINUED
    if not is_volatile_root and _may_be_logged(state, graph, task):
        step.records.append(
            TaskContinuing(
                task=task.index,
                task_id=task.spec.task_id,
                group=task.group,
                started_unix_s=task.started_unix_s,
                ended_unix_s=task.ended_unix_s,
                kept=task.kept,
            )
        )
    admit(state, graph, task, step)
    if state.unread:
        state.unused.extend(unread_above(state, task))
    if is_volatile_root:
        return
    release_inputs(state, task)
    catches = task.spec.options.catch_exceptions
    # A member in the middle of a chain: the task the chain began with stands for it.
    if task.group != task.index and not catches and task.uses <= 0 and state.tasks.get(task.index) is task:
        head = state.tasks.get(task.group)
        if head is not None:
            pass_holds(state, task, head)
        drop(state, task)
