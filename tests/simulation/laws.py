"""The laws: what must hold in every schedule, whatever is lost, late, twice or out of order.

The auditor sees what is committed (row by row, as the disk does), what is
started and what has ended, and nothing of the engine's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.commands import AcknowledgeEvent, StartListener, StartTask
from holdfast.engine.graph import NodeKind, NodeSpec
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split, Value
from holdfast.storage import layout
from holdfast.storage.memory import Operation
from holdfast.storage.record_codec import decode_graphs, open_frame, read_error, read_value
from tests.simulation.evaluator import Evaluator
from tests.simulation.plans import Book, Does, Plan, event_name, fact

CLOCK_GRAIN_S = 2e-6


class LawBrokenError(AssertionError):
    """A law does not hold."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(law, detail)
        self.law, self.detail = law, detail


def demand(holds: bool, law: str, detail: Callable[[], str] | str = "") -> None:
    """Break off when a law does not hold."""
    if not holds:
        raise LawBrokenError(law, detail if isinstance(detail, str) else detail())


@dataclass(slots=True)
class Waiting:
    """The last waiting row of a task."""

    due_unix_s: float | None
    deaths: int
    failures: int
    event: str | None


@dataclass(slots=True)
class Auditor:
    """Watches one workflow.

    Attributes:
        book: What its tasks do.
        now: The virtual time, in seconds since the epoch.
        barred: Set while only an executor that has been replaced runs: nothing may be written.
        resumed: Set when somebody has asked to resume: FAILED may then become RUNNING.
        code_ended: Tasks whose user code has raised, or was ended, in some attempt.
        all_logged: All results are logged, so that the rows say which task needs which.
        ahead: Set while a worker writes: what it has logged the executor writes once more, or has written already.
    """

    book: Book
    now: Callable[[], float]
    evaluator: Evaluator = field(init=False)
    barred: bool = False
    resumed: bool = False
    ahead: bool = False
    status: str = "NONE"
    output: Any = None
    error: Any = None
    nodes: dict[int, NodeSpec] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    over: dict[int, str] = field(default_factory=dict)
    waiting: dict[int, Waiting] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    splits: dict[int, Split] = field(default_factory=dict)
    logged_ahead: dict[int, bytes] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)
    keys_over: set[int] = field(default_factory=set)
    started: dict[int, int] = field(default_factory=dict)
    events_given: dict[int, list[str]] = field(default_factory=dict)
    inbox: dict[int, str] = field(default_factory=dict)
    last_read: dict[str, int] = field(default_factory=dict)
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)
    all_logged: bool = False
    root: int = 0
    tails: dict[int, int] = field(default_factory=dict)
    scopes: dict[int, int | None] = field(default_factory=dict)
    named: dict[int, list[int]] = field(default_factory=dict)
    for_nobody: set[int] = field(default_factory=set)
    seen_in: dict[int, list[int]] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    code_ended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.book)

    def demand(self, holds: bool, law: str, detail: Callable[[], str] | str = "") -> None:
        """Break off when a law does not hold."""
        demand(holds, law, detail)

    # -- what is committed ---------------------------------------------------------------------------------------

    def on_commit(self, operations: tuple[Operation, ...]) -> None:
        """One transaction has become durable."""
        self.demand(not self.barred, "a replaced executor writes nothing", lambda: str(operations[0][0]))
        for key, raw in operations:
            match key[:1]:
                case b"w" if raw is not None:
                    self._workflow(raw)
                case b"g" if raw is not None:
                    self._graph(raw)
                case b"t" if raw is not None:
                    self._task(layout.last_part(key), raw)
                case b"t":
                    self._void(layout.last_part(key))
                case b"y" if raw is not None:
                    self._waiting_row(layout.last_part(key), raw)
                case b"e" if raw is not None:
                    header, pieces = open_frame(raw)
                    self._in_inbox(layout.last_part(key), event_name(read_value(header["value"], pieces)[0]))
                case b"e":
                    self._taken(layout.last_part(key))
        if self.status == "RUNNING" and self.all_logged:
            self._check_takers()

    def _workflow(self, raw: bytes) -> None:
        header, pieces = open_frame(raw)
        before, self.status = self.status, header["status"]
        if before in ("SUCCESSFUL", "CANCELED"):
            self.demand(before == self.status, "what has ended stays so", f"{before} became {self.status}")
        if before == "FAILED":
            allowed = ("FAILED", "CANCELED", "RUNNING") if self.resumed else ("FAILED", "CANCELED")
            self.demand(self.status in allowed, "what has ended stays so", f"{before} became {self.status}")
        self.output = read_value(header["output"], pieces) if "output" in header else None
        self.error = fact(Value(read_error(header["error"], pieces))) if "error" in header else None

    def _graph(self, raw: bytes) -> None:
        for graph in decode_graphs(iter((raw,))):
            if graph.parent is None:
                self.root = graph.sink
            if graph.catcher is not None:
                self.tails[graph.catcher] = graph.sink
            elif graph.group != graph.sink:
                self.tails[graph.group] = graph.sink
            # The API makes no graph with such; the engine runs them.
            taken = {at for node in graph.nodes for at in node.inputs} | {graph.sink}
            self.for_nobody.update(set(range(graph.first, graph.first + len(graph.nodes))) - taken)
            for index, node in enumerate(graph.nodes, graph.first):
                self.scopes[index] = graph.scope
                known = self.names.setdefault(node.task_id, index)
                self.demand(known == index, "task ids are unique", node.task_id)
                before = self.nodes.setdefault(index, node)
                self.demand(
                    before.arguments.inband == node.arguments.inband, "a logged graph is never changed", f"task {index}"
                )

    def _task(self, index: int, raw: bytes) -> None:
        header, pieces = open_frame(raw)
        state = next(state for state in ("value", "group", "error") if state in header)
        if state == "error":
            return
        before = self.over.get(index)
        # The executor writes again what a worker has logged, and a worker what the executor has heard from it.
        again = state == "value" and (self.written if self.ahead else self.logged_ahead).pop(index, None) == raw
        self.demand(again or before in (None, "group"), "a result is logged once", f"task {index} {before} {state}")
        if not again:
            (self.logged_ahead if self.ahead else self.written)[index] = raw
        self.over[index] = state
        self.kept.update(header.get("kept", ()))
        if again:
            return
        plan = self.plan(index)
        if plan is None:
            return
        self.keys_over.add(plan.key)
        if state == "group":
            self.groups[index] = header["group"]
            return
        started, ended = header["times"]
        self.demand(
            0 < started <= ended or plan.kind is not NodeKind.CALL, "a finished task has its times", f"task {index}"
        )
        value, origin = read_value(header["value"], pieces)
        self._note_named(index, value, origin)
        self._on_value(index, plan, value)

    def _on_value(self, index: int, plan: Plan, value: Value) -> None:
        waited = self.waiting.get(index)
        if plan.kind is NodeKind.SLEEP and plan.durable:
            self.demand(waited is not None and waited.due_unix_s is not None, "a deadline is logged before it ends")
        if plan.kind in (NodeKind.SLEEP, NodeKind.WAIT) and waited is not None and waited.due_unix_s is not None:
            full = isinstance(value.base, Split) and len(value.base.ready) >= plan.num_returns
            self.demand(
                full or self.now() >= waited.due_unix_s - CLOCK_GRAIN_S,
                "timers never fire early",
                lambda: f"task {index} at {self.now()}, due {waited.due_unix_s}",
            )
        if plan.kind is NodeKind.WAIT and isinstance(value.base, Split):
            self.splits[index] = value.base
        if plan.kind is NodeKind.EVENT and value.base is not None:
            self._give(index, event_name(value))

    def _waiting_row(self, index: int, raw: bytes) -> None:
        header, pieces = open_frame(raw)
        event = event_name(read_value(header["event"], pieces)[0]) if "event" in header else None
        before = self.waiting.get(index)
        if before is not None and before.event is not None:
            self.demand(event == before.event, "an event that was taken is kept", f"task {index}")
        if event not in (None, "due"):
            self._give(index, event)
        self.waiting[index] = Waiting(header["due"], header["deaths"], header["deaths"] + header["errors"], event)

    def _give(self, index: int, event: str) -> None:
        given = self.events_given.setdefault(index, [])
        if event not in given:
            given.append(event)
        self.demand(len(given) == 1, "a task takes one event", lambda: f"task {index}: {given}")
        if not event.startswith("vp"):
            takers = [task for task, names in self.events_given.items() if event in names]
            self.demand(len(takers) == 1, "each event is taken once", lambda: f"{event} by tasks {takers}")

    def _note_named(self, index: int, value: Value, origin: int | None) -> None:
        """What who reads a value may ask for, and which tasks' values he sees."""
        seen = [] if origin is None else [origin]
        if isinstance(value.base, Split):
            seen += [at for at, _ in value.base.ready]
        self.seen_in[index] = seen
        remaining = value.base.remaining if isinstance(value.base, Split) else ()
        self.named[index] = [*seen, *value.names, *(at for at, _ in remaining)]

    def _in_inbox(self, number: int, name: str) -> None:
        """An event is in the inbox: a new one, or one that was given back."""
        self.inbox[number] = name
        for index, given in self.events_given.items():
            if name in given:
                given.remove(name)
                if index in self.waiting:
                    self.waiting[index].event = None

    def _void(self, index: int) -> None:
        """What was logged of a task holds no more."""
        for of in (self.over, self.written, self.logged_ahead, self.named):
            of.pop(index, None)

    def _check_takers(self) -> None:
        """Whoever has taken an event has a value that somebody can use, or has been used."""
        takers = [
            index
            for index, given in self.events_given.items()
            if given and not given[0].startswith("vp") and index not in self.used
        ]
        if not takers:
            return
        consumers = [at for at, node in self.nodes.items() if node.kind is not NodeKind.WAIT]
        for consumer in consumers:
            inputs = self.nodes[consumer].inputs
            if all(self.over.get(at) == "value" for at in inputs):
                self._use(inputs)
        usable = self._reach([self.root, *self.kept, *self.for_nobody])
        for remaining in {at for split in self.splits.values() for at, _ in split.remaining}:
            below = set() if self.over.get(remaining) == "value" else self._reach([remaining])
            if not any(self.nodes[at].kind is NodeKind.EVENT and at not in self.over for at in below):
                # It goes on, and takes what is there.
                usable |= below
        for index in takers:
            fine = index in usable or index in self.used
            self.demand(fine, "no event is taken by a task whose value nobody can use", f"task {index}")

    def _use(self, inputs: tuple[int, ...]) -> None:
        """A task's code is given these: with a split, what is ready in it."""
        todo = list(inputs)
        while todo:
            index = todo.pop()
            if index in self.used:
                continue
            self.used.add(index)
            todo += self.seen_in.get(index, ())

    def _reach(self, todo: list[int]) -> set[int]:
        """These tasks, and all that their values need, or may come to need."""
        found: set[int] = set()
        while todo:
            index = todo.pop()
            if index in found or index not in self.nodes:
                continue
            found.add(index)
            # What a worker has logged the executor may not have heard of.
            over = None if index in self.logged_ahead else self.over.get(index)
            if over == "value":
                todo += self.named.get(index, ())
                continue
            scope = self.scopes[index]
            todo += [] if scope is None else [scope]
            if over is None:
                todo += self.nodes[index].inputs
            elif index in self.tails:
                todo.append(self.tails[index])
        return found

    def _taken(self, number: int) -> None:
        name = self.inbox.pop(number, None)
        if name is None:
            return
        stream = name.split(":", 1)[1]
        earlier = [other for other, named in self.inbox.items() if other < number and named.endswith(stream)]
        # What a task that logs nothing has taken stays in the inbox until nobody needs it any more.
        lazy = any(not plan.durable and plan.stream is not None for plan in map(self.book.__getitem__, self.all_keys()))
        self.demand(not earlier or lazy, "events of a stream are taken in order", lambda: f"{name} before {earlier}")

    def all_keys(self) -> range:
        """Keys of all plans."""
        return range(len(self.book))

    def plan(self, index: int) -> Plan | None:
        """The plan of a logged task."""
        node = self.nodes.get(index)
        return None if node is None else self.book.of(node)

    # -- what is done --------------------------------------------------------------------------------------------

    def on_start(self, command: StartTask, epoch: int) -> None:
        """A task is started."""
        plan = self.book.of(command.node)
        name = f"task {command.task} ({command.node.task_id})"
        self.demand(plan.key not in self.keys_over and command.task not in self.over, "no logged task runs again", name)
        self.demand(self.status == "RUNNING", "nothing is started for a workflow that does not run", name)
        if plan.durable:
            self.demand(command.task in self.nodes, "no task starts before its graph is logged", name)
        for at, value in zip(command.node.inputs, command.values, strict=True):
            source = self.plan(at)
            if source is not None and source.durable:
                self.demand(
                    self.over.get(at) == "value", "no task starts before its inputs are logged", f"{name}: {at}"
                )
            split = self.splits.get(at)
            if split is not None and source is not None and source.durable:
                same = _sides(value.base) == _sides(split)
                self.demand(same, "a split is decided once", "" if same else f"task {at}: {value.base}")
        if plan.family in (-1, plan.key) and plan.does is not Does.POLL:
            for key, value in zip(plan.inputs, command.values, strict=True):
                agrees = self.evaluator.agrees(fact(value), key)
                detail = "" if agrees else f"{name} got {fact(value)}, not {self.evaluator.value(key)}"
                self.demand(agrees, "inputs are what a plain evaluation gives", detail)
        waited = self.waiting.get(command.task)
        if plan.durable and waited is not None:
            if waited.due_unix_s is not None:
                self.demand(self.now() >= waited.due_unix_s - CLOCK_GRAIN_S, "timers never fire early", name)
            policy = plan.options.retry
            if policy is not None and not plan.options.in_place:
                self.demand(waited.failures < policy.max_attempts, "retries are counted", name)
        self._count(plan, command.task, epoch, name)

    def _count(self, plan: Plan, task: int, epoch: int, name: str) -> None:
        count = self.attempts[task, epoch] = self.attempts.get((task, epoch), 0) + 1
        budget, policy = plan.options.budget, plan.options.retry
        if policy is not None:
            most = policy.max_attempts
        elif budget.deaths == -1 or not plan.durable:
            return
        else:
            most = 1 + budget.deaths + (0 if budget.shared else budget.errors)
        self.demand(count <= most, "retries are counted", f"{name}: attempt {count} of {most}")

    def on_listen(self, command: StartListener | AcknowledgeEvent) -> None:
        """A listener is asked for its event, or told that it is durable."""
        plan, name = self.book.of(command.node), f"task {command.task} ({command.node.task_id})"
        if not plan.durable:
            return
        waited = self.waiting.get(command.task)
        logged = 0 if waited is None else waited.deaths
        self.demand(command.deaths == logged, "what a listener has ended is logged", name)
        if waited is not None:
            if waited.due_unix_s is not None:
                self.demand(self.now() >= waited.due_unix_s - CLOCK_GRAIN_S, "timers never fire early", name)
            policy = plan.options.retry
            if policy is not None:
                self.demand(waited.failures < policy.max_attempts, "retries are counted", name)

    def on_acknowledge(self, command: AcknowledgeEvent) -> None:
        """A listener is told that its event is durable."""
        self.on_listen(command)
        plan = self.book.of(command.node)
        if plan.durable:
            waited = self.waiting.get(command.task)
            self.demand(waited is not None and waited.event is not None, "an event is acknowledged when it is durable")

    # -- memory --------------------------------------------------------------------------------------------------

    def most_live(self) -> int:
        """How many tasks may be held in memory at most, where all results are logged.

        Those that have not ended, their inputs, whom splits name, and of those that continued: where a chain began,
        who catches, and who is an input.
        """
        # What a worker has logged the executor may not have heard of.
        unfinished = {index for index in self.nodes if index not in self.over or index in self.logged_ahead}
        live = {index for index, group in self.groups.items() if group == index and self.over[index] == "group"}
        live |= {index for index in self.groups if self.nodes[index].options.catch_exceptions}
        for index in unfinished:
            live.update(self.nodes[index].inputs)
        for split in self.splits.values():
            live.update(at for at, _ in split.remaining)
        return len(live | unfinished)

    # -- the end -------------------------------------------------------------------------------------------------

    def on_end(self, sink: int, output: Value | None, *, cancelled: bool) -> None:
        """Nothing more happens."""
        expected = self.evaluator.outcome(sink)
        fails = isinstance(expected, tuple) and expected[0] == "failed"
        if self.status == WorkflowStatus.CANCELED.value:
            self.demand(cancelled, "only who is cancelled ends so")
            return
        if self.status == "RUNNING":
            unheard = self.code_ended - set(self.over)
            self.demand(not unheard, "whatever ends user code, its call has an outcome", lambda: f"tasks {unheard}")
        if fails:
            self.demand(self.status == "FAILED", "the outcome is that of a plain evaluation", self.status)
            self.demand(self.error == ("raised", expected[1]), "the error is the task's", str(self.error))
            return
        self.demand(self.status != "RUNNING", "every run ends, or waits for something named", self.status)
        self.demand(self.status == "SUCCESSFUL", "the outcome is that of a plain evaluation", self.status)
        seen = None if output is None else fact(output)
        self.demand(seen == expected, "the outcome is that of a plain evaluation", f"{seen}, not {expected}")


def _sides(split: Split) -> tuple[list[int], list[int]]:
    """Which tasks a split has as ready, and as remaining."""
    return [at for at, _ in split.ready], [at for at, _ in split.remaining]
