"""Building blocks of graphs: `wait`, `sleep`, `wait_for_event`, `continuation`, `create`."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import ray
from ray.dag import FunctionNode

from holdfast.actors.built_in_calls import converted
from holdfast.actors.graph_builder import refuse_node
from holdfast.actors.nodes import (
    EventNode,
    SleepNode,
    StepNode,
    WaitNode,
    is_task,
    register_step_runner,
    task_id_of,
)
from holdfast.actors.task_context import current_task
from holdfast.actors.task_options import WorkflowOptions
from holdfast.listeners.interface import EventListener, conversion_of
from holdfast.workflow import api

__all__ = ["Workflow", "continuation", "create", "sleep", "wait", "wait_for_event"]

# In the process of the task that needs the event, when there is one: to convert it is no work for a task of its own.
_CONVERTED: Any = WorkflowOptions(allow_inplace=True)(ray.remote(num_cpus=0)(converted))


class Workflow(ABC):
    """A graph that can be run: what `create` and `.step()` return."""

    @property
    @abstractmethod
    def step_id(self) -> str:
        """The id its last task asks for."""

    @abstractmethod
    def run(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> Any:
        """Run it and return its value, as `workflow.run`."""

    @abstractmethod
    def run_async(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> ray.ObjectRef[Any]:
        """Set it going and return a reference of its value, as `workflow.run_async`."""


class _Created(Workflow):
    def __init__(self, dag: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._dag, self._args, self._kwargs = dag, args, kwargs

    @property
    def step_id(self) -> str:
        return task_id_of(self._dag)

    def run(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> Any:
        return api.run(self._dag, *self._args, workflow_id=workflow_id, metadata=metadata, **self._kwargs)

    def run_async(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> ray.ObjectRef[Any]:
        return api.run_async(self._dag, *self._args, workflow_id=workflow_id, metadata=metadata, **self._kwargs)


class _Runner:
    def run(self, step: StepNode, *, workflow_id: str | None, metadata: dict[str, Any] | None) -> Any:
        return api.run(step, workflow_id=workflow_id, metadata=metadata)

    def run_async(self, step: StepNode, *, workflow_id: str | None, metadata: dict[str, Any] | None) -> Any:
        return api.run_async(step, workflow_id=workflow_id, metadata=metadata)


def create(dag: Any, *args: Any, **kwargs: Any) -> Workflow:
    """A graph with its inputs, to be run later.

    Args:
        dag: A node, `f.bind(...)`.
        *args: What `ray.dag.InputNode` stands for, by position.
        **kwargs: What `ray.dag.InputNode` stands for, by key.

    Raises:
        TypeError: Not a node.
    """
    if not is_task(dag):
        refuse_node(dag)
    return _Created(dag, args, kwargs)


def continuation(dag_node: Any) -> Any:
    """Go on with another graph in place of a value.

    Args:
        dag_node: A node, `f.bind(...)`, or a step `Workflow`.

    Returns:
        Inside a workflow's task: the node, to be returned. Elsewhere: the value, after running it.

    Raises:
        TypeError: Not a node.
    """
    if not is_task(dag_node):
        refuse_node(dag_node)
    return dag_node if current_task() is not None else api.run(dag_node)


def wait(nodes: Sequence[Any], num_returns: int = 1, timeout: float | None = None) -> WaitNode:
    """Wait for some of several tasks.

    Args:
        nodes: Tasks of either API, or remaining ones of an earlier wait.
        num_returns: How many must be there.
        timeout: Seconds after which to go on with what is there; None for no limit.

    Returns:
        A node of `(ready values in the order of the list, remaining tasks)`. Remaining tasks can be passed on in
        a continuation, and waited for again.

    Raises:
        TypeError: Not a list of tasks.
        ValueError: `num_returns` or `timeout` out of range, or a task given twice.

    Semantics: the split is logged: whoever reads it sees the same one, before and after any crash.
    """
    return WaitNode(nodes, num_returns=num_returns, timeout=timeout)


def sleep(seconds: float) -> SleepNode:
    """Wait for a time, holding no process.

    Args:
        seconds: How long. The clock starts when the node runs.

    Returns:
        A node whose value is None.

    Semantics: the deadline is logged and survives a restart; never early.
    """
    return SleepNode(seconds)


def wait_for_event(
    listener_class: type[EventListener], *args: Any, timeout_s: float | None = None, **kwargs: Any
) -> EventNode | FunctionNode:
    """Wait for an event.

    Args:
        listener_class: A subclass of `EventListener`.
        *args: For its `poll_for_event`; may be nodes.
        timeout_s: How long to wait, in seconds, from when the task begins to; None for ever. For listeners that
            subscribe to a stream, as `KafkaListener` and `HTTPListener`.
        **kwargs: As `*args`.

    Returns:
        A node of the event.

    Raises:
        TypeError: Not a subclass of EventListener; `timeout_s` no number, or for a listener that polls.
        ValueError: `timeout_s` below 0.

    Semantics: when the time is over the task fails with `EventTimeoutError`, which a `catch_exceptions` around it
    catches. The deadline is logged and survives a restart; an event that comes later is kept for the next who waits.
    """
    if not (isinstance(listener_class, type) and issubclass(listener_class, EventListener)):
        raise TypeError(f"wait_for_event takes a subclass of workflow.EventListener, not {listener_class!r}")
    if timeout_s is not None and _takes_timeout(listener_class):
        # The listener's own: it was there before ours.
        kwargs["timeout_s"], timeout_s = timeout_s, None
    event = EventNode(listener_class, args, kwargs, timeout_s=timeout_s)
    conversion = conversion_of(listener_class, args, kwargs)
    return event if conversion is None else _CONVERTED.bind(conversion, event)


def _takes_timeout(listener_class: type[EventListener]) -> bool:
    return "timeout_s" in inspect.signature(listener_class.poll_for_event).parameters


def _give_nodes_run() -> None:
    """The published examples write `dag.run()`: on function nodes, where Ray has no such method."""
    runner = _Runner()
    register_step_runner(runner)
    Workflow.register(StepNode)
    node_class: Any = FunctionNode
    for name in ("run", "run_async"):
        if not hasattr(FunctionNode, name):
            setattr(node_class, name, functools.wraps(getattr(api, name))(_forward(name)))


def _forward(name: str) -> Any:
    def method(
        self: FunctionNode,
        *args: Any,
        workflow_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        return getattr(api, name)(self, *args, workflow_id=workflow_id, metadata=metadata, **kwargs)

    return method


_give_nodes_run()
