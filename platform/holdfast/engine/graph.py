"""What a workflow is made of: nodes, their options, and graphs of them.

A graph is a value: built once by whoever submits or returns it, checked here,
never changed. Argument templates, functions and Ray options are opaque bytes
and names to the engine, which only follows inputs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from holdfast.engine.errors import InvalidGraphError
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.retry import RetryBudget, RetryPolicy

TaskIndex: TypeAlias = int
"""Number of a task within its workflow, given in order of admission. Never reused."""


class NodeKind(str, Enum):
    """What a node does when its inputs are there."""

    CALL = "call"
    WAIT = "wait"
    SLEEP = "sleep"
    EVENT = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions(PlainPickle):
    """How one task is run. What only the worker needs (`ray_options`, `exception_filter`) is opaque here.

    Attributes:
        catch_exceptions: The value becomes `(value, None)` or `(None, error)`.
        checkpoint: Whether the result is logged. False is inherited by the tasks below.
        in_place: Run in the worker process that returned it, or that made its last input.
        budget: Retries without delay.
        retry: Retries with durable back-off; takes the place of `budget` when given.
        timeout_s: Limit of one attempt, in seconds.
        metadata: The user's own, JSON.
        ray_options: The user's Ray options, JSON or pickled; empty for none.
        exception_filter: Pickled (retried types or None for all, never-retried types); empty for no filter.
    """

    catch_exceptions: bool = False
    checkpoint: bool = True
    in_place: bool = False
    budget: RetryBudget = field(default_factory=RetryBudget)
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    ray_options: bytes = b""
    exception_filter: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec(PlainPickle):
    """One node.

    Attributes:
        task_id: The id asked for; the run makes it unique (`id`, `id_1`, ...).
        kind: What the node does.
        function: Hash of the code to call (CALL: the function, EVENT: the listener class), else empty.
        arguments: Opaque template of the arguments, or the name of where it is stored.
        inputs: Nodes whose values are needed. An int of 0 or more is a position in the same graph; a
            negative one, -(index + 1), is a task that the run already has.
        options: See `TaskOptions`.
        num_returns: WAIT: how many inputs must be there.
        duration_s: SLEEP: seconds; WAIT, EVENT of a stream: time limit in seconds, None for none.
        stream: EVENT: the (source, key) to read, when it is known without running user code.
        due_unix_s: EVENT: the time to wait for, when the event is a point in time.
        acknowledge: EVENT: the listener has an `event_checkpointed` of its own, to be called once the event is durable.
        process_local: The arguments hold a value that lives only in the worker that built the node.
    """

    task_id: str
    kind: NodeKind = NodeKind.CALL
    function: str = ""
    arguments: Any = b""
    inputs: tuple[int, ...] = ()
    options: TaskOptions = field(default_factory=TaskOptions)
    num_returns: int = 1
    duration_s: float | None = None
    stream: tuple[str, str] | None = None
    due_unix_s: float | None = None
    acknowledge: bool = False
    process_local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph(PlainPickle):
    """Nodes and the one whose value is the graph's. Inputs may point forwards or backwards, not in circles."""

    nodes: tuple[NodeSpec, ...]
    sink: int

    def check(self, known: Container[TaskIndex] = ()) -> None:
        """Refuse what could never finish.

        Args:
            known: Tasks of the run that negative inputs may point at.

        Raises:
            InvalidGraphError: Empty, sink or input out of range, or cyclic.
        """
        total = len(self.nodes)
        if total == 0:
            raise InvalidGraphError("the graph has no node", "bind at least one function")
        if not 0 <= self.sink < total:
            raise InvalidGraphError(f"the sink {self.sink} is not one of the {total} nodes", "rebuild the graph")
        missing = [0] * total
        consumers: list[list[int]] = [[] for _ in range(total)]
        for position, node in enumerate(self.nodes):
            for at in node.inputs:
                if at >= total or (at < 0 and -at - 1 not in known):
                    raise InvalidGraphError(
                        f"task {node.task_id!r} takes input {at}, which is not there", "rebuild the graph"
                    )
                if at >= 0:
                    missing[position] += 1
                    consumers[at].append(position)
        ready = [position for position in range(total) if missing[position] == 0]
        seen = 0
        while ready:
            seen += 1
            for consumer in consumers[ready.pop()]:
                missing[consumer] -= 1
                if missing[consumer] == 0:
                    ready.append(consumer)
        if seen != total:
            stuck = next(node.task_id for node, left in zip(self.nodes, missing, strict=True) if left)
            raise InvalidGraphError(f"the graph is cyclic: task {stuck!r} needs its own result", "break the circle")
