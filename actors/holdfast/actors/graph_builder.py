"""Nodes, as users bind them, to the engine's graph.

A node's arguments are pickled once, and pickling is the traversal: the hook
that meets a node notes it as an input and leaves a marker. So each node is
seen once, at any depth, with no recursion from node to node. Nothing here
submits, stores or runs anything (an event listener's `subscription` apart).
"""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from holdfast.actors import load_context
from holdfast.actors.built_in_calls import collect_outputs, pass_on
from holdfast.actors.code import BOOK, CodeBook
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.nodes import (
    EventNode,
    PassOnNode,
    SleepNode,
    StepNode,
    TaskRefNode,
    WaitNode,
    default_task_id,
    is_actor_node,
    is_task,
    task_id_of,
)
from holdfast.actors.ray_dag import (
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
    bound_arguments,
    bound_options,
    build_order,
    function_of,
    resolve_input,
)
from holdfast.actors.task_options import Resolved, carried_options, resolve
from holdfast.actors.user_code import EndedError, as_exception, user_hooks
from holdfast.actors.values import Marker, ValueOf, dump
from holdfast.engine.errors import ResultNotStoredError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryPolicy
from holdfast.storage.payload import Payload

# An input of the run larger than this is stored once, however many tasks take it.
_SHARED_FROM_BYTES = 64 * 1024

_LISTENER_OPTIONS = TaskOptions(retry=RetryPolicy(max_attempts=4, initial_s=0.5, factor=2.0, max_s=2.0))
"""Of a task that a listener's code runs for: its source may be away for a moment, and others need their process."""


@dataclass(frozen=True, kw_only=True)
class GraphDraft:
    """A graph with all it refers to, ready to be stored.

    Attributes:
        graph: Its nodes are in the order of building; `NodeSpec.arguments` is the Payload of `(args, kwargs)`,
            with markers, for CALL and EVENT nodes, and b"" for others.
        code: Functions and listener classes by hash.
        objects: Contents of ObjectRefs and of large inputs, by key.
        local_values: What the arguments of `process_local` nodes refer to (`LoadContext.local_values`).
        workflow_ids: The workflows that the TaskRefNodes in it belong to: must be none but the running one.
    """

    graph: Graph
    code: Mapping[str, bytes]
    objects: Mapping[str, Payload]
    local_values: list[Any] = field(default_factory=list)
    workflow_ids: frozenset[str] = frozenset()


def build(
    root: Any,
    *,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    allow_local: bool = False,
    local_values: list[Any] | None = None,
    code_book: CodeBook = BOOK,
) -> GraphDraft:
    """Turn a node, with all below it, into a graph.

    Args:
        root: A FunctionNode, MultiOutputNode, step Workflow, or one of our own nodes.
        args: What input nodes read, by position.
        kwargs: What input nodes read, by key.
        allow_local: Whether arguments of in-place nodes may be values that cannot be pickled: true in the
            worker that will run them.
        local_values: Takes the values that cannot be pickled; give the same list again to number them on.
        code_book: Where functions get their hashes.

    Raises:
        TypeError: Not a node that can be run; a Ray actor in the graph; arguments that do not fit a function;
            an input that was not given; (ResultNotStoredError) an argument that cannot be stored.
        ValueError: Options that are refused; (InvalidGraphError) a cyclic graph.
    """
    if not is_task(root):
        refuse_node(root)
    kept = [] if local_values is None else local_values
    return _Builder(args, dict(kwargs or {}), allow_local, kept, code_book).build(root)


def refuse_node(node: Any) -> None:
    """Say why something cannot be run.

    Raises:
        TypeError: Always.
    """
    if is_actor_node(node):
        raise TypeError(
            f"a Ray actor cannot be part of a workflow: {node!r} dies with the cluster. Get it by name inside a "
            "task, or use workflow.virtual_actor"
        )
    if isinstance(node, DAGNode):
        raise TypeError(f"a {type(node).__name__} cannot be run by itself: bind it to a function")
    raise TypeError(
        f"a workflow is made of nodes, f.bind(...) or f.step(...), not of a value of type {type(node).__name__!r}"
    )


@dataclass
class _Seen:
    """What is known of a node before all are numbered."""

    node: DAGNode
    inputs: list[DAGNode]
    fields: dict[str, Any]


class _Builder:
    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        allow_local: bool,
        local_values: list[Any],
        code_book: CodeBook,
    ) -> None:
        self._args, self._kwargs = args, kwargs
        self._allow_local, self._book = allow_local, code_book
        self._code: dict[str, bytes] = {}
        self._objects: dict[str, Payload] = {}
        self._local_values = local_values
        # By id(): nodes and options of one graph live as long as this builder, which holds the root.
        self._known: dict[int, DAGNode] = {}
        self._todo: list[DAGNode] = []
        self._resolved: dict[tuple[int, int], Resolved] = {}
        self._signatures: dict[Callable[..., Any], inspect.Signature | None] = {}
        self._input_values: dict[int, Any] = {}
        self._of_inputs: dict[tuple[tuple[Callable[[Any], Any], Any], ...], Payload] = {}
        self._fitting: set[tuple[Callable[..., Any], int, tuple[str, ...]]] = set()

    def build(self, root: DAGNode) -> GraphDraft:
        if isinstance(root, TaskRefNode):
            root = PassOnNode(root)
        self._meet(root)
        seen: list[_Seen] = []
        while self._todo:
            seen.append(self._look_at(self._todo.pop()))
        # Found from the root down: what is found later was built earlier, where nothing else is known.
        seen.reverse()
        seen.sort(key=lambda one: build_order(one.node))
        position = {id(one.node): at for at, one in enumerate(seen)}
        outside = {node.task_index: node for node in self._known.values() if isinstance(node, TaskRefNode)}
        graph = Graph(
            nodes=tuple(
                NodeSpec(
                    inputs=tuple(
                        -(node.task_index + 1) if isinstance(node, TaskRefNode) else position[id(node)]
                        for node in one.inputs
                    ),
                    **one.fields,
                )
                for one in seen
            ),
            sink=position[id(root)],
        )
        graph.check(known=outside)
        return GraphDraft(
            graph=graph,
            code=self._code,
            objects=self._objects,
            local_values=self._local_values,
            workflow_ids=frozenset(node.workflow_id for node in outside.values()),
        )

    def _meet(self, node: DAGNode) -> None:
        if id(node) not in self._known:
            self._known[id(node)] = node
            if not isinstance(node, TaskRefNode):
                self._todo.append(node)

    def _look_at(self, node: DAGNode) -> _Seen:
        if isinstance(node, FunctionNode):
            options = bound_options(node)
            resolved = self._resolve(carried_options, options, options, step_api=False)
            return self._call(node, function_of(node), bound_arguments(node), resolved)
        if isinstance(node, StepNode):
            resolved = self._resolve(lambda _: node.options, node.options, node.ray_options, step_api=True)
            return self._call(node, node.function, (node.args, node.kwargs), resolved)
        if isinstance(node, EventNode):
            return self._event(node)
        if isinstance(node, (MultiOutputNode, PassOnNode)):
            function = pass_on if isinstance(node, PassOnNode) else collect_outputs
            bound = bound_arguments(node) if isinstance(node, MultiOutputNode) else ((node.node,), {})
            return self._call(node, function, bound, Resolved(task_id=task_id_of(node), options=TaskOptions()))
        fields: dict[str, Any] = {"task_id": task_id_of(node)}
        if isinstance(node, WaitNode):
            for awaited in node.nodes:
                self._meet(awaited)
            fields |= {"kind": NodeKind.WAIT, "num_returns": node.num_returns, "duration_s": node.timeout_s}
            return _Seen(node, list(node.nodes), fields)
        if isinstance(node, SleepNode):
            return _Seen(node, [], {**fields, "kind": NodeKind.SLEEP, "duration_s": node.duration_s})
        raise AssertionError(f"a node that is_task() takes and _look_at() does not: {node!r}")

    def _resolve(
        self, given: Callable[[Any], Mapping[str, Any]], options: Any, ray_options: Any, *, step_api: bool
    ) -> Resolved:
        key = (id(options), id(ray_options))
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = resolve(given(options), ray_options, step_api=step_api)
        return found

    def _call(self, node: DAGNode, function: Callable[..., Any], bound: tuple[Any, Any], resolved: Resolved) -> _Seen:
        self._check_arguments(function, bound)
        task_id = resolved.task_id or default_task_id(function)
        digest = self._encode(function)
        may_be_local = self._allow_local and resolved.options.in_place
        payload, inputs, local = self._arguments(node, bound, task_id, may_be_local)
        fields = {
            "task_id": task_id,
            "function": digest,
            "arguments": payload,
            "options": resolved.options,
            "process_local": local,
        }
        return _Seen(node, inputs, fields)

    def _event(self, node: EventNode) -> _Seen:
        listener, task_id = node.listener_class, task_id_of(node)
        # One argument more, for self.
        self._check_arguments(listener.poll_for_event, ((None, *node.args), node.kwargs))  # type: ignore[attr-defined]
        payload, inputs, _ = self._arguments(node, (node.args, node.kwargs), task_id, may_be_local=False)
        stream, due_unix_s, acknowledges = None, None, _acknowledges(listener)
        if not inputs and isinstance(
            inspect.getattr_static(listener, "subscription", None), (classmethod, staticmethod)
        ):
            args, kwargs = load(payload, LoadContext(fetch_object=self._objects.__getitem__))
            try:
                with user_hooks:
                    subscription = listener.subscription(*args, **kwargs)  # type: ignore[attr-defined]
            except EndedError as ended:
                raise as_exception(ended) from ended.error
            due_unix_s = getattr(subscription, "due_unix_s", None)
            source, key = getattr(subscription, "source", None), getattr(subscription, "key", None)
            stream = (source, key) if source is not None and key is not None else None
        fields = {
            "task_id": task_id,
            "kind": NodeKind.EVENT,
            "function": self._encode(listener),
            "arguments": payload,
            "options": _LISTENER_OPTIONS if acknowledges or (stream is None and due_unix_s is None) else TaskOptions(),
            "stream": stream,
            "due_unix_s": due_unix_s,
            "duration_s": node.timeout_s,
            "acknowledge": acknowledges,
        }
        return _Seen(node, inputs, fields)

    def _encode(self, code: Any) -> str:
        digest, pickled = self._book.encode(code)
        self._code[digest] = pickled
        return digest

    def _check_arguments(self, function: Callable[..., Any], bound: tuple[Any, Any]) -> None:
        args, kwargs = bound
        # Whether arguments fit is a matter of how many there are, and of their names.
        shape = function, len(args), tuple(kwargs)
        if shape in self._fitting:
            return
        if function not in self._signatures:
            try:
                self._signatures[function] = inspect.signature(function)
            except (ValueError, TypeError):
                # Some callables written in C have none.
                self._signatures[function] = None
        check_arguments(function, self._signatures[function], args, kwargs)
        self._fitting.add(shape)

    def _arguments(
        self, owner: DAGNode, bound: tuple[Any, Any], task_id: str, may_be_local: bool
    ) -> tuple[Payload, list[DAGNode], bool]:
        """The payload of a node's arguments, its inputs, and whether some argument stays in this process."""
        inputs: dict[int, tuple[int, DAGNode]] = {}
        args, kwargs = bound
        hook = functools.partial(self._nested, inputs, isinstance(owner, StepNode))
        template = (
            tuple(self._top_level(inputs, value) for value in args),
            {name: self._top_level(inputs, value) for name, value in kwargs.items()},
        )
        if not kwargs and all(type(value) is Marker for value in template[0]):
            # Nothing of the user's, and in most graphs the same for many nodes.
            shape = tuple((value.function, value.argument) for value in template[0])
            if shape not in self._of_inputs:
                self._of_inputs[shape] = dump(template, objects=self._objects)
            return self._of_inputs[shape], [node for _, node in inputs.values()], False
        where = f"(args, kwargs) of task {task_id!r}"
        local = False
        try:
            payload = dump(template, objects=self._objects, node_hook=hook, where=where)
        except ResultNotStoredError:
            if not may_be_local:
                raise
            local = True
            template = self._leave_local(template, hook)
            payload = dump(template, objects=self._objects, node_hook=hook, where=where)
        return payload, [node for _, node in inputs.values()], local

    def _leave_local(self, value: Any, hook: Callable[[Any], Marker]) -> Any:
        """The value with each part that cannot be pickled left in this process; nodes in containers stay inputs."""
        try:
            dump(value, objects=dict(self._objects), node_hook=hook)
        except ResultNotStoredError:
            if type(value) in (list, tuple):
                return type(value)(self._leave_local(part, hook) for part in value)
            if type(value) is dict:
                return {key: self._leave_local(part, hook) for key, part in value.items()}
            self._local_values.append(value)
            return Marker(load_context.process_local, len(self._local_values) - 1)
        return value

    def _top_level(self, inputs: dict[int, tuple[int, DAGNode]], value: Any) -> Any:
        if isinstance(value, (InputNode, InputAttributeNode)):
            value = self._input(value)
        if isinstance(value, DAGNode):
            return Marker(load_context.input_value, self._note(inputs, value))
        return ValueOf(value) if isinstance(value, ray.ObjectRef) else value

    def _nested(self, inputs: dict[int, tuple[int, DAGNode]], step_api: bool, node: DAGNode) -> Marker:
        if isinstance(node, (InputNode, InputAttributeNode)):
            value = self._input(node)
            return value if isinstance(value, Marker) else Marker(load_context.same_value, value)
        as_value = step_api or isinstance(node, StepNode)
        return Marker(load_context.input_value if as_value else load_context.input_ref, self._note(inputs, node))

    def _note(self, inputs: dict[int, tuple[int, DAGNode]], node: DAGNode) -> int:
        if not is_task(node):
            refuse_node(node)
        self._meet(node)
        # A position is taken at first sight, and again at a second: a node used twice is one input.
        return inputs.setdefault(id(node), (len(inputs), node))[0]

    def _input(self, node: InputNode | InputAttributeNode) -> Any:
        """What an input node stands for: the value, or the marker of where a large one is stored."""
        key = id(node)
        if key not in self._input_values:
            # The node too: attribute nodes that nobody else holds would give their id to others.
            self._known.setdefault(key, node)
            value = resolve_input(node, self._args, self._kwargs)
            if not isinstance(value, (DAGNode, ray.ObjectRef)):
                payload = dump(value, objects=self._objects, where="the input of the workflow")
                if payload.nbytes > _SHARED_FROM_BYTES:
                    name = f"input-{uuid.uuid4().hex}"
                    self._objects[name] = payload
                    value = Marker(load_context.object_value, name)
            self._input_values[key] = value
        return self._input_values[key]


def _acknowledges(listener: type) -> bool:
    """Whether a listener class has an `event_checkpointed` of its own, beside that of the interface."""

    def definers(name: str) -> list[type]:
        return [kind for kind in listener.__mro__ if name in vars(kind)]

    # The interface is where poll_for_event comes from first; its event_checkpointed does nothing.
    owners, interface = definers("event_checkpointed"), definers("poll_for_event")[-1]
    return bool(owners) and (owners[0] is not interface or interface is listener)


def check_arguments(
    function: Callable[..., Any],
    signature: inspect.Signature | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse arguments that a function does not take, before anything is submitted.

    Raises:
        TypeError: Too many, missing or unknown ones; names the function.
    """
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{default_task_id(function)}{signature} does not take these arguments: {error}") from None
