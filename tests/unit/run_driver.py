"""Drives one engine run by hand: a record list for a store, Python functions for tasks, a clock one can turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast.engine.commands import Command, StartTask
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.records import (
    EventGivenBack,
    EventTaken,
    GraphLogged,
    Record,
    TaskContinuing,
    TaskFinished,
    TaskWaiting,
    TimerCleared,
    TimerSet,
    WorkflowEnded,
)
from holdfast.engine.run import Run
from holdfast.engine.run_image import RunImage
from holdfast.engine.signals import (
    EventReceived,
    Signal,
    TaskContinued,
    TaskLost,
    TaskRaised,
    TaskReturned,
    TimerDue,
)
from holdfast.engine.step import Step
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split, Value

C = TypeVar("C")

START_UNIX_S = 1_000.0
STREAM = ("http", "k")


@dataclass(frozen=True)
class Naming:
    """Returned by a task's function: a value in which remaining tasks stand (`names`), or that left some elsewhere."""

    value: Any
    names: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


class WorkerDied(BaseException):
    """Raised by a task's function to say that its worker is gone."""


def call(function: str, *inputs: int, task_id: str = "", **about: Any) -> NodeSpec:
    """A node that calls one of the driver's functions. What `TaskOptions` knows goes there."""
    options = {name: about.pop(name) for name in list(about) if name in TaskOptions.__dataclass_fields__}
    return NodeSpec(
        task_id=task_id or function, function=function, inputs=inputs, options=TaskOptions(**options), **about
    )


def wait(*inputs: int, num_returns: int = 1, timeout_s: float | None = None) -> NodeSpec:
    return NodeSpec(task_id="wait", kind=NodeKind.WAIT, inputs=inputs, num_returns=num_returns, duration_s=timeout_s)


def event(*inputs: int, stream: tuple[str, str] | None = STREAM, **about: Any) -> NodeSpec:
    return NodeSpec(task_id="event", kind=NodeKind.EVENT, inputs=inputs, stream=stream, **about)


def sleep(seconds: float) -> NodeSpec:
    return NodeSpec(task_id="sleep", kind=NodeKind.SLEEP, duration_s=seconds)


def graph(*nodes: NodeSpec) -> Graph:
    """A graph whose sink is its last node."""
    return Graph(nodes=nodes, sink=len(nodes) - 1)


def plain(value: Value) -> Any:
    """What a task sees of a value."""
    found = value.base
    if isinstance(found, Split):
        found = ([plain(one) for _, one in found.ready], [at for at, _ in found.remaining])
    if value.caught:
        found = (None, found)
    for _ in range(value.wraps):
        found = (found, None)
    return found


def image_of(records: Iterable[Record], events: Iterable[EventReceived] = ()) -> RunImage:
    """What storage would give back of these records."""
    graphs: list[GraphLogged] = []
    finished: dict[int, TaskFinished] = {}
    continuing: dict[int, TaskContinuing] = {}
    waiting: dict[int, TaskWaiting] = {}
    inbox = {event.number: event for event in events}
    last_event = max(inbox, default=0)
    for record in records:
        match record:
            case GraphLogged():
                graphs.append(record)
            case TaskFinished():
                finished[record.task] = record
                waiting.pop(record.task, None)
            case TaskContinuing():
                continuing[record.task] = record
            case TaskWaiting():
                waiting[record.task] = record
            case EventTaken():
                inbox.pop(record.number, None)
            case EventGivenBack():
                inbox[record.number] = EventReceived(stream=record.stream, number=record.number, value=record.value)
                finished.pop(record.task, None)
                waiting.pop(record.task, None)
            case _:
                pass
    return RunImage(
        graphs=graphs,
        finished=finished,
        continuing=continuing,
        waiting=waiting,
        inbox=[inbox[number] for number in sorted(inbox)],
        last_event=last_event,
    )


class Driver:
    """One workflow.

    Attributes:
        records: All that was committed.
        commands: What is not carried out yet.
        calls: Names of the functions called, in order.
        now: The time, in seconds since the epoch.
    """

    def __init__(self, submitted: Graph, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.functions = dict(functions or {})
        self.records: list[Record] = []
        self.commands: deque[Command] = deque()
        self.calls: list[str] = []
        self.events: list[EventReceived] = []
        self.timers: dict[int, float] = {}
        self.now = START_UNIX_S
        self.run, step = Run.create("w", submitted, self.now)
        self.commit(step)

    def commit(self, step: Step) -> Step:
        self.records.extend(step.records)
        self.commands.extend(step.commands)
        for record in step.records:
            if isinstance(record, TimerSet):
                self.timers[record.task] = record.due_unix_s
            elif isinstance(record, TimerCleared):
                self.timers.pop(record.task, None)
        return step

    def apply(self, signal: Signal) -> Step:
        return self.commit(self.run.apply(signal, self.now))

    def crash(self, records: int | None = None) -> None:
        """Forget everything in memory and load the first so many records (default: all)."""
        if records is not None:
            del self.records[records:]
        self.commands.clear()
        self.timers.clear()
        self.run, step = Run.load("w", image_of(self.records, self.events), self.now)
        self.commit(step)

    def send(self, value: Any, stream: tuple[str, str] = STREAM) -> EventReceived:
        """Put an event into the inbox, and tell the run."""
        received = EventReceived(stream=stream, number=len(self.events) + 1, value=value)
        self.events.append(received)
        self.apply(received)
        return received

    def turn_clock(self, seconds: float) -> None:
        """Let time pass, and fire what is due."""
        self.now += seconds
        for task, due in sorted(self.timers.items(), key=lambda timer: timer[1]):
            if due <= self.now:
                self.apply(TimerDue(task=task, due_unix_s=due))

    def perform(self, command: StartTask) -> Signal:
        """Call the function of a task; the signal that tells how it went."""
        self.calls.append(command.node.function)
        about: dict[str, Any] = {"task": command.task, "attempt": command.attempt, "started_unix_s": self.now}
        about |= {"ended_unix_s": self.now, "place": command.place or ("worker" if command.hold else None)}
        try:
            value = self.functions[command.node.function](*map(plain, command.values))
        except WorkerDied:
            return TaskLost(**{**about, "place": None}, error="died")
        except Exception as error:
            return TaskRaised(**about, error=str(error))
        if isinstance(value, Graph):
            return TaskContinued(**{**about, "place": "worker"}, graph=value)
        if isinstance(value, Naming):
            return TaskReturned(**about, value=value.value, names=value.names, kept=value.kept)
        return TaskReturned(**about, value=value)

    def next_task(self) -> StartTask:
        """The next task to start, taken from the commands."""
        command = next(command for command in self.commands if isinstance(command, StartTask))
        self.commands.remove(command)
        return command

    def step(self) -> bool:
        """Carry out one command. False when there is none."""
        if not self.commands:
            return False
        command = self.commands.popleft()
        if isinstance(command, StartTask):
            self.apply(self.perform(command))
        return True

    def go_on(self) -> None:
        """Carry out commands until the run ends or waits."""
        while self.step():
            pass

    def finish(self) -> Any:
        """Go on to the end; the workflow's value."""
        self.go_on()
        ended = self.ended
        assert ended is not None, f"it still waits: {self.run.waits_for()}"
        assert ended.status is WorkflowStatus.SUCCESSFUL, ended
        assert ended.output is not None
        return plain(ended.output)

    @property
    def ended(self) -> WorkflowEnded | None:
        last = self.records[-1] if self.records else None
        return last if isinstance(last, WorkflowEnded) else None

    def kept(self, kind: type[C]) -> list[C]:
        """Commands of a kind that were given and not carried out."""
        return [command for command in self.commands if isinstance(command, kind)]
