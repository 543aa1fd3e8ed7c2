"""One workflow's state machine: signals in, records and commands out.

Rules of this room:

1. A step's commands are carried out only after its records are durable.
2. A signal may be late, repeated or out of order; one that does not fit the
   state (another attempt, a finished task) changes nothing.
3. What a run keeps follows what is unfinished, not what has been done: a task
   is forgotten once it has its value and nobody will use it again.
4. A chain of continuations is never walked: every member knows where it began.

Nothing here knows Ray, asyncio, storage or the clock; time comes in with each
step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from holdfast.engine.commands import AcknowledgeEvent, Complete, StartListener, StartTask, StopListener, StopTask
from holdfast.engine.errors import InvalidGraphError, ResultNotStoredError
from holdfast.engine.graph import Graph, NodeKind, TaskIndex
from holdfast.engine.inbox import Stream
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.records import (
    EventTaken,
    GraphLogged,
    TaskContinuing,
    TaskFailed,
    TaskFinished,
    TaskWaiting,
    TimerCleared,
    TimerSet,
    WorkflowEnded,
)
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import RunState, restore
from holdfast.engine.selectors import is_outside
from holdfast.engine.signals import (
    CancelRequested,
    EventAcknowledged,
    EventPolled,
    EventReceived,
    Signal,
    Subscribed,
    TaskContinued,
    TaskLost,
    TaskRaised,
    TaskReturned,
    TimerDue,
)
from holdfast.engine.step import Step
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.engine.values import Split, Value

NOTHING = Value(None)
"""The value of what only waits."""

FARTHEST_UNIX_S = 253_370_764_800.0
"""The year 9999: what waits longer waits until then, since no calendar goes further."""

CLOCK_GRAIN_S = 1e-6
"""The index of due times counts in microseconds: a timer may come this much before the float that asked for it."""


@dataclass(frozen=True, slots=True)
class _TakenUnlogged:
    """An event that a task took whose result is not logged: the inbox keeps it until nobody needs it."""

    taken: EventTaken
    value: Any
    volatile_root: TaskIndex | None


class Run:
    """A workflow that is being driven.

    Make one with `create` (a new workflow) or `load` (from its records).
    """

    def __init__(self, workflow_id: str, state: RunState) -> None:
        self.workflow_id = workflow_id
        self.status = WorkflowStatus.RUNNING
        self._tasks = state.tasks
        self._names = state.names
        self._next_index = state.next_index
        self._root = state.root
        self._inbox = state.inbox
        self._outer_scope = state.outer_scope
        self._busy = 0
        self._not_durable = sum(not task.durable for task in self._tasks.values())
        self._ready: deque[LiveTask] = deque()
        self._taken_unlogged: list[_TakenUnlogged] = []
        self._called_back: deque[LiveTask] = deque()

    # -- beginning -----------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, workflow_id: str, graph: Graph, now_unix_s: float) -> tuple[Run, Step]:
        """A new run of a graph, and its first step.

        Raises:
            InvalidGraphError: The graph could never finish.
        """
        graph.check()
        run, step = cls(workflow_id, RunState()), Step(now_unix_s=now_unix_s)
        run._root = run._admit(graph, None, step)
        run._tasks[run._root].uses += 1
        run._settle(step)
        return run, step

    @classmethod
    def load(cls, workflow_id: str, image: RunImage, now_unix_s: float) -> tuple[Run, Step]:
        """A run as its records tell it, and the step that sets it going again.

        Only what the result still needs is taken up: a value that was not stored
        (`checkpoint=False`) is computed again when an unfinished task takes it, and
        not otherwise.
        """
        run, step = cls(workflow_id, restore(image)), Step(now_unix_s=now_unix_s)
        run._take_up(step)
        run._settle(step)
        return run, step

    # -- what the shell asks -------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every task only waits and nothing would be lost by forgetting the run until it is woken."""
        return not self._busy and not self._not_durable and not self.status.ended

    @property
    def live_tasks(self) -> int:
        """How many tasks are held in memory."""
        return len(self._tasks)

    def attempt_of(self, index: TaskIndex) -> int:
        """The current attempt of a live task; 0 for one that is not live."""
        task = self._tasks.get(index)
        return 0 if task is None else task.attempt

    def find(self, task_id: str) -> LiveTask | None:
        """The live task of this id, if there is one."""
        return next((task for task in self._tasks.values() if task.spec.task_id == task_id), None)

    def awaits(self, stream: Stream) -> bool:
        """Whether some task waits for an event of this stream."""
        return not self.status.ended and self._inbox.has_reader(stream)

    def waits_for(self) -> list[str]:
        """What an idle run waits for, in words: for people, and for the law that every run waits for something."""
        return [
            f"{task.spec.task_id}: {task.state.value}"
            for task in self._tasks.values()
            if task.state in (TaskState.WAITING, TaskState.POLLING, TaskState.ACKNOWLEDGING, TaskState.RUNNING)
        ]

    # -- signals -------------------------------------------------------------------------------------------------

    def apply(self, signal: Signal, now_unix_s: float) -> Step:
        """Take one signal.

        Args:
            signal: What happened.
            now_unix_s: The time, in seconds since the epoch.

        Returns:
            What to write and then to do; empty when the signal changes nothing.
        """
        step = Step(now_unix_s=now_unix_s)
        if self.status.ended:
            return step
        match signal:
            case CancelRequested():
                self._end(step, StatusSignal.CANCEL_REQUESTED)
            case EventReceived():
                self._receive(signal, step)
            case TimerDue():
                self._timer_due(signal, step)
            case TaskReturned() | TaskContinued() | TaskRaised() | TaskLost():
                self._attempt_ended(signal, step)
            case EventPolled() | EventAcknowledged() | Subscribed():
                self._listener_said(signal, step)
        self._settle(step)
        return step

    def _attempt_ended(self, signal: TaskReturned | TaskContinued | TaskRaised | TaskLost, step: Step) -> None:
        task = self._tasks.get(signal.task)
        if task is None or task.attempt != signal.attempt:
            return
        if task.state in (TaskState.POLLING, TaskState.ACKNOWLEDGING) and isinstance(signal, TaskRaised | TaskLost):
            self._busy_less(task)
            self._retry_or_fail(task, signal, step)
            return
        if task.state is not TaskState.RUNNING:
            return
        self._busy_less(task)
        task.started_unix_s, task.ended_unix_s = signal.started_unix_s, signal.ended_unix_s
        step.place = signal.place
        match signal:
            case TaskReturned():
                self._succeed(task, Value(signal.value), step)
            case TaskContinued():
                self._continue(task, signal.graph, step)
            case TaskRaised() | TaskLost():
                self._retry_or_fail(task, signal, step)

    def _timer_due(self, signal: TimerDue, step: Step) -> None:
        task = self._tasks.get(signal.task)
        if task is None or task.due_unix_s is None or step.now_unix_s < task.due_unix_s - CLOCK_GRAIN_S:
            return
        self._clear_timer(task, step)
        if task.state is not TaskState.WAITING:
            return
        match task.spec.kind:
            case NodeKind.WAIT:
                self._split(task, step)
            case NodeKind.SLEEP:
                task.ended_unix_s = step.now_unix_s
                self._succeed(task, NOTHING, step)
            case NodeKind.EVENT if task.errors == 0 and task.deaths == 0:
                task.ended_unix_s = step.now_unix_s
                self._take_event(task, NOTHING, step)
            case _:
                self._start_when_fed(task, step)

    def _listener_said(self, signal: EventPolled | EventAcknowledged | Subscribed, step: Step) -> None:
        task = self._tasks.get(signal.task)
        if task is None:
            return
        if isinstance(signal, EventAcknowledged):
            if task.state is TaskState.ACKNOWLEDGING and task.event is not None:
                self._busy_less(task)
                task.ended_unix_s = step.now_unix_s
                self._succeed(task, task.event, step)
            return
        if task.state is not TaskState.POLLING:
            return
        self._busy_less(task)
        if isinstance(signal, EventPolled):
            self._take_event(task, Value(signal.value), step)
            return
        task.state = TaskState.WAITING
        # The listener has been heard; from here on a due time is the event and not a back-off.
        task.errors = task.deaths = 0
        if signal.stream is not None:
            self._read(task, signal.stream, step)
        else:
            self._wait_until(task, signal.due_unix_s or step.now_unix_s, step)

    def _receive(self, event: EventReceived, step: Step) -> None:
        reader = self._inbox.receive(event.stream, event.number, event.value)
        task = None if reader is None else self._tasks.get(reader)
        if task is not None:
            self._log_taken(task, event.stream, event.number, event.value, step)
            self._take_event(task, Value(event.value), step)

    # -- admission -----------------------------------------------------------------------------------------------

    def _admit(self, graph: Graph, parent: LiveTask | None, step: Step) -> TaskIndex:
        """Take a graph's nodes in; the index of its sink."""
        first = self._next_index
        sink = first + graph.sink
        self._next_index += len(graph.nodes)
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
                self._outer_scope[parent.index] = parent.scope
            elif volatile_root != parent.index:
                group = parent.group
            durable = volatile_root is None and self._may_be_logged(graph, parent)
        nodes = tuple(
            replace(
                node,
                task_id=self._names.assign(node.task_id),
                inputs=tuple(first + at if at >= 0 else -at - 1 for at in node.inputs),
            )
            for node in graph.nodes
        )
        for offset, node in enumerate(nodes):
            index = first + offset
            is_sink = index == sink
            self._add(
                LiveTask(
                    index=index,
                    spec=node,
                    group=group if is_sink else index,
                    catcher=catcher if is_sink else None,
                    scope=scope,
                    durable=durable and node.options.checkpoint,
                    numbered=durable,
                    volatile_root=volatile_root,
                    place_wanted_above=is_sink and parent is not None and self._wants_place_after(parent),
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
        self._connect(range(first, first + len(nodes)))
        return sink

    def _may_be_logged(self, graph: Graph, parent: LiveTask) -> bool:
        """Not below a task that is not logged, and not with an input whose number means nothing after a crash."""
        if not (parent.durable and parent.spec.options.checkpoint):
            return False
        return all(self._tasks[-at - 1].numbered for node in graph.nodes for at in node.inputs if at < 0)

    def _add(self, task: LiveTask) -> None:
        self._tasks[task.index] = task
        if not task.durable:
            self._not_durable += 1

    def _connect(self, indexes: Iterable[TaskIndex]) -> None:
        """Join tasks to their inputs; those that lack nothing are ready."""
        for index in indexes:
            task = self._tasks[index]
            for at in task.spec.inputs:
                source = self._tasks[at]
                source.uses += 1
                if source.state is not TaskState.DONE:
                    source.consumers.append(index)
                    task.missing += 1
            if task.missing == 0 or task.spec.kind is NodeKind.WAIT:
                self._ready.append(task)

    # -- starting ------------------------------------------------------------------------------------------------

    def _start(self, task: LiveTask, step: Step) -> None:
        match task.spec.kind:
            case NodeKind.CALL:
                self._start_call(task, step)
            case NodeKind.WAIT:
                self._start_wait(task, step)
            case NodeKind.SLEEP:
                task.state = TaskState.WAITING
                task.started_unix_s = step.now_unix_s
                self._wait_until(task, step.now_unix_s + (task.spec.duration_s or 0.0), step)
            case NodeKind.EVENT:
                self._start_event(task, step)

    def _start_when_fed(self, task: LiveTask, step: Step) -> None:
        """Start a task that waited; after a load its inputs may have to be computed again first."""
        if task.missing > 0:
            task.state = TaskState.BLOCKED
        else:
            self._start(task, step)

    def _start_call(self, task: LiveTask, step: Step) -> None:
        place = step.place if task.spec.options.in_place else None
        if task.spec.process_local and place is None:
            self._fail(
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
        self._set_busy(task, TaskState.RUNNING)
        step.commands.append(
            StartTask(
                task=task.index,
                attempt=task.attempt,
                node=task.spec,
                values=self._values_of(task),
                place=place,
                hold=self._wants_place_after(task),
            )
        )

    def _wants_place_after(self, task: LiveTask) -> bool:
        return task.place_wanted_above or any(self._tasks[at].spec.options.in_place for at in task.consumers)

    def _start_wait(self, task: LiveTask, step: Step) -> None:
        task.started_unix_s = step.now_unix_s
        task.state = TaskState.WAITING
        if self._check_wait(task, step):
            return
        if task.spec.duration_s is not None and task.due_unix_s is None:
            self._wait_until(task, step.now_unix_s + task.spec.duration_s, step)

    def _start_event(self, task: LiveTask, step: Step) -> None:
        if task.started_unix_s == 0.0:
            task.started_unix_s = step.now_unix_s
        if task.event is not None:
            self._acknowledge(task, step)
        elif task.spec.stream is not None:
            task.state = TaskState.WAITING
            self._read(task, task.spec.stream, step)
        elif task.spec.due_unix_s is not None:
            task.state = TaskState.WAITING
            self._wait_until(task, task.spec.due_unix_s, step)
        else:
            task.attempt += 1
            self._set_busy(task, TaskState.POLLING)
            step.commands.append(
                StartListener(task=task.index, attempt=task.attempt, node=task.spec, values=self._values_of(task))
            )

    def _read(self, task: LiveTask, stream: Stream, step: Step) -> None:
        task.stream = stream
        event = self._inbox.read(stream, task.index)
        if event is None:
            self._log_waiting(task, step)
            if is_outside(stream[0]):
                step.reads.append(stream)
            return
        number, value = event
        self._log_taken(task, stream, number, value, step)
        self._take_event(task, Value(value), step)

    def _take_event(self, task: LiveTask, value: Value, step: Step) -> None:
        task.stream = None
        if not task.spec.acknowledge:
            task.ended_unix_s = step.now_unix_s
            self._succeed(task, value, step)
            return
        task.event = value
        # Attempts spent on getting the event do not count against acknowledging it.
        task.errors = task.deaths = 0
        self._log_waiting(task, step)
        self._acknowledge(task, step)

    def _acknowledge(self, task: LiveTask, step: Step) -> None:
        assert task.event is not None
        if task.missing > 0:
            # Loaded, and its inputs are computed again: it comes here when they are there.
            task.state = TaskState.BLOCKED
            return
        task.attempt += 1
        self._set_busy(task, TaskState.ACKNOWLEDGING)
        step.commands.append(
            AcknowledgeEvent(
                task=task.index,
                attempt=task.attempt,
                node=task.spec,
                values=self._values_of(task),
                event=task.event,
            )
        )

    def _values_of(self, task: LiveTask) -> tuple[Value, ...]:
        found = []
        for at in task.spec.inputs:
            value = self._tasks[at].value
            assert value is not None, f"task {task.spec.task_id} started before its input {at}"
            found.append(value)
        return tuple(found)

    def _wait_until(self, task: LiveTask, due_unix_s: float, step: Step) -> None:
        # In this order what is not a number becomes the past.
        task.due_unix_s = min(max(0.0, due_unix_s), FARTHEST_UNIX_S)
        self._log_waiting(task, step)
        step.records.append(TimerSet(task=task.index, due_unix_s=task.due_unix_s))

    def _log_waiting(self, task: LiveTask, step: Step) -> None:
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

    def _log_taken(self, task: LiveTask, stream: Stream, number: int, value: Any, step: Step) -> None:
        """The event leaves the inbox with the record that holds it; where nothing is logged, when nobody needs it."""
        taken = EventTaken(task=task.index, stream=stream, number=number)
        if task.durable:
            step.records.append(taken)
        else:
            self._taken_unlogged.append(_TakenUnlogged(taken, value, task.volatile_root))

    def _log_taken_unlogged(self, step: Step, task: TaskIndex | None = None) -> None:
        """Let the events of unlogged tasks leave the inbox: all of them, or those of one task."""
        if self._taken_unlogged:
            step.records.extend(t.taken for t in self._taken_unlogged if task in (None, t.taken.task))
            self._taken_unlogged = [t for t in self._taken_unlogged if task not in (None, t.taken.task)]

    def _give_back_events(self, volatile_root: TaskIndex) -> None:
        """What tasks that run again had taken goes back into its stream, and to who waits for it now."""
        back = [t for t in self._taken_unlogged if t.volatile_root == volatile_root]
        self._taken_unlogged = [t for t in self._taken_unlogged if t.volatile_root != volatile_root]
        for one in back:
            reader = self._inbox.give_back(one.taken.stream, one.taken.number, one.value)
            if reader is not None:
                self._called_back.append(self._tasks[reader])

    def _clear_timer(self, task: LiveTask, step: Step) -> None:
        if task.due_unix_s is not None:
            step.records.append(TimerCleared(task=task.index, due_unix_s=task.due_unix_s))
            task.due_unix_s = None

    # -- finishing -----------------------------------------------------------------------------------------------

    def _succeed(self, task: LiveTask, value: Value, step: Step) -> None:
        self._finish(task, value.wrapped() if task.spec.options.catch_exceptions else value, step)

    def _finish(self, task: LiveTask, value: Value, step: Step) -> None:
        """Give a task its value, and with it every task whose value this is."""
        origin: TaskIndex | None = None
        current: LiveTask | None = task
        while current is not None:
            current.state, current.value = TaskState.DONE, value
            if current.durable and isinstance(value.base, Split) and value.base.passing:
                self._give_up_logging(current)
            if current.durable:
                step.records.append(_finished(current, value, origin))
                origin = current.index if origin is None else origin
            self._release_inputs(current)
            self._tell_consumers(current)
            if current.index == self._root:
                self._end(step, StatusSignal.OUTPUT_SAVED, output=value, origin=origin)
                return
            if current.group != current.index:
                above = self._tasks.get(current.group)
            elif current.catcher is not None:
                above = self._tasks.get(current.catcher)
                value = value.wrapped()
            else:
                above = None
            self._forget_if_unused(current)
            current = above if above is not None and above.state is TaskState.CONTINUED else None

    def _give_up_logging(self, task: LiveTask) -> None:
        task.durable = False
        self._not_durable += 1

    def _tell_consumers(self, task: LiveTask) -> None:
        for index in task.consumers:
            consumer = self._tasks[index]
            consumer.missing -= 1
            if consumer.spec.kind is NodeKind.WAIT or consumer.missing == 0:
                self._ready.append(consumer)
        task.consumers = []

    def _check_wait(self, task: LiveTask, step: Step) -> bool:
        if len(task.spec.inputs) - task.missing >= task.spec.num_returns:
            self._clear_timer(task, step)
            self._split(task, step)
            return True
        return False

    def _split(self, task: LiveTask, step: Step) -> None:
        ready: list[tuple[TaskIndex, Value]] = []
        remaining: list[tuple[TaskIndex, str]] = []
        passing = False
        for at in task.spec.inputs:
            source = self._tasks[at]
            passing = passing or not source.numbered
            if source.value is not None and len(ready) < task.spec.num_returns:
                ready.append((at, source.value))
                base = source.value.base
                passing = passing or (isinstance(base, Split) and base.passing)
                self._log_for_split(source, step)
            else:
                remaining.append((at, source.spec.task_id))
                # Whoever reads the split may ask for this task later: it stays.
                source.uses += 1
        task.ended_unix_s = step.now_unix_s
        self._succeed(task, Value(Split(tuple(ready), tuple(remaining), passing)), step)

    def _log_for_split(self, source: LiveTask, step: Step) -> None:
        """Log a value that its own options leave out: a logged split tells its values by the tasks they come from."""
        if source.durable or not source.numbered or source.value is None:
            return
        source.durable = True
        self._not_durable -= 1
        self._log_taken_unlogged(step, source.index)
        step.records.append(_finished(source, source.value, None))

    def _release_inputs(self, task: LiveTask) -> None:
        if task.missing < 0:
            return
        for at in task.spec.inputs:
            source = self._tasks.get(at)
            if source is not None:
                source.uses -= 1
                if source.state is not TaskState.DONE and task.index in source.consumers:
                    source.consumers.remove(task.index)
                self._forget_if_unused(source)
        # Released once: a task that continued and is then resolved comes here twice.
        task.missing = -1

    def _forget_if_unused(self, task: LiveTask) -> None:
        if task.state is TaskState.DONE and task.uses <= 0:
            self._remove(task)

    def _remove(self, task: LiveTask) -> None:
        if self._tasks.pop(task.index, None) is not None and not task.durable:
            self._not_durable -= 1

    def _continue(self, task: LiveTask, graph: Graph, step: Step) -> None:
        try:
            graph.check(known=self._tasks)
        except InvalidGraphError as error:
            self._fail(task, error, step, caught=True)
            return
        is_volatile_root = task.volatile_root is None and any(node.process_local for node in graph.nodes)
        task.state = TaskState.CONTINUED
        if not is_volatile_root and self._may_be_logged(graph, task):
            step.records.append(
                TaskContinuing(
                    task=task.index,
                    task_id=task.spec.task_id,
                    group=task.group,
                    started_unix_s=task.started_unix_s,
                    ended_unix_s=task.ended_unix_s,
                )
            )
        self._admit(graph, task, step)
        if is_volatile_root:
            return
        self._release_inputs(task)
        catches = task.spec.options.catch_exceptions
        # A member in the middle of a chain: the task the chain began with stands for it.
        if task.group != task.index and not catches and task.uses <= 0 and self._tasks.get(task.index) is task:
            self._remove(task)

    # -- failing -------------------------------------------------------------------------------------------------

    def _retry_or_fail(self, task: LiveTask, signal: TaskRaised | TaskLost, step: Step) -> None:
        died = isinstance(signal, TaskLost)
        root = None if task.volatile_root is None else self._tasks.get(task.volatile_root)
        retryable = True if isinstance(signal, TaskLost) else signal.retryable
        if died and root is not None and root.state is TaskState.CONTINUED:
            self._discard_below(root.index, step)
            task = root
        if died:
            task.deaths += 1
        else:
            task.errors += 1
        options = task.spec.options
        if retryable and options.retry is not None:
            seed = f"{self.workflow_id}/{task.spec.task_id}"
            delay = options.retry.delay_s(task.deaths + task.errors, seed)
            if delay is not None:
                task.state = TaskState.WAITING
                if delay > 0:
                    self._wait_until(task, step.now_unix_s + delay, step)
                else:
                    self._start_again(task, step)
                return
        elif retryable and options.budget.allows(deaths=task.deaths, errors=task.errors, last_was_death=died):
            self._start_again(task, step)
            return
        self._fail(task, signal.error, step, caught=not died)

    def _start_again(self, task: LiveTask, step: Step) -> None:
        if task.spec.kind is NodeKind.EVENT:
            # The run may be put away while a listener polls: what has been used up must not be forgotten with it.
            self._log_waiting(task, step)
        self._start(task, step)

    def _discard_below(self, volatile_root: TaskIndex, step: Step) -> None:
        for other in list(self._tasks.values()):
            if other.volatile_root == volatile_root:
                self._discard(other, step)
        self._give_back_events(volatile_root)

    def _fail(self, task: LiveTask, error: Any, step: Step, *, caught: bool) -> None:
        """A task has failed for good. `caught`: whether `catch_exceptions` applies to this kind of failure."""
        if caught and task.spec.options.catch_exceptions:
            self._finish(task, Value(error, caught=True), step)
            return
        if task.durable:
            if task.errors or task.deaths:
                # Whoever resumes the workflow begins to count anew; an event that was taken is kept.
                task.errors = task.deaths = 0
                self._log_waiting(task, step)
            step.records.append(
                TaskFailed(
                    task=task.index,
                    task_id=task.spec.task_id,
                    error=error,
                    started_unix_s=task.started_unix_s,
                    ended_unix_s=task.ended_unix_s,
                )
            )
        catcher = self._open_scope(task.scope) if caught else None
        if catcher is None:
            self._end(step, StatusSignal.TASK_FAILED, error=error, failed_task_id=task.spec.task_id)
            return
        for other in list(self._tasks.values()):
            if other is not catcher and self._lies_in(other, catcher.index):
                self._discard(other, step)
        self._finish(catcher, Value(error, caught=True), step)

    def _open_scope(self, scope: TaskIndex | None) -> LiveTask | None:
        """The nearest catching task around that has not got its value yet."""
        while scope is not None:
            task = self._tasks.get(scope)
            if task is not None and task.state is TaskState.CONTINUED:
                return task
            scope = self._outer_scope.get(scope)
        return None

    def _lies_in(self, task: LiveTask, scope: TaskIndex) -> bool:
        at = task.scope
        while at is not None and at != scope:
            at = self._outer_scope.get(at)
        return at == scope

    def _discard(self, task: LiveTask, step: Step) -> None:
        self._halt(task, step)
        self._clear_timer(task, step)
        if task.stream is not None:
            self._inbox.leave(task.stream, task.index)
        self._release_inputs(task)
        self._remove(task)

    def _halt(self, task: LiveTask, step: Step) -> None:
        match task.state:
            case TaskState.RUNNING:
                step.commands.append(StopTask(task=task.index, attempt=task.attempt))
            case TaskState.POLLING | TaskState.ACKNOWLEDGING:
                step.commands.append(StopListener(task=task.index, attempt=task.attempt))
            case _:
                return
        self._busy_less(task)

    def _end(
        self,
        step: Step,
        reason: StatusSignal,
        *,
        output: Value | None = None,
        origin: TaskIndex | None = None,
        error: Any = None,
        failed_task_id: str = "",
    ) -> None:
        self.status = next_status(self.status, reason)
        for task in self._tasks.values():
            self._halt(task, step)
            self._clear_timer(task, step)
        self._tasks.clear()
        if self.status is not WorkflowStatus.FAILED:
            # One that failed may be resumed, and then needs them.
            self._log_taken_unlogged(step)
        step.records.append(
            WorkflowEnded(
                status=self.status,
                ended_unix_s=step.now_unix_s,
                output=output,
                origin=origin,
                error=error,
                failed_task_id=failed_task_id,
            )
        )
        step.commands.append(Complete(status=self.status))

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def _set_busy(self, task: LiveTask, state: TaskState) -> None:
        task.state = state
        self._busy += 1

    def _busy_less(self, task: LiveTask) -> None:
        if task.state in (TaskState.RUNNING, TaskState.POLLING, TaskState.ACKNOWLEDGING):
            self._busy -= 1
            # Counted off once: who ends an attempt may go on to discard its task.
            task.state = TaskState.BLOCKED

    def _settle(self, step: Step) -> None:
        """Start what became ready, and what becomes ready by that, in a loop and not by recursion."""
        while self._ready or self._called_back:
            if self._called_back:
                task = self._called_back.popleft()
                if self._tasks.get(task.index) is task and task.stream is not None:
                    self._read(task, task.stream, step)
                continue
            task = self._ready.popleft()
            if self._tasks.get(task.index) is not task:
                continue
            if task.state is TaskState.BLOCKED:
                self._start(task, step)
            elif task.state is TaskState.WAITING and task.spec.kind is NodeKind.WAIT:
                self._check_wait(task, step)
        if not self._not_durable and not self.status.ended:
            self._log_taken_unlogged(step)
        if self.status.ended:
            # What was started and ended within one step need not be started at all.
            beginnings = (StartTask, StartListener, AcknowledgeEvent)
            step.commands = [command for command in step.commands if not isinstance(command, beginnings)]

    def _take_up(self, step: Step) -> None:
        """Join what was loaded, and take up each unfinished task where its record left it."""
        unfinished = [task for task in self._tasks.values() if task.state in (TaskState.BLOCKED, TaskState.WAITING)]
        self._connect(task.index for task in unfinished)
        for task in self._tasks.values():
            # In order of index: whoever stands above has been seen before.
            above = self._tasks.get(task.group) if task.group != task.index else None
            if above is None and task.catcher is not None:
                above = self._tasks.get(task.catcher)
            task.place_wanted_above = above is not None and self._wants_place_after(above)
        for task in list(self._tasks.values()):
            self._forget_if_unused(task)
        for task in unfinished:
            # An event that was there already may have finished others, or the workflow.
            if task.state is not TaskState.WAITING or self._tasks.get(task.index) is not task:
                continue
            if task.due_unix_s is not None:
                step.records.append(TimerSet(task=task.index, due_unix_s=task.due_unix_s))
            elif task.event is not None:
                self._acknowledge(task, step)
            elif task.stream is not None:
                self._read(task, task.stream, step)
            else:
                self._start_when_fed(task, step)


def _finished(task: LiveTask, value: Value, origin: TaskIndex | None) -> TaskFinished:
    return TaskFinished(
        task=task.index,
        task_id=task.spec.task_id,
        value=value,
        origin=origin,
        started_unix_s=task.started_unix_s,
        ended_unix_s=task.ended_unix_s,
    )
