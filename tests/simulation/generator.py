"""Random workflows, from a seed: every feature of the engine, in small graphs that meet each other often.

What is generated has one right result: where the order of things decides
(which input of a wait is first, which of two errors), the tasks are made so
that their values do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryBudget, RetryPolicy
from tests.simulation.plans import Book, Does, Plan, Poll, arguments, polling

START_UNIX_S = 1_700_000_000.0
"""When a simulated world begins, in seconds since the epoch."""

TASK_IDS = ("a", "b", "a_1", "pay", "t")
STREAMS = (("http", "k"), ("kafka", "orders"))


@dataclass(frozen=True, slots=True)
class Program:
    """A workflow to simulate.

    Attributes:
        book: What its tasks do.
        graph, sink: What is submitted, and the key of its sink.
        readers: How many tasks read each stream.
    """

    book: Book
    graph: Graph
    sink: int
    readers: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Region:
    """What holds for the tasks of one graph.

    Attributes:
        error: What a task that fails for good raises here, the same for all of a scope; None: none fails.
        durable: Results are logged.
        depth: How many graphs lie around it.
    """

    error: int | None
    durable: bool = True
    depth: int = 0


@dataclass(slots=True)
class Draft:
    """A graph in the making: positions are in order of making."""

    specs: list[NodeSpec] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    calm: list[bool] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    splits: set[int] = field(default_factory=set)


def generate(random: Random) -> Program:
    """A random workflow."""
    return _Generator(random).program()


class _Generator:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._book = Book()
        self._readers: dict[tuple[str, str], int] = {}
        self._room = random.choice((2, 6, 12, 12, 25))
        self._errors = 0

    def program(self) -> Program:
        region = Region(error=self._new_error() if self._chance(0.25) else None)
        graph, sink, _ = self._graph(region)
        return Program(self._book, graph, sink, self._readers)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _new_error(self) -> int:
        self._errors += 1
        return self._errors

    # -- graphs --------------------------------------------------------------------------------------------------

    def _graph(self, region: Region, *, split_sink: bool = False) -> tuple[Graph, int, bool]:
        """A graph, the key of its sink, and whether nothing in it fails for good."""
        draft = Draft()
        for _ in range(self._random.randint(0, 3)):
            if self._room <= 0:
                break
            self._node(draft, region)
        sink = self._wait(draft, region) if split_sink else self._call(draft, region, tuple(draft.open))
        calm = all(draft.calm)
        return self._close(draft, sink), draft.keys[sink], calm

    def _close(self, draft: Draft, sink: int) -> Graph:
        """The graph, its nodes in any order: inputs may point forwards."""
        order = list(range(len(draft.specs)))
        if self._chance(0.3):
            self._random.shuffle(order)
        place = {made: at for at, made in enumerate(order)}
        nodes = tuple(
            replace(draft.specs[made], inputs=tuple(place[at] for at in draft.specs[made].inputs)) for made in order
        )
        return Graph(nodes=nodes, sink=place[sink])

    def _put(self, draft: Draft, plan: Plan, inputs: tuple[int, ...], *, calm: bool, **about: Any) -> int:
        self._room -= 1
        plan.inputs = tuple(draft.keys[at] for at in inputs)
        draft.specs.append(
            NodeSpec(
                task_id=self._random.choice(TASK_IDS),
                kind=plan.kind,
                function="simulated",
                arguments=arguments(plan.key),
                inputs=inputs,
                options=plan.options,
                **about,
            )
        )
        draft.keys.append(plan.key)
        draft.calm.append(calm and all(draft.calm[at] for at in inputs))
        at = len(draft.specs) - 1
        draft.open = [other for other in draft.open if other not in inputs] + [at]
        return at

    def _node(self, draft: Draft, region: Region) -> int:
        inputs = tuple(at for at in range(len(draft.specs)) if self._chance(0.4) and at not in draft.splits)
        kind = self._random.random()
        if kind < 0.10:
            return self._sleep(draft, region, inputs)
        if kind < 0.22:
            return self._event(draft, region, inputs)
        if kind < 0.36:
            return self._read_split(draft, region)
        if kind < 0.41:
            return self._poll(draft, region)
        if inputs and self._chance(0.1):
            inputs += inputs[:1]
        return self._call(draft, region, inputs)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _call(self, draft: Draft, region: Region, inputs: tuple[int, ...]) -> int:
        options, trouble = self._options(in_place=self._chance(0.15))
        durable = region.durable and options.checkpoint
        about: dict[str, Any] = {"options": options, "durable": durable, "duration_s": self._duration(), **trouble}
        choice = self._random.random()
        if region.error is not None and choice < 0.12:
            plan = self._book.add(does=Does.ERROR, error=region.error, **about)
            return self._put(draft, plan, inputs, calm=options.catch_exceptions)
        if region.depth < 4 and self._room > 0 and choice < 0.45:
            kind = self._random.random()
            if kind < 0.2:
                return self._local(draft, region, inputs)
            if kind < 0.4:
                return self._loop(draft, region, inputs)
            inner = replace(region, depth=region.depth + 1, durable=durable)
            if options.catch_exceptions:
                inner = replace(inner, error=self._new_error() if self._chance(0.5) else None)
            graph, sink, calm = self._graph(inner)
            plan = self._book.add(does=Does.CONTINUE, graph=graph, sink=sink, **about)
            return self._put(draft, plan, inputs, calm=calm or options.catch_exceptions)
        return self._put(draft, self._book.add(**about), inputs, calm=True)

    def _loop(self, draft: Draft, region: Region, inputs: tuple[int, ...]) -> int:
        """A tail recursion: each task continues with the next."""
        deep = 40 if self._chance(0.03) else self._random.randint(2, 6)
        options, _ = self._options(catch=False)
        durable = region.durable and options.checkpoint
        graph, sink = None, -1
        for _ in range(deep):
            inner = Draft()
            helper: tuple[int, ...] = ()
            if self._chance(0.2):
                helper = (self._put(inner, self._book.add(durable=durable), (), calm=True),)
            step = replace(options, catch_exceptions=self._chance(0.1))
            plan = self._book.add(options=step, durable=durable, duration_s=0.01)
            if graph is not None:
                plan.does, plan.graph, plan.sink = Does.CONTINUE, graph, sink
            sink_at = self._put(inner, plan, helper, calm=True)
            graph, sink = self._close(inner, sink_at), plan.key
        plan = self._book.add(does=Does.CONTINUE, graph=graph, sink=sink, options=options, durable=durable)
        return self._put(draft, plan, inputs, calm=True)

    def _local(self, draft: Draft, region: Region, inputs: tuple[int, ...]) -> int:
        """A task that returns in-place tasks with values that live only in its worker."""
        options = TaskOptions(
            catch_exceptions=self._chance(0.2), in_place=self._chance(0.3), budget=RetryBudget(deaths=-1, errors=0)
        )
        graph, sink = self._local_chain(region, self._random.randint(1, 3))
        plan = self._book.add(
            does=Does.CONTINUE, graph=graph, sink=sink, options=options, durable=region.durable, dies=self._rarely(1)
        )
        return self._put(draft, plan, inputs, calm=True)

    def _local_chain(self, region: Region, length: int, *, leaves: bool = True) -> tuple[Graph, int]:
        """Tasks in one worker. `leaves`: the last may go on elsewhere, for none that comes after needs the worker."""
        inner = Draft()
        at = -1
        for number in range(length):
            options = TaskOptions(in_place=True, budget=RetryBudget(deaths=0, errors=2, shared=False))
            plan = self._book.add(options=options, durable=False, flaky=self._rarely(2), dies=self._rarely(1))
            if number == 0 and self._chance(0.2):
                plan.does = Does.CONTINUE
                plan.graph, plan.sink = self._local_chain(region, 1, leaves=False)
            elif leaves and number == length - 1 and self._chance(0.3) and region.depth < 4:
                plan.does = Does.CONTINUE
                body = Region(error=None, durable=False, depth=region.depth + 1)
                plan.graph, plan.sink, _ = self._graph(body)
            at = self._put(inner, plan, () if at < 0 else (at,), calm=True, process_local=number < 2)
        return Graph(nodes=tuple(inner.specs), sink=at), inner.keys[at]

    def _sleep(self, draft: Draft, region: Region, inputs: tuple[int, ...]) -> int:
        options = self._passive_options()
        duration = self._random.choice((0.0, 0.5, self._random.uniform(0, 8)))
        plan = self._book.add(
            kind=NodeKind.SLEEP, options=options, durable=region.durable and options.checkpoint, duration_s=duration
        )
        return self._put(draft, plan, inputs, calm=True, duration_s=duration)

    def _event(self, draft: Draft, region: Region, inputs: tuple[int, ...]) -> int:
        options, trouble = self._options(catch=False)
        options = replace(options, timeout_s=None, in_place=False)
        dies, flaky = trouble["dies"], trouble["flaky"]
        if self._chance(0.3):
            # As the API makes them where a listener's own code runs.
            options = replace(options, retry=RetryPolicy(max_attempts=4, initial_s=0.5, max_s=2.0))
            dies = self._random.randint(0, 2)
            flaky = self._random.randint(0, 3 - dies)
        forgiven = options.budget.deaths if options.retry is None else options.retry.max_attempts - 1
        plan = self._book.add(
            kind=NodeKind.EVENT,
            options=options,
            durable=region.durable and options.checkpoint,
            flaky=flaky,
            dies=dies if dies <= forgiven else 0,
            duration_s=self._duration(),
            due_unix_s=START_UNIX_S + self._random.uniform(0, 10),
        )
        about: dict[str, Any] = {"acknowledge": self._chance(0.4)}
        how = self._random.random()
        if how < 0.5:
            plan.stream = about["stream"] = self._random.choice(STREAMS)
        elif how < 0.6:
            about["due_unix_s"] = plan.due_unix_s
        else:
            plan.poll = self._random.choice(tuple(Poll))
            if plan.poll is not Poll.DUE:
                plan.stream = self._random.choice(STREAMS)
        if plan.stream is not None and (how < 0.5 or plan.poll is Poll.STREAM):
            self._readers[plan.stream] = self._readers.get(plan.stream, 0) + 1
        return self._put(draft, plan, inputs, calm=True, **about)

    def _poll(self, draft: Draft, region: Region) -> int:
        """A task that waits for one event, a little at a time, and drops what it has waited for."""
        options, trouble = self._options(catch=False)
        durable = region.durable and options.checkpoint
        stream = self._random.choice(STREAMS)
        self._readers[stream] = self._readers.get(stream, 0) + 1
        plan = self._book.add(does=Does.CONTINUE, stream=stream, options=options, durable=durable, **trouble)
        plan.family = plan.key
        limit_s, caught = self._random.choice((0.0, self._random.uniform(0, 3))), self._chance(0.5)
        plan.graph = polling(self._book, plan, self._random.randint(1, 5), limit_s, caught=caught)
        plan.family, plan.sink = -1, len(self._book) - 1
        return self._put(draft, plan, (), calm=True)

    def _wait(self, draft: Draft, region: Region) -> int:
        """A wait over tasks none of which fails for good: else the order would decide what becomes of the scope."""
        calm_region = replace(region, error=None)
        inputs = [at for at in range(len(draft.specs)) if draft.calm[at] and at not in draft.splits][:2]
        for _ in range(self._random.randint(1, 3)):
            inputs.append(self._call(draft, calm_region, ()))
        options = self._passive_options()
        wait_s = self._random.choice((None, 0.0, self._random.uniform(0, 4)))
        num_returns = self._random.randint(1, len(inputs))
        plan = self._book.add(
            kind=NodeKind.WAIT,
            options=options,
            durable=region.durable and options.checkpoint,
            num_returns=num_returns,
            wait_s=wait_s,
        )
        at = self._put(draft, plan, tuple(inputs), calm=True, num_returns=num_returns, duration_s=wait_s)
        draft.splits.add(at)
        return at

    def _read_split(self, draft: Draft, region: Region) -> int:
        if region.depth < 4 and self._chance(0.25):
            split = self._split_from_below(draft, region)
        else:
            split = self._wait(draft, region)
        readers = self._random.choice((1, 1, 2))
        for _ in range(readers):
            options, trouble = self._options()
            plan = self._book.add(
                does=Does.PEEK if self._chance(0.25) else Does.GATHER,
                options=options,
                durable=region.durable and options.checkpoint,
                **trouble,
            )
            plan.family = plan.key
            last = self._put(draft, plan, (split,), calm=True)
        return last

    def _split_from_below(self, draft: Draft, region: Region) -> int:
        """A task whose value is a split that a task below it made."""
        options, trouble = self._options(checkpoint=True)
        inner = replace(region, error=None, depth=region.depth + 1)
        hidden = self._chance(0.3)
        if hidden:
            inner = replace(inner, durable=False)
        graph, sink, _ = self._graph(inner, split_sink=True)
        # A split of tasks that are not logged keeps from the log whatever it is the value of.
        about = {"does": Does.CONTINUE, "durable": region.durable and not hidden}
        if hidden:
            between = self._book.add(
                does=Does.CONTINUE, durable=False, options=TaskOptions(checkpoint=False), graph=graph, sink=sink
            )
            middle = Draft()
            self._put(middle, between, (), calm=True)
            graph, sink = self._close(middle, 0), between.key
        plan = self._book.add(graph=graph, sink=sink, options=options, **about, **trouble)
        at = self._put(draft, plan, (), calm=True)
        draft.splits.add(at)
        return at

    # -- options -------------------------------------------------------------------------------------------------

    def _duration(self) -> float:
        return self._random.choice((0.01, 0.1, self._random.uniform(0, 3)))

    def _rarely(self, most: int) -> int:
        return self._random.randint(1, most) if self._chance(0.1) else 0

    def _passive_options(self) -> TaskOptions:
        return TaskOptions(checkpoint=not self._chance(0.1))

    def _options(
        self, *, catch: bool = True, checkpoint: bool = False, in_place: bool = False
    ) -> tuple[TaskOptions, dict[str, int]]:
        """Options of a task, and how often it fails without exceeding them."""
        random = self._random
        retry = None
        budget = RetryBudget(
            deaths=random.choice((0, 1, 2, 3)), errors=random.choice((0, 1, 2)), shared=self._chance(0.5)
        )
        if self._chance(0.2):
            retry = RetryPolicy(max_attempts=random.randint(2, 4), initial_s=random.choice((0.0, 0.3, 2.0)))
        if retry is not None:
            deaths, errors, both = 9, 9, retry.max_attempts - 1
        elif budget.shared:
            deaths, errors, both = budget.deaths, budget.deaths if budget.errors else 0, budget.deaths
        else:
            deaths, errors, both = budget.deaths, budget.errors, budget.deaths + budget.errors
        dies = random.randint(0, min(deaths, both)) if self._chance(0.15) else 0
        failures = random.randint(0, min(errors, both - dies)) if self._chance(0.2) else 0
        slow = random.randint(0, failures) if self._chance(0.3) else 0
        if self._chance(0.02):
            # More than is forgiven: the workflow fails, and goes on when it is resumed.
            dies, failures, slow = deaths + 1 + random.randint(0, 2), 0, 0
        options = TaskOptions(
            catch_exceptions=catch and self._chance(0.2),
            checkpoint=checkpoint or not self._chance(0.1),
            in_place=in_place,
            budget=budget,
            retry=retry,
            timeout_s=4.0 if slow else None,
        )
        return options, {"dies": dies, "flaky": failures - slow, "slow": slow}
