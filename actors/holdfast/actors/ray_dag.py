"""The one place that touches the insides of Ray's DAG nodes.

Ray publishes `bind` and the node classes, but not what a node holds, nor in
which order nodes were built. Both are read here, by names that a new Ray
release may change: the tests of this file say at once if one did.

Importing it changes Ray in two ways, both harmless to graphs that are not
ours. Each node gets a number at creation (`build_order`), because repeated
task ids are numbered in the order of building. And `bind` no longer refuses a
value that cannot be pickled: such a value may be meant for an in-place task,
and the refusal comes, with its place and fix, when the graph is submitted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from ray.dag import (
    ClassMethodNode,
    ClassNode,
    DAGInputData,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
    "bound_arguments",
    "bound_options",
    "build_order",
    "function_of",
    "resolve_input",
]

_ORDER = "_holdfast_build_order"
_PATCHED = "_holdfast_patched"
_counter = itertools.count(1)


def build_order(node: DAGNode) -> int:
    """Number of a node in the order of building, within the process that built it; 0 when it is not known.

    Unknown are nodes that were built before this module was first imported.
    """
    # Not getattr: an InputNode answers any name with a node.
    return int(node.__dict__.get(_ORDER, 0))


def bound_arguments(node: DAGNode) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `bind` was given: positional and keyword arguments."""
    return tuple(node.get_args()), dict(node.get_kwargs())


def bound_options(node: DAGNode) -> dict[str, Any]:
    """The Ray options of a function node. Not a copy: its identity says that two nodes have the same ones."""
    options: dict[str, Any] = node._bound_options
    return options


def function_of(node: FunctionNode) -> Callable[..., Any]:
    """The plain Python function behind a function node."""
    function: Callable[..., Any] = node._body
    return function


def resolve_input(node: InputNode | InputAttributeNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an input node stands for, given the arguments of the run.

    Raises:
        TypeError: The graph reads an input that was not given.

    Semantics: as `DAGNode.execute`: one positional argument is the input itself, and index, key and attribute
    are taken from it; otherwise an index is a positional and a string a keyword argument.
    """
    single = len(args) == 1 and not kwargs
    if isinstance(node, InputNode):
        if not args and not kwargs:
            raise TypeError("the graph reads its input, but none was given: call workflow.run(dag, value)")
        return args[0] if single else DAGInputData(*args, **kwargs)  # type: ignore[no-untyped-call]
    key = node.key
    try:
        if not single:
            return args[key] if isinstance(key, int) else kwargs[key]
        if node._accessor_method == "__getattr__":
            return getattr(args[0], str(key))
        return args[0][key]
    except (LookupError, AttributeError, TypeError) as error:
        given = f"one argument of type {type(args[0]).__name__}" if single else f"{len(args)} arguments, {list(kwargs)}"
        raise TypeError(f"the graph reads input {key!r}, which is not in what was given ({given})") from error


def _nodes_within(value: Any) -> Iterator[DAGNode]:
    """Nodes in plain containers, without pickling what lies beside them."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        at = todo.pop()
        if isinstance(at, DAGNode):
            yield at
        elif isinstance(at, (list, tuple, set, frozenset, dict)) and id(at) not in seen:
            seen.add(id(at))
            todo.extend(at.values() if isinstance(at, dict) else at)


def _patch() -> None:
    if _PATCHED in DAGNode.__dict__:
        return
    collect = DAGNode._collect_upstream_nodes

    def stamped_new(cls: type[DAGNode], *_: Any, **__: Any) -> DAGNode:
        node: DAGNode = object.__new__(cls)
        node.__dict__[_ORDER] = next(_counter)
        return node

    def collect_upstream_nodes(node: DAGNode) -> list[DAGNode]:
        try:
            upstream: list[DAGNode] = collect(node)
        except Exception:  # noqa: BLE001 - pickling the user's values raises whatever they raise
            found = _nodes_within((node._bound_args, node._bound_kwargs, node._bound_other_args_to_resolve))
            upstream = list(found)
        return upstream

    DAGNode.__new__ = stamped_new  # type: ignore[method-assign,assignment]
    DAGNode._collect_upstream_nodes = collect_upstream_nodes  # type: ignore[method-assign,assignment]
    setattr(DAGNode, _PATCHED, True)


_patch()
