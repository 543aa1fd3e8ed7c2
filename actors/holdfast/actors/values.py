"""User values to payloads.

One pickler for all that becomes durable: arguments, results, errors. It takes
out what must not be stored as it is: ObjectRefs (their contents are stored
instead), nodes (whoever builds a graph says what stands for them), the user's
own classes (stored so that they load with and without their module), actor
handles (refused). Nothing here knows graphs or the store; the way back is
`load_context`.
"""

from __future__ import annotations

import io
import pickle
import types
import uuid
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import ray
import ray.cloudpickle
from ray.dag.base import DAGNodeBase

from holdfast.actors import load_context
from holdfast.actors.code import named_code, settle_class
from holdfast.actors.code_pickler import HANDLES, LOCKS, ActorHandleMetError
from holdfast.actors.culprit import find_culprit
from holdfast.actors.load_context import LoadContext, Marker, load
from holdfast.actors.user_code import runs_user_code, said_by, type_name, user_hooks, what_ended
from holdfast.engine.errors import HoldfastError, ResultNotStoredError
from holdfast.storage.payload import Payload

__all__ = ["LoadContext", "Marker", "NodeHook", "ValueOf", "dump", "load", "object_key", "render", "set_cluster_nonce"]

NodeHook = Callable[[Any], "Marker"]
"""Given a node met while pickling, says what stands for it."""

# Buffers smaller than this stay in the pickle: many small ones cost more apart than copied.
_IN_BAND_BYTES = 4096
_PLAIN_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN_ITEMS = 64
_nonce = uuid.uuid4().hex[:16]


def set_cluster_nonce(nonce: str) -> None:
    """Name the cluster, once per process, so that keys of its objects are the same in all its processes.

    Until then a random one is used: correct, but an object that two processes store is then stored twice.
    """
    global _nonce  # noqa: PLW0603 - one cluster per process, as in Ray
    _nonce = nonce


def object_key(ref: Any) -> str:
    """Name under which the contents of an ObjectRef are stored. ObjectRef ids alone repeat from cluster to cluster."""
    return f"{_nonce}-{ref.hex()}"


class ValueOf:
    """An ObjectRef that is to arrive as its value."""

    __slots__ = ("ref",)

    def __init__(self, ref: Any) -> None:
        self.ref = ref


def dump(
    value: Any, *, objects: MutableMapping[str, Payload], node_hook: NodeHook | None = None, where: str = "value"
) -> Payload:
    """Pickle a value to be stored.

    Args:
        value: The user's value.
        objects: Takes the contents of the ObjectRefs found, each once, by `object_key`; a key that is there
            already is not fetched again.
        node_hook: Says what stands for a DAG node; without it nodes are pickled like any object, and step
            Workflows refused.
        where: What the value is, for the refusal ("the result of task 'f'").

    Returns:
        The payload. Its larger buffers are views on the value: store them before it changes.

    Raises:
        ResultNotStoredError: An actor handle, or something that cannot be pickled; names it and its place.
        StepNotPicklableError: A step Workflow, without a hook.
    """
    if _is_plain(value, _PLAIN_ITEMS):
        return Payload(pickle.dumps(value, 5))
    found: dict[str, Any] = {}
    payload = _dump_one(value, found, node_hook, where)
    # The contents may hold further refs, and those more: a list of work, no recursion.
    while found:
        wanted = {key: ref for key, ref in found.items() if key not in objects}
        found = {}
        for key, content in zip(wanted, ray.get(list(wanted.values())), strict=True):
            objects[key] = _dump_one(content, found, None, f"what {wanted[key]!r} holds")
    return payload


def render(base: Any, *, caught: bool, wraps: int) -> Any:
    """What readers of a task see of its stored base value (or error).

    Args:
        base: The value as stored; the error itself when `caught`.
        caught: The task itself failed and its `catch_exceptions` took the error: `(None, error)`.
        wraps: How many `catch_exceptions` of tasks that continued to it add `(value, None)`.
    """
    if caught:
        base = (None, base)
    for _ in range(wraps):
        base = (base, None)
    return base


def _is_plain(value: Any, budget: int) -> bool:
    """Whether a value is a small one of atoms only, for which the plain pickler does, many times faster."""
    kind = type(value)
    if kind in _PLAIN_ATOMS:
        return True
    if kind is tuple or kind is list:
        items = value
    elif kind is dict:
        if not all(type(key) in _PLAIN_ATOMS for key in value):
            return False
        items = value.values()
    else:
        return False
    # The budget falls with the depth, so a list within itself, or a deep one, ends.
    if len(value) >= budget:
        return False
    left = budget // 2
    for item in items:  # noqa: SIM110 - a generator costs more than the check
        if type(item) not in _PLAIN_ATOMS and not _is_plain(item, left):
            return False
    return True


# Without type hints.
_CloudPickler: Any = ray.cloudpickle.CloudPickler


class _Pickler(_CloudPickler):  # type: ignore[misc]
    def __init__(
        self,
        file: io.BytesIO,
        buffers: list[memoryview],
        found: dict[str, Any],
        node_hook: NodeHook | None,
    ) -> None:
        # No method of its own: a pickler remembers all that it has met, and in a cycle it would keep that, the user's
        # arrays included, until the next garbage collection.
        super().__init__(file, protocol=5, buffer_callback=partial(_take_buffer, buffers))
        self._found, self._node_hook = found, node_hook
        self.refusal: BaseException | None = None

    @runs_user_code
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)):
            named = named_code(obj)
            if named is not None:
                return load_context.named_code, named
            if isinstance(obj, type):
                settle_class(obj)
            return super().reducer_override(obj)
        if isinstance(obj, DAGNodeBase) and self._node_hook is not None:
            try:
                return self._node_hook(obj).__reduce__()
            except Exception as error:
                self.refusal = error
                raise
        if isinstance(obj, LOCKS):
            # Where Ray Serve is loaded they pickle, into locks that lock nothing.
            raise TypeError(f"cannot pickle {type(obj).__module__}.{type(obj).__qualname__} object")
        if isinstance(obj, ray.ObjectRef):
            key = object_key(obj)
            self._found[key] = obj
            return load_context.object_ref, (key,)
        if isinstance(obj, HANDLES):
            raise ActorHandleMetError
        if isinstance(obj, ValueOf):
            key = object_key(obj.ref)
            self._found[key] = obj.ref
            return load_context.object_value, (key,)
        return super().reducer_override(obj)


def _take_buffer(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    raw = buffer.raw()
    if raw.nbytes < _IN_BAND_BYTES:
        return True
    buffers.append(raw)
    return False


def _dump_one(value: Any, found: dict[str, Any], node_hook: NodeHook | None, where: str) -> Payload:
    file, buffers = io.BytesIO(), list[memoryview]()
    pickler = _Pickler(file, buffers, found, node_hook)
    try:
        with user_hooks:
            pickler.dump(value)
    except ActorHandleMetError as error:
        path, handle = _culprit(value, node_hook, ActorHandleMetError)
        raise ResultNotStoredError(
            f"an actor handle cannot be stored, it dies with the cluster: {handle!r}{_place(path, where)}",
            "Instead, pass the actor's name and ray.get_actor it inside the task.",
        ) from error
    except HoldfastError:
        raise
    except Exception as error:
        if pickler.refusal is not None:
            raise
        path, culprit = _culprit(value, node_hook, Exception)
        raise ResultNotStoredError(
            f"a value of type {type_name(culprit)!r}{_place(path, where)} cannot be pickled: {said_by(error)}",
            "Pass what it is made from and create it inside the task, give its class __reduce__, or hand it to "
            "a task with allow_inplace=True.",
        ) from what_ended(error)
    return Payload(file.getvalue(), tuple(buffers))


def _place(path: str, where: str) -> str:
    return f" at {path.lstrip()} of {where}" if path else f" ({where})"


def _culprit(value: Any, node_hook: NodeHook | None, kinds: type[Exception]) -> tuple[str, Any]:
    try:
        with user_hooks:
            return find_culprit(value, lambda part: _fails(part, node_hook, kinds))
    except Exception:  # noqa: BLE001 - a key that has no repr, say; there is an error to raise already
        return "", value


def _fails(part: Any, node_hook: NodeHook | None, kinds: type[Exception]) -> bool:
    try:
        with user_hooks:
            _Pickler(io.BytesIO(), [], {}, node_hook).dump(part)
    except kinds:
        return True
    except Exception:  # noqa: BLE001 - another reason than the one that is looked for
        return False
    return False
