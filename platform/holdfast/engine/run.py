"""One workflow's state machine: signals in, records and commands out.

Rules of this room and of those it calls:

1. A step's commands are carried out only after its records are durable.
2. A signal may be late, repeated or out of order; one that does not fit the
   state (another attempt, a finished task) changes nothing.
3. What a run keeps follows what is unfinished, not what has been done: a task
   is forgotten once it has its value and nobody will use it again.
4. A chain of continuations is never walked: every member knows where it began.

Nothing here knows Ray, asyncio, storage or the clock; time comes in with each
step. Here a signal finds its task; what follows from it is decided in
`admission`, `starting`, `reading`, `finishing`, `retrying` and `failing`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from holdfast.engine.abandoning import give_up_unused
from holdfast.engine.admission import admit, continue_with
from holdfast.engine.commands import AcknowledgeEvent, StartListener, StartTask
from holdfast.engine.finishing import check_wait, split, succeed
from holdfast.engine.followers import followers
from holdfast.engine.graph import Graph, NodeKind, TaskIndex
from holdfast.engine.holding import note_kept
from holdfast.engine.inbox import Stream
from holdfast.engine.leaving import end_run
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.names import never
from holdfast.engine.reading import give_up, read, take_event
from holdfast.engine.restoring import restore, take_up
from holdfast.engine.retrying import retry_or_fail
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import RunState
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
from holdfast.engine.snapshot import Snapshot, take_snapshot
from holdfast.engine.starting import start, start_when_fed
from holdfast.engine.step import Step
from holdfast.engine.taken_events import log_taken, log_taken_unlogged
from holdfast.engine.timers import CLOCK_GRAIN_S, clear_timer, wait_until
from holdfast.engine.transitions import StatusSignal, WorkflowStatus
from holdfast.engine.values import Taken, Value

NOTHING = Value(None)
"""The value of what only waits."""


class Run:
    """A workflow that is being driven.

    Make one with `create` (a new workflow) or `load` (from its records).
    """

    def __init__(self, state: RunState) -> None:
        self._state = state

    # -- beginning -----------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, workflow_id: str, graph: Graph, now_unix_s: float) -> tuple[Run, Step]:
        """A new run of a graph, and its first step.

        Raises:
            InvalidGraphError: The graph could never finish.
        """
        graph.check()
        state, step = RunState(workflow_id=workflow_id), Step(now_unix_s=now_unix_s)
        state.root = admit(state, graph, None, step)
        state.tasks[state.root].uses += 1
        _settle(state, step)
        return cls(state), step

    @classmethod
    def load(
        cls, workflow_id: str, image: RunImage, now_unix_s: float, given_before: Callable[[str], bool] = never
    ) -> tuple[Run, Step]:
        """A run as its records tell it, and the step that sets it going again.

        Args:
            workflow_id: Whose run it is.
            image: Its records.
            now_unix_s: The time, in seconds since the epoch.
            given_before: Whether a task of this workflow has an id, by its records; asked after a load from a snapshot.

        Only what the result still needs is taken up: a value that was not stored
        (`checkpoint=False`) is computed again when an unfinished task takes it, and
        not otherwise.
        """
        state, step = restore(workflow_id, image, given_before), Step(now_unix_s=now_unix_s)
        take_up(state, step)
        _settle(state, step)
        return cls(state), step

    # -- what the shell asks -------------------------------------------------------------------------------------

    @property
    def workflow_id(self) -> str:
        """Whose run it is."""
        return self._state.workflow_id

    @property
    def status(self) -> WorkflowStatus:
        """RUNNING until it has ended."""
        return self._state.status

    @property
    def idle(self) -> bool:
        """Whether every task only waits and nothing would be lost by forgetting the run until it is woken."""
        state = self._state
        return not state.busy and not state.not_durable and not state.status.ended

    @property
    def live_tasks(self) -> int:
        """How many tasks are held in memory."""
        return len(self._state.tasks)

    def snapshot(self, *, saves: float) -> Snapshot | None:
        """What is live of an idle run, if that spares whoever loads it from there reading so many records.

        Args:
            saves: How many records fewer, at the least.
        """
        if self._state.next_index - 3 * len(self._state.tasks) < saves:
            return None
        snapshot = take_snapshot(self._state)
        return snapshot if snapshot.saved >= saves else None

    def attempt_of(self, index: TaskIndex) -> int:
        """The current attempt of a live task; 0 for one that is not live."""
        task = self._state.tasks.get(index)
        return 0 if task is None else task.attempt

    def followers(self, index: TaskIndex, most: int) -> list[StartTask]:
        """How the tasks would be started that can only run after one that runs; see `followers`.

        Args:
            index: The task that runs.
            most: So many of them, at most.

        Returns:
            In order. The value of each is that of the one before, and not there yet.
        """
        return [
            StartTask(task=task.index, attempt=1, node=task.spec, values=())
            for task in islice(followers(self._state, index), most)
        ]

    def find(self, task_id: str) -> LiveTask | None:
        """The live task of this id, if there is one."""
        return next((task for task in self._state.tasks.values() if task.spec.task_id == task_id), None)

    def awaits(self, stream: Stream) -> bool:
        """Whether some task waits for an event of this stream."""
        return not self.status.ended and self._state.inbox.has_reader(stream)

    def waits_for(self) -> list[str]:
        """What an idle run waits for, in words: for people, and for the law that every run waits for something."""
        return [
            f"{task.spec.task_id}: {task.state.value}"
            for task in self._state.tasks.values()
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
        state, step = self._state, Step(now_unix_s=now_unix_s)
        if state.status.ended:
            return step
        match signal:
            case CancelRequested():
                end_run(state, step, StatusSignal.CANCEL_REQUESTED)
            case EventReceived():
                _receive(state, signal, step)
            case TimerDue():
                _timer_due(state, signal, step)
            case TaskReturned() | TaskContinued() | TaskRaised() | TaskLost():
                _attempt_ended(state, signal, step)
            case EventPolled() | EventAcknowledged() | Subscribed():
                _listener_said(state, signal, step)
        _settle(state, step)
        return step


def _attempt_ended(state: RunState, signal: TaskReturned | TaskContinued | TaskRaised | TaskLost, step: Step) -> None:
    task = state.tasks.get(signal.task)
    if task is None or task.attempt != signal.attempt:
        return
    if task.state in (TaskState.POLLING, TaskState.ACKNOWLEDGING) and isinstance(signal, TaskRaised | TaskLost):
        state.busy_less(task)
        retry_or_fail(state, task, signal, step)
        return
    if task.state is not TaskState.RUNNING:
        return
    state.busy_less(task)
    task.started_unix_s, task.ended_unix_s = signal.started_unix_s, signal.ended_unix_s
    step.place = signal.place
    if signal.kept:
        note_kept(state, task, signal.kept)
    match signal:
        case TaskReturned():
            succeed(state, task, Value(signal.value, names=signal.names), step)
        case TaskContinued():
            continue_with(state, task, signal.graph, step)
        case TaskRaised() | TaskLost():
            retry_or_fail(state, task, signal, step)


def _timer_due(state: RunState, signal: TimerDue, step: Step) -> None:
    task = state.tasks.get(signal.task)
    if task is None or task.due_unix_s is None or step.now_unix_s < task.due_unix_s - CLOCK_GRAIN_S:
        return
    clear_timer(task, step)
    if task.state is not TaskState.WAITING:
        return
    match task.spec.kind:
        case NodeKind.WAIT:
            split(state, task, step)
        case NodeKind.SLEEP:
            task.ended_unix_s = step.now_unix_s
            succeed(state, task, NOTHING, step)
        case NodeKind.EVENT if task.stream is not None:
            give_up(state, task, step)
        case NodeKind.EVENT if task.errors == 0 and task.deaths == 0:
            task.ended_unix_s = step.now_unix_s
            take_event(state, task, NOTHING, step)
        case _:
            start_when_fed(state, task, step)


def _listener_said(state: RunState, signal: EventPolled | EventAcknowledged | Subscribed, step: Step) -> None:
    task = state.tasks.get(signal.task)
    if task is None:
        return
    if isinstance(signal, EventAcknowledged):
        if task.state is TaskState.ACKNOWLEDGING and task.event is not None:
            state.busy_less(task)
            task.ended_unix_s = step.now_unix_s
            succeed(state, task, task.event, step)
        return
    if task.state is not TaskState.POLLING:
        return
    state.busy_less(task)
    if isinstance(signal, EventPolled):
        take_event(state, task, Value(signal.value), step)
        return
    task.state = TaskState.WAITING
    # The listener has been heard; from here on a due time is the event and not a back-off.
    task.errors = task.deaths = 0
    if signal.stream is not None:
        read(state, task, signal.stream, step)
    else:
        wait_until(task, signal.due_unix_s or step.now_unix_s, step)


def _receive(state: RunState, event: EventReceived, step: Step) -> None:
    reader = state.inbox.receive(event.stream, event.number, event.value)
    task = None if reader is None else state.tasks.get(reader)
    if task is not None:
        log_taken(state, task, event.stream, event.number, event.value, step)
        take_event(state, task, Value(event.value, taken=Taken(event.stream, event.number, task.index)), step)


def _settle(state: RunState, step: Step) -> None:
    """Start what became ready, and what becomes ready by that, in a loop and not by recursion."""
    while state.ready or state.called_back or state.unused or state.returned:
        # First, so that what nobody can read takes no event of this step.
        if state.unused or state.returned:
            give_up_unused(state, step)
        if state.called_back:
            task = state.called_back.popleft()
            if state.tasks.get(task.index) is task and task.stream is not None:
                read(state, task, task.stream, step)
            continue
        if not state.ready:
            continue
        task = state.ready.popleft()
        if state.tasks.get(task.index) is not task:
            continue
        if task.state is TaskState.BLOCKED:
            start(state, task, step)
        elif task.state is TaskState.WAITING and task.spec.kind is NodeKind.WAIT:
            check_wait(state, task, step)
    if not state.not_durable and not state.status.ended:
        log_taken_unlogged(state, step)
    if state.status.ended:
        # What was started and ended within one step need not be started at all.
        beginnings = (StartTask, StartListener, AcknowledgeEvent)
        step.commands = [command for command in step.commands if not isinstance(command, beginnings)]
