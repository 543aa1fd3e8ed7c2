"""The nodes Ray does not have: wait, sleep, event, a task that exists already, and a step of the step API.

All are `ray.dag.DAGNode`s, so that `.bind(node)` takes them and Ray's own
traversal stops at them. They hold what they were built with and nothing else:
no graph is walked, nothing is pickled or run in here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from holdfast.actors.ray_dag import (
    ClassMethodNode,
    ClassNode,
    DAGNode,
    FunctionNode,
    MultiOutputNode,
    function_of,
)
from holdfast.actors.task_options import carried_options
from holdfast.engine.errors import InvalidGraphError, InvalidNumberError, StepNotPicklableError
from holdfast.engine.given_numbers import check_limit, check_unbounded, check_whole


class _OwnNode(DAGNode):
    """A node without bound arguments in Ray's sense: Ray would pickle them on building."""

    def __init__(self) -> None:
        nothing: Any = ()
        super().__init__(nothing, {}, {}, {})

    def _execute_impl(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} works in a workflow only: use workflow.run(dag), not dag.execute()")

    def _copy_impl(self, *_: Any) -> NoReturn:
        self._execute_impl()

    def __str__(self) -> str:
        return f"<{type(self).__name__}>"

    __repr__ = __str__


class WaitNode(_OwnNode):
    """Waits for some of several tasks; gives (ready values in input order, remaining).

    Args:
        nodes: Tasks, of either API, or remaining ones of an earlier wait.
        num_returns: How many must be there.
        timeout: Seconds after which it gives what there is; None for no limit.

    Raises:
        TypeError: Something in the list is not a task.
        ValueError: The same task twice, or a number out of range; (InvalidGraphError) no task at all.
    """

    def __init__(self, nodes: Sequence[DAGNode], num_returns: int = 1, timeout: float | None = None) -> None:
        if not isinstance(nodes, (list, tuple)):
            raise TypeError(f"workflow.wait takes a list of tasks, not {type(nodes).__name__}")
        for position, node in enumerate(nodes):
            if not is_task(node):
                raise TypeError(
                    f"workflow.wait takes tasks (f.bind(...), f.step(...)); item {position} is of type "
                    f"{type(node).__name__}: {node!r}"
                )
        if len({id(node) for node in nodes}) != len(nodes):
            raise ValueError("workflow.wait was given the same task twice: list each once")
        if not nodes:
            raise InvalidGraphError("workflow.wait was given an empty list", "give it at least one task")
        num_returns = check_whole("num_returns", num_returns, least=1)
        if num_returns > len(nodes):
            raise InvalidNumberError("num_returns", f"at most the number of tasks, {len(nodes)}", repr(num_returns))
        super().__init__()
        self.nodes = tuple(nodes)
        self.num_returns = num_returns
        self.timeout_s = check_limit("timeout", timeout)


class SleepNode(_OwnNode):
    """Waits for a time, counted from when the node runs.

    Args:
        seconds: How long, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        duration_s = check_unbounded("seconds", seconds)
        super().__init__()
        self.duration_s = duration_s


class EventNode(_OwnNode):
    """Waits for one event.

    Args:
        listener_class: A class with `poll_for_event`; the public API asks for an EventListener.
        args: Positional arguments of its `poll_for_event`; may be nodes.
        kwargs: Keyword arguments of the same.
        timeout_s: How long to wait, in seconds; None for ever. For listeners that subscribe to a stream.

    Raises:
        TypeError: Not such a class, or not a number of seconds.
        ValueError: Less than no time.
    """

    def __init__(
        self,
        listener_class: type,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> None:
        if not (isinstance(listener_class, type) and callable(getattr(listener_class, "poll_for_event", None))):
            raise TypeError(f"wait_for_event takes a subclass of workflow.EventListener, not {listener_class!r}")
        super().__init__()
        if timeout_s is not None:
            timeout_s = check_limit("timeout_s", timeout_s)
            if not callable(getattr(listener_class, "subscription", None)):
                raise TypeError(
                    f"timeout_s= is for listeners that subscribe to a stream, and {listener_class.__name__} polls. "
                    "Put a limit into its poll_for_event, or use workflow.wait([event, workflow.sleep(seconds)])"
                )
        self.listener_class, self.args, self.kwargs = listener_class, tuple(args), dict(kwargs or {})
        self.timeout_s = timeout_s


class TaskRefNode(_OwnNode):
    """A task that the running workflow already has: what `workflow.wait` hands out as remaining.

    Args:
        workflow_id: The workflow it belongs to; it means nothing in another.
        task_index: Its number there.
        task_id: Its id there, for people.
    """

    def __init__(self, workflow_id: str, task_index: int, task_id: str) -> None:
        super().__init__()
        self.workflow_id, self.task_index, self.task_id = workflow_id, task_index, task_id

    def __reduce__(self) -> tuple[Any, ...]:
        _pickled.add((self.workflow_id, self.task_index))
        return TaskRefNode, (self.workflow_id, self.task_index, self.task_id)

    def __str__(self) -> str:
        return f"<task {self.task_id!r} of workflow {self.workflow_id!r}>"

    __repr__ = __str__


_pickled: set[tuple[str, int]] = set()
"""The remaining tasks that this process has pickled or copied: somebody else may ask for them."""


def take_pickled(workflow_id: str) -> tuple[int, ...]:
    """Take the remaining tasks of a workflow that this process has pickled since the last call."""
    taken = tuple(_pickled)
    _pickled.difference_update(taken)
    return tuple(sorted(index for known, index in taken if known == workflow_id))


class PassOnNode(_OwnNode):
    """Gives the value of a task that exists already: a graph needs a node of its own.

    Args:
        node: The task.
    """

    def __init__(self, node: TaskRefNode) -> None:
        super().__init__()
        self.node = node


class StepRunner(Protocol):
    """What runs a step `Workflow`; the public API registers itself."""

    def run(self, step: StepNode, *, workflow_id: str | None, metadata: dict[str, Any] | None) -> Any:
        """Run it as a workflow and return its value."""
        ...

    def run_async(self, step: StepNode, *, workflow_id: str | None, metadata: dict[str, Any] | None) -> Any:
        """Start it as a workflow and return an ObjectRef of its value."""
        ...


_runners: list[StepRunner] = []


def register_step_runner(runner: StepRunner) -> None:
    """Say what `StepNode.run` and `run_async` do. The last one registered counts."""
    _runners[:] = [runner]


class StepNode(_OwnNode):
    """A step with its arguments: the step API's `Workflow`.

    Args:
        function: The step's function.
        args: Positional arguments; Workflows anywhere inside arrive as values.
        kwargs: Keyword arguments, likewise.
        options: Checked workflow options (`task_options.check_options`).
        ray_options: The step's Ray options.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        ray_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, tuple(args), dict(kwargs or {})
        # The step's own dicts, not copies: that two steps have the same ones spares resolving them again.
        self.options: Mapping[str, Any] = {} if options is None else options
        self.ray_options: Mapping[str, Any] = {} if ray_options is None else ray_options

    @property
    def step_id(self) -> str:
        """The id asked for: the workflow makes it unique (`id`, `id_1`, ...)."""
        return self.options.get("task_id") or default_task_id(self.function)

    def run(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> Any:
        """Run the step as a workflow and return its value, as `workflow.run`."""
        return _runner().run(self, workflow_id=workflow_id, metadata=metadata)

    def run_async(self, workflow_id: str | None = None, metadata: dict[str, Any] | None = None) -> Any:
        """Start the step as a workflow and return an ObjectRef of its value, as `workflow.run_async`."""
        return _runner().run_async(self, workflow_id=workflow_id, metadata=metadata)

    def __reduce__(self) -> NoReturn:
        raise StepNotPicklableError(self.step_id)

    def __str__(self) -> str:
        return f"<Workflow {self.step_id!r}>"

    __repr__ = __str__


def is_task(value: Any) -> bool:
    """Whether a value is a node that has a result of its own, and can be run or waited for."""
    return isinstance(value, (FunctionNode, _OwnNode, MultiOutputNode))


def is_actor_node(value: Any) -> bool:
    """Whether a value is a Ray actor, or a call of one, bound into a graph."""
    return isinstance(value, (ClassNode, ClassMethodNode))


def default_task_id(code: Any) -> str:
    """`<module>.<qualname>` of a function or class, with `<locals>` as `locals`."""
    while isinstance(code, functools.partial):
        code = code.func
    named = code if hasattr(code, "__qualname__") else type(code)
    return f"{named.__module__}.{named.__qualname__}".replace("<locals>", "locals")


def task_id_of(node: DAGNode) -> str:
    """The id a node asks for, given or default."""
    if isinstance(node, StepNode):
        return node.step_id
    if isinstance(node, FunctionNode):
        return carried_options(node.get_options()).get("task_id") or default_task_id(function_of(node))
    if isinstance(node, EventNode):
        return default_task_id(node.listener_class)
    if isinstance(node, TaskRefNode):
        return node.task_id
    return _BUILT_IN_IDS.get(type(node), default_task_id(type(node)))


_BUILT_IN_IDS: dict[type, str] = {
    WaitNode: "workflow.wait",
    SleepNode: "workflow.sleep",
    MultiOutputNode: "workflow.outputs",
    PassOnNode: "workflow.pass_on",
}


def _runner() -> StepRunner:
    if not _runners:
        raise RuntimeError("nothing runs workflows here: import holdfast.workflow first")
    return _runners[0]
