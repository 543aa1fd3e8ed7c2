"""How a task gets its value, and with it every task whose value this is; splits among them.

A chain of continuations is never walked here: every member knows where it
began. Nothing here starts a task; what becomes ready goes into the queue of
the run.
"""

from __future__ import annotations

from holdfast.engine.graph import NodeKind, TaskIndex
from holdfast.engine.holding import drop_holds, hold, let_go, pass_holds
from holdfast.engine.leaving import end_run, forget_if_unused, release_inputs
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.records import TaskFinished
from holdfast.engine.run_state import RunState
from holdfast.engine.step import Step
from holdfast.engine.taken_events import log_taken_unlogged
from holdfast.engine.timers import clear_timer
from holdfast.engine.transitions import StatusSignal
from holdfast.engine.values import Split, Value, keeps


def succeed(state: RunState, task: LiveTask, value: Value, step: Step) -> None:
    """A task has computed its value, or got it."""
    finish(state, task, value.wrapped() if task.spec.options.catch_exceptions else value, step)


def finish(state: RunState, task: LiveTask, value: Value, step: Step) -> None:
    """Give a task its value, and with it every task whose value this is."""
    origin: TaskIndex | None = None
    current: LiveTask | None = task
    while current is not None:
        current.state, current.value = TaskState.DONE, value
        if keeps(value):
            hold(state, value)
        if current.event is not None:
            let_go(state, current.event)
            current.event = None
        if current.durable and isinstance(value.base, Split) and value.base.passing:
            _give_up_logging(state, current)
        if current.durable:
            step.records.append(_finished(current, value, origin))
            origin = current.index if origin is None else origin
            if current.holds:
                drop_holds(state, current)
        release_inputs(state, current)
        _tell_consumers(state, current)
        if current.index == state.root:
            end_run(state, step, StatusSignal.OUTPUT_SAVED, output=value, origin=origin)
            return
        if current.group != current.index:
            above = state.tasks.get(current.group)
        elif current.catcher is not None:
            above = state.tasks.get(current.catcher)
            value = value.wrapped()
        else:
            above = None
        if above is not None:
            pass_holds(state, current, above)
        forget_if_unused(state, current)
        current = above if above is not None and above.state is TaskState.CONTINUED else None


def _give_up_logging(state: RunState, task: LiveTask) -> None:
    task.durable = False
    state.not_durable += 1


def _tell_consumers(state: RunState, task: LiveTask) -> None:
    for index in task.consumers:
        consumer = state.tasks[index]
        consumer.missing -= 1
        if consumer.spec.kind is NodeKind.WAIT or consumer.missing == 0:
            state.ready.append(consumer)
    task.consumers = []


def check_wait(state: RunState, task: LiveTask, step: Step) -> bool:
    """Split the inputs of a wait when enough of them are there. Returns whether they were."""
    if len(task.spec.inputs) - task.missing >= task.spec.num_returns:
        clear_timer(task, step)
        split(state, task, step)
        return True
    return False


def split(state: RunState, task: LiveTask, step: Step) -> None:
    """Decide which inputs of a wait are ready, once for all."""
    ready: list[tuple[TaskIndex, Value]] = []
    remaining: list[tuple[TaskIndex, str]] = []
    passing = False
    for at in task.spec.inputs:
        source = state.tasks[at]
        passing = passing or not source.numbered
        if source.value is not None and len(ready) < task.spec.num_returns:
            ready.append((at, source.value))
            base = source.value.base
            passing = passing or (isinstance(base, Split) and base.passing)
            _log_for_split(state, source, step)
        else:
            remaining.append((at, source.spec.task_id))
    task.ended_unix_s = step.now_unix_s
    succeed(state, task, Value(Split(tuple(ready), tuple(remaining), passing)), step)


def _log_for_split(state: RunState, source: LiveTask, step: Step) -> None:
    """Log a value that its own options leave out: a logged split tells its values by the tasks they come from."""
    if source.durable or not source.numbered or source.value is None:
        return
    source.durable = True
    state.not_durable -= 1
    log_taken_unlogged(state, step, source.index)
    step.records.append(_finished(source, source.value, None))


def _finished(task: LiveTask, value: Value, origin: TaskIndex | None) -> TaskFinished:
    return TaskFinished(
        task=task.index,
        task_id=task.spec.task_id,
        value=value,
        origin=origin,
        started_unix_s=task.started_unix_s,
        ended_unix_s=task.ended_unix_s,
        kept=task.kept,
    )
