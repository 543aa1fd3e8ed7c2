"""What a value finds when it is loaded: the inputs and objects its markers stand for.

A pickled value holds markers, calls of the functions below, in place of what
is stored elsewhere. Their names are part of the stored format: renaming one
makes old values unreadable. A load happens inside exactly one context, on one
thread; loads nest, because an input that is asked for is itself loaded.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from holdfast.actors.code import load_named_code
from holdfast.actors.user_code import user_hooks
from holdfast.storage.payload import Payload


class Marker:
    """Stands in a pickled value for what is found at loading: one of the functions below and its argument."""

    __slots__ = ("argument", "function")

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return self.function, (self.argument,)


@dataclass(kw_only=True)
class LoadContext:
    """Where the markers of one load lead. Within one context an input or object is one identical Python object.

    Attributes:
        inputs: Loaders of the node's inputs, in the order of `NodeSpec.inputs`; each is called at most once.
        fetch_object: Finds the payload of a stored object by its key.
        local_values: Values that live only in this process (`GraphDraft.local_values`).
        prefer_import: Classes of the user are taken from his own modules where they can be imported, so that
            `isinstance` holds for who reads the value. Inside a task it must stay False.
    """

    inputs: Sequence[Callable[[], Any]] = ()
    fetch_object: Callable[[str], Payload] | None = None
    local_values: Sequence[Any] = ()
    prefer_import: bool = False
    _values: dict[int | str, Any] = field(default_factory=dict, repr=False)
    _refs: dict[int | str, Any] = field(default_factory=dict, repr=False)

    def value(self, key: int | str) -> Any:
        """The input at a position, or the object under a key."""
        if key not in self._values:
            self._values[key] = self.inputs[key]() if isinstance(key, int) else self._load_object(key)
        return self._values[key]

    def ref(self, key: int | str) -> Any:
        """An ObjectRef to the input at a position, or to the object under a key."""
        if key not in self._refs:
            value = self.value(key)
            # Ray puts no ref by itself, but takes what becomes one where it is read.
            self._refs[key] = ray.put(Marker(same_value, value) if isinstance(value, ray.ObjectRef) else value)
        return self._refs[key]

    def _load_object(self, key: str) -> Any:
        if self.fetch_object is None:
            raise LookupError(f"the value refers to the stored object {key!r}, but nothing here can fetch it")
        return load(self.fetch_object(key), self)


class _Stack(threading.local):
    def __init__(self) -> None:
        self.contexts: list[LoadContext] = []


_stack = _Stack()


def load(payload: Payload, context: LoadContext | None = None) -> Any:
    """Load a value.

    Args:
        payload: What `values.dump` made.
        context: What its markers stand for; without one, it must have none.
    """
    _stack.contexts.append(context if context is not None else LoadContext())
    try:
        with user_hooks:
            return pickle.loads(payload.inband, buffers=payload.buffers)
    finally:
        _stack.contexts.pop()


def _context() -> LoadContext:
    if not _stack.contexts:
        raise LookupError("this value was stored by Holdfast: load it through the workflow API, not with plain pickle")
    return _stack.contexts[-1]


def input_value(position: int) -> Any:
    """Marker: the value of an input."""
    return _context().value(position)


def input_ref(position: int) -> Any:
    """Marker: an ObjectRef to an input."""
    return _context().ref(position)


def object_value(key: str) -> Any:
    """Marker: the value of a stored object."""
    return _context().value(key)


def object_ref(key: str) -> Any:
    """Marker: an ObjectRef to a stored object."""
    return _context().ref(key)


def process_local(position: int) -> Any:
    """Marker: a value that lives only in the process that built the graph."""
    local_values = _context().local_values
    if position >= len(local_values):
        raise LookupError("an argument lived only in the worker that built this task, and that worker is gone")
    return local_values[position]


def same_value(value: Any) -> Any:
    """Marker: what was put in place of an input node."""
    return value


def named_code(module: str, qualified: str, digest: str, pickled: bytes) -> Any:
    """Marker: a class or function of the user's own."""
    prefer_import = bool(_stack.contexts) and _stack.contexts[-1].prefer_import
    return load_named_code(module, qualified, digest, pickled, prefer_import=prefer_import)
