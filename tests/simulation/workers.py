"""Simulated workers and listeners: they take virtual time, fail as planned, and may be lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol

from holdfast.actors.task_bundle import May
from holdfast.engine.commands import AcknowledgeEvent, StartListener, StartTask
from holdfast.engine.errors import TaskTimeoutError, WorkerLostError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.signals import (
    EventAcknowledged,
    EventPolled,
    Signal,
    Subscribed,
    TaskContinued,
    TaskLost,
    TaskRaised,
    TaskReturned,
)
from holdfast.engine.values import Split, Value
from tests.simulation.clock import Clock
from tests.simulation.evaluator import Evaluator, gathered
from tests.simulation.plans import (
    Book,
    Does,
    Fact,
    Plan,
    Poll,
    Ready,
    arguments,
    digest,
    error,
    event,
    event_fact,
    fact,
    number,
    polling,
    unwrap,
)
from tests.simulation.user_code import is_told


@dataclass(eq=False)
class Worker:
    """One process. In-place tasks queue in it.

    Attributes:
        alive: Whether it still runs.
        busy_until: When it has done what it was given, in seconds since the epoch.
    """

    alive: bool = True
    busy_until: float = 0.0


class Ahead(Protocol):
    """The executor and the store, as a worker that runs ahead knows them."""

    def followers(self, command: StartTask) -> list[StartTask]:
        """The tasks that can only follow this one, without the values they take."""
        ...

    def log(self, command: StartTask, reply: TaskReturned) -> May:
        """Log what came of a task, under the lease that it was started under. Returns whether the next may begin."""
        ...

    def go_on(self, signals: list[Signal]) -> list[StartTask]:
        """Say what came of a chain of tasks, of which the last is not logged. What to go on with when it is."""
        ...

    def begin(self, command: StartTask) -> None:
        """A task that follows is begun."""
        ...

    def give_back(self, command: StartTask) -> None:
        """What it was to go on with may not begin."""
        ...

    def tell(self, signals: list[Signal], begun: StartTask | None) -> None:
        """Say what came of a task and of those after it, in order, and what runs now: all at once."""
        ...


@dataclass
class Fleet:
    """All workers and listeners that one executor incarnation has started.

    Attributes:
        send: Where their signals go; they may be delayed, repeated and reordered there.
        code_ended: Told the task whose user code has raised, or was ended.
        ahead: What lets a worker go on with the tasks that can only follow; None: it never does.
        running: Attempts that have not reported.
    """

    book: Book
    evaluator: Evaluator
    clock: Clock
    random: Random
    runs: dict[int, int]
    send: Callable[[Signal], None]
    ahead: Ahead | None = None
    code_ended: Callable[[int], None] = lambda task: None
    running: dict[tuple[int, int], Worker] = field(default_factory=dict)
    listening: set[tuple[int, int]] = field(default_factory=set)
    stopped: bool = False

    def start(self, command: StartTask) -> None:
        """Begin an attempt, and what can only follow it."""
        followers = []
        if self.ahead is not None and command.place is None and not command.hold and self.random.random() < 0.8:
            followers = self.ahead.followers(command)[: self.random.randint(0, 6)]
        self._begin(command, followers, [])

    def _begin(self, command: StartTask, followers: list[StartTask], told: list[Signal]) -> None:
        """Begin an attempt.

        Args:
            command: The task.
            followers: What the same worker runs after it.
            told: What came of those before it, which the executor has not been told.
        """
        worker = command.place if isinstance(command.place, Worker) and command.place.alive else Worker()
        lost = command.place is not None and worker is not command.place
        self.running[command.task, command.attempt] = worker
        plan = self.book.of(command.node)
        execution = self.runs[plan.key] = self.runs.get(plan.key, 0) + 1
        slow = plan.dies + plan.flaky < execution <= plan.dies + plan.flaky + plan.slow
        timeout = plan.options.timeout_s
        duration = timeout if slow and timeout is not None else plan.duration_s * self.random.uniform(0.5, 1.5)
        begun = max(self.clock.now_unix_s, worker.busy_until)
        worker.busy_until = begun + duration

        def finish() -> None:
            if self.running.pop((command.task, command.attempt), None) is None or self.stopped:
                return
            if lost or execution <= plan.dies:
                worker.alive = False
                self._lose(worker, command, begun, told)
            elif (signal := self._report(command, plan, execution, worker, begun)) is not None:
                self._go_on(command, signal, followers, told)
            else:
                worker.alive = False
                self._lose(worker, command, begun, told)

        self.clock.at(worker.busy_until, finish)

    def _go_on(self, command: StartTask, signal: Signal, followers: list[StartTask], told: list[Signal]) -> None:
        """An attempt has ended so: go on with what follows, when it is logged, or tell."""
        told = [*told, signal]
        if not isinstance(signal, TaskReturned) or self.ahead is None:
            self._tell(told)
            return
        if not followers:
            following = self.ahead.go_on(told) if self.random.random() < 0.7 else []
            if following:
                pause_s = self.random.choice((0.0, self.random.uniform(0, 0.3)))
                self.clock.after(pause_s, lambda: self._go_on_with(following, command, signal))
            else:
                self._tell(told)
            return
        if self.ahead.log(command, signal) is not May.BEGIN:
            self._tell(told)
            return
        follower = replace(followers[0], values=(Value(signal.value),))
        self.ahead.begin(follower)
        self._begin(follower, followers[1:], told)
        if self.random.random() < 0.2:
            # It takes long: the executor hears what is done, and what goes on.
            self.ahead.tell(told, follower)

    def _go_on_with(self, following: list[StartTask], last: StartTask, signal: TaskReturned) -> None:
        """Log what came of the last task, and go on with what follows from it."""
        assert self.ahead is not None
        if self.stopped:
            return
        may = self.ahead.log(last, signal)
        if may is not May.BEGIN:
            if may is May.NOT_HERE:
                self.ahead.give_back(following[0])
            return
        follower = replace(following[0], values=(Value(signal.value),))
        self.ahead.begin(follower)
        self._begin(follower, following[1:], [])

    def _tell(self, signals: list[Signal]) -> None:
        if len(signals) == 1 or self.ahead is None:
            self.send(signals[0])
        else:
            self.ahead.tell(signals, None)

    def _lose(self, worker: Worker, command: StartTask, begun: float, told: list[Signal]) -> None:
        gone = [(command.task, command.attempt)] + [at for at, other in self.running.items() if other is worker]
        for task, attempt in gone:
            self.running.pop((task, attempt), None)
            lost = TaskLost(
                task=task,
                attempt=attempt,
                error=WorkerLostError(str(task), "as planned"),
                started_unix_s=begun,
                ended_unix_s=self.clock.now_unix_s,
            )
            self._tell([*told, lost])
            told = []

    def _report(self, command: StartTask, plan: Plan, execution: int, worker: Worker, begun: float) -> Signal | None:
        """What an attempt says at its end; None: what ended it has ended its worker too."""
        keeps = command.hold or command.place is not None or plan.options.in_place
        about: dict[str, Any] = {
            "task": command.task,
            "attempt": command.attempt,
            "started_unix_s": begun,
            "ended_unix_s": self.clock.now_unix_s,
        }
        place = worker if keeps else None
        raises = error(-1) if execution <= plan.dies + plan.flaky else None
        if raises is None and plan.does is Does.ERROR and execution > plan.dies + plan.flaky + plan.slow:
            raises = error(plan.error)
        if raises is not None:
            self.code_ended(command.task)
            return TaskRaised(**about, place=place, error=raises) if is_told(plan.key + execution) else None
        if execution <= plan.dies + plan.flaky + plan.slow:
            timeout = TaskTimeoutError(command.node.task_id, plan.options.timeout_s or 0.0)
            return TaskRaised(**about, place=place, error=timeout)
        values = tuple(fact(value) for value in command.values)
        match plan.does:
            case Does.CONTINUE:
                assert plan.graph is not None
                return TaskContinued(**about, place=worker, graph=plan.graph)
            case Does.GATHER:
                return self._gather(command, plan, values, about, place)
            case Does.POLL:
                return self._poll(plan, values, about, place)
            case Does.PEEK:
                # It looks at the inputs of the wait, ready or not, and so does not depend on the order.
                waited = unwrap(self.evaluator.value(plan.inputs[0]))
                seen = digest(plan.key, sorted(map(digest, waited.values)))
                return TaskReturned(**about, place=place, value=number(seen), names=self._some_remaining(command, 0.3))
        return TaskReturned(**about, place=place, value=number(digest(plan.key, values)))

    def _gather(
        self, command: StartTask, plan: Plan, values: tuple[Fact, ...], about: dict[str, Any], place: Worker | None
    ) -> Signal:
        ready = unwrap(values[0])
        assert isinstance(ready, Ready)
        carried = plan.carried + ready.values
        if not ready.remaining:
            first = self.book[plan.family]
            return TaskReturned(**about, place=place, value=number(gathered(first, carried)))
        split = command.values[0].base
        assert isinstance(split, Split)
        below = plan.durable and not split.passing
        kept = self._some_remaining(command, 0.1)
        return TaskContinued(**about, place=place, graph=self._rest(plan, ready, carried, below), kept=kept)

    def _some_remaining(self, command: StartTask, probability: float) -> tuple[int, ...]:
        """What remains of a split, for a task that puts it into its value, or leaves it elsewhere."""
        split = command.values[0].base
        if not isinstance(split, Split) or split.passing or self.random.random() > probability:
            return ()
        return tuple(at for at, _ in split.remaining)

    def _poll(self, plan: Plan, values: tuple[Fact, ...], about: dict[str, Any], place: Worker | None) -> Signal:
        """Return what the event makes, or wait afresh: what it has waited for is dropped."""
        found = values[0]
        nothing = not found.values if isinstance(found, Ready) else isinstance(found, tuple) and found[0] == "error"
        if not nothing:
            assert plan.stream is not None
            seen = digest(plan.family, event_fact("/".join(plan.stream)))
            return TaskReturned(**about, place=place, value=number(seen))
        limit_s = self.random.uniform(0, 3)
        graph = polling(self.book, plan, plan.polls - 1, limit_s, caught=self.random.random() < 0.5)
        return TaskContinued(**about, place=place, graph=graph)

    def _rest(self, plan: Plan, ready: Ready, carried: tuple[Fact, ...], below: bool) -> Graph:
        """Wait for what remains, and gather on. `below`: whether the results are logged."""
        num_returns = self.random.randint(1, len(ready.remaining))
        wait_s = self.random.choice((None, self.random.uniform(0, 3)))
        wait = self.book.add(kind=NodeKind.WAIT, durable=below, num_returns=num_returns, wait_s=wait_s, family=plan.key)
        inputs = tuple(-(at + 1) for at in ready.remaining)
        more = self.book.add(does=Does.GATHER, durable=below, family=plan.family, carried=carried, inputs=(wait.key,))
        nodes = (
            NodeSpec(
                task_id="rest",
                kind=NodeKind.WAIT,
                arguments=arguments(wait.key),
                inputs=inputs,
                num_returns=num_returns,
                duration_s=wait_s,
            ),
            NodeSpec(task_id="gather", arguments=arguments(more.key), inputs=(0,), options=more.options),
        )
        return Graph(nodes=nodes, sink=1)

    # -- listeners -----------------------------------------------------------------------------------------------

    def listen(self, command: StartListener) -> None:
        """Begin to poll; a second request for the same attempt is none."""
        plan = self.book.of(command.node)
        asked = (command.task, command.attempt)
        if asked in self.listening:
            return
        self.listening.add(asked)
        polls = self.runs[-plan.key - 1] = self.runs.get(-plan.key - 1, 0) + 1

        def hear() -> None:
            if asked not in self.listening or self.stopped:
                return
            self.listening.discard(asked)
            self._tell_heard(self._heard(command, plan, polls))

        self.clock.after(plan.duration_s * self.random.uniform(0.5, 3), hear)

    def _heard(self, command: StartListener, plan: Plan, polls: int) -> Signal | None:
        if polls <= plan.dies + plan.flaky:
            return self._failed(command, plan, polls)
        if plan.poll is Poll.EVENT:
            assert plan.stream is not None
            # A poll that is repeated gives the same event: that is the listener's promise, not ours.
            heard = event(plan.stream, 0)
            named = type(heard)(b"vp" + b"%d" % plan.key + bytes(heard.inband)[2:])
            return EventPolled(task=command.task, attempt=command.attempt, value=named)
        if plan.poll is Poll.STREAM:
            return Subscribed(task=command.task, attempt=command.attempt, stream=plan.stream)
        return Subscribed(task=command.task, attempt=command.attempt, due_unix_s=plan.due_unix_s)

    def acknowledge(self, command: AcknowledgeEvent) -> None:
        """Call the listener's `event_checkpointed`."""
        plan = self.book.of(command.node)
        asked = (command.task, command.attempt)
        self.listening.add(asked)
        slot = -plan.key - 1_000_001
        calls = self.runs[slot] = self.runs.get(slot, 0) + 1

        def done() -> None:
            if asked not in self.listening or self.stopped:
                return
            self.listening.discard(asked)
            if calls <= plan.dies + plan.flaky:
                self._tell_heard(self._failed(command, plan, calls))
            else:
                self.send(EventAcknowledged(task=command.task, attempt=command.attempt))

        self.clock.after(self.random.uniform(0, 1), done)

    def _failed(self, command: StartListener | AcknowledgeEvent, plan: Plan, calls: int) -> Signal | None:
        if calls <= plan.dies:
            lost = WorkerLostError(str(command.task), "as planned")
            return TaskLost(task=command.task, attempt=command.attempt, error=lost)
        self.code_ended(command.task)
        raised = TaskRaised(task=command.task, attempt=command.attempt, error=error(-1))
        return raised if is_told(plan.key + calls) else None

    def _tell_heard(self, signal: Signal | None) -> None:
        """Say what a listener has come to; nobody can, when it has ended the loop that it shares with others."""
        if signal is not None:
            self.send(signal)

    def end(self) -> None:
        """End all of them."""
        self.stopped = True

    def stop(self, task: int, attempt: int) -> None:
        """End an attempt, or a listener."""
        self.running.pop((task, attempt), None)
        self.listening.discard((task, attempt))
