"""What simulated tasks do, by number: the "code" of a simulated workflow, which no crash can take away.

Nothing in here knows the engine's runs or the store; a plan is found by the
number that stands in the node's arguments.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from holdfast.engine.errors import HoldfastError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.values import Split, Value
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob

Fact: TypeAlias = Any
"""A value as simulated tasks see it: an int, ("ok", fact), ("error", fact), or a `Ready`."""


class Does(Enum):
    """The behaviour of a task's function."""

    VALUE = "returns a number made of its inputs"
    ERROR = "always raises"
    CONTINUE = "returns a graph"
    GATHER = "takes a split, waits for what remains of it, and returns a number made of all values"
    PEEK = "takes a split, and returns a number that depends on the inputs of the wait only"
    POLL = "takes what a wait for an event with a time limit gave, and waits afresh when that is nothing"


class Poll(Enum):
    """What a polled listener finds out."""

    EVENT = "an event"
    STREAM = "a stream to read"
    DUE = "a time to wait for"


@dataclass(slots=True, kw_only=True)
class Plan:
    """One node's behaviour.

    Attributes:
        key: Its number.
        inputs: Keys of the nodes it takes.
        durable: Whether its result is logged: neither it nor a task above opted out.
        graph, sink: CONTINUE: what it returns, and the key of the sink.
        error: ERROR: which.
        flaky, dies, slow: How many first executions raise, lose the worker, or exceed `timeout_s`.
        duration_s: Of one execution.
        polls: POLL: how often it waits afresh with a time limit; after that it waits without.
        family: For what a GATHER continued with: the key of the first GATHER; `carried` are the values so far.
    """

    key: int
    kind: NodeKind = NodeKind.CALL
    inputs: tuple[int, ...] = ()
    durable: bool = True
    does: Does = Does.VALUE
    options: TaskOptions = field(default_factory=TaskOptions)
    graph: Graph | None = None
    sink: int = -1
    error: int = 0
    flaky: int = 0
    dies: int = 0
    slow: int = 0
    duration_s: float = 0.1
    stream: tuple[str, str] | None = None
    poll: Poll = Poll.EVENT
    due_unix_s: float = 0.0
    num_returns: int = 1
    wait_s: float | None = None
    polls: int = 0
    family: int = -1
    carried: tuple[int, ...] = ()


class Book:
    """All plans of one simulated workflow."""

    def __init__(self) -> None:
        self._plans: list[Plan] = []

    def add(self, **about: Any) -> Plan:
        """A new plan, its key given here."""
        plan = Plan(key=len(self._plans), **about)
        self._plans.append(plan)
        return plan

    def __getitem__(self, key: int) -> Plan:
        return self._plans[key]

    def __len__(self) -> int:
        return len(self._plans)

    def of(self, node: NodeSpec) -> Plan:
        """The plan of a node."""
        return self._plans[int(bytes(node.arguments.inband))]


def polling(book: Book, plan: Plan, polls: int, limit_s: float, *, caught: bool) -> Graph:
    """A graph that waits for an event with a time limit, and then polls on.

    Args:
        book: Takes the plans of its nodes.
        plan: The POLL it is for: says which stream, and whether results are logged.
        polls: How often it does so; with 0 it waits without a limit.
        limit_s: The limit.
        caught: The limit is the event's own, and what it raises is caught; else it is that of a wait.
    """
    event = book.add(kind=NodeKind.EVENT, stream=plan.stream, durable=plan.durable)
    about: dict[str, Any] = {"durable": plan.durable, "stream": plan.stream}
    waits = NodeSpec(task_id="news", kind=NodeKind.EVENT, arguments=arguments(event.key), stream=plan.stream)
    nodes, last = [waits], event
    if polls and caught:
        within = Graph(nodes=(replace(waits, duration_s=limit_s),), sink=0)
        options = TaskOptions(catch_exceptions=True)
        last = book.add(does=Does.CONTINUE, graph=within, sink=event.key, options=options, durable=plan.durable)
        nodes = [NodeSpec(task_id="ask", arguments=arguments(last.key), options=options)]
    elif polls:
        last = book.add(kind=NodeKind.WAIT, inputs=(event.key,), durable=plan.durable, wait_s=limit_s)
        wait = NodeSpec(task_id="first", kind=NodeKind.WAIT, arguments=arguments(last.key), inputs=(0,))
        nodes.append(replace(wait, duration_s=limit_s))
    more = book.add(does=Does.POLL, polls=polls, inputs=(last.key,), family=plan.family, **about)
    nodes.append(NodeSpec(task_id="poll", arguments=arguments(more.key), inputs=(len(nodes) - 1,)))
    return Graph(nodes=tuple(nodes), sink=len(nodes) - 1)


@dataclass(frozen=True, slots=True)
class Ready:
    """A split as a task sees it."""

    values: tuple[Fact, ...]
    remaining: tuple[int, ...]


def arguments(key: int) -> Payload:
    """What stands in a node's arguments."""
    return Payload(b"%d" % key)


def number(value: int) -> Payload:
    """A number as a task returns it."""
    return Payload(b"i%d" % value)


def error(which: int) -> Payload:
    """An error as a task raises it."""
    return Payload(b"e%d" % which)


def event(stream: tuple[str, str], serial: int) -> Payload:
    """An event; tasks see of it which stream it came from, and laws also which one it was."""
    return Payload(f"v{serial}:{stream[0]}/{stream[1]}".encode())


def large_event(stream: tuple[str, str], serial: int) -> Blob:
    """The same, large: it is stored elsewhere, under its name."""
    return Blob(f"v{serial}:{stream[0]}/{stream[1]}", 100_000)


def event_name(value: Value) -> str:
    """Which event this is; "due" for a point in time."""
    if isinstance(value.base, Blob):
        return value.base.key
    return "due" if value.base is None else bytes(value.base.inband).decode()


def fact(value: Value) -> Fact:
    """What the engine's value is for a task."""
    found: Fact = _base_fact(value.base)
    if value.caught:
        found = ("error", found)
    for _ in range(value.wraps):
        found = ("ok", found)
    return found


def _base_fact(base: Any) -> Fact:
    match base:
        case None:
            return 0
        case Blob():
            return event_fact(base.key.split(":", 1)[1])
        case Payload():
            text = bytes(base.inband).decode()
            if text[0] == "i":
                return int(text[1:])
            return event_fact(text.split(":", 1)[1]) if text[0] == "v" else ("raised", int(text[1:]))
        case Split():
            return Ready(tuple(fact(value) for _, value in base.ready), tuple(at for at, _ in base.remaining))
        case HoldfastError():
            return ("raised", type(base).__name__)
    raise TypeError(f"{base!r} is no value of a simulated task")


def event_fact(stream_name: str) -> int:
    """What a task sees of any event of a stream."""
    return zlib.crc32(stream_name.encode())


def digest(*parts: object) -> int:
    """A number made of facts; the same in every process."""
    return zlib.crc32(repr(parts).encode())


def unwrap(value: Fact) -> Fact:
    """What lies inside successful catches."""
    while isinstance(value, tuple) and value[0] == "ok":
        value = value[1]
    return value
