"""Pickles code: equal code gives equal bytes, in every process.

cloudpickle's own, without what differs from process to process: the order of
sets, random marks of classes, what Ray keeps in its objects. What it gives is
loaded by plain `pickle`. References and actor handles that code holds are met
here as they are in values. Nothing here knows which modules are the user's.
"""

from __future__ import annotations

import io
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
import ray.cloudpickle
from ray.actor import ActorHandle
from ray.util.client.common import ClientActorHandle

from holdfast.actors.class_identities import ClassIdentities, is_by_value, without_mark
from holdfast.actors.ray_code import FreshMarks
from holdfast.actors.user_code import runs_user_code

# Without type hints.
_CloudPickler: Any = ray.cloudpickle.CloudPickler

LOCKS = (type(threading.Lock()), type(threading.RLock()))
HANDLES = (ActorHandle, ClientActorHandle)
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})
# Of caches that appear while a module is used.
_PASSING_NAMES = frozenset({"__warningregistry__"})


class ActorHandleMetError(TypeError):
    """The pickled code holds an actor handle. Its message is made where the whole code is known."""


@runs_user_code
def dump(code: Any, contents: Mapping[str, Any] | None = None) -> tuple[bytes, dict[str, Any]]:
    """Pickle code.

    Args:
        code: A function, class, or tuple of them.
        contents: What the ObjectRefs in it hold, by their hex; those that are not there are told.

    Returns:
        The bytes; and the ObjectRefs that were not in `contents`, for which the bytes are of no use.

    Raises:
        ActorHandleMetError: It holds an actor handle.
        Exception: Whatever else keeps it from being pickled.
    """
    file = io.BytesIO()
    pickler = _CodePickler(file, {} if contents is None else contents, _Settling())
    pickler.dump_settled(code)
    return file.getvalue(), pickler.missing


@runs_user_code
def settle(code: type) -> None:
    """Give a class the mark of its content; see `ClassIdentities.settle`."""
    _Settling().classes.settle(code)


class _Settling:
    """What is shared by the pickler of some code and those of its parts."""

    def __init__(self) -> None:
        self.marks = FreshMarks()
        self.classes = ClassIdentities(self._dump_part)

    @runs_user_code
    def _dump_part(self, part: Any, stand_in: Callable[[Any], tuple[Any, ...] | None]) -> bytes:
        file = io.BytesIO()
        _CodePickler(file, {}, self, stand_in).dump_settled(part)
        return file.getvalue()


class _CodePickler(_CloudPickler):  # type: ignore[misc]
    def __init__(
        self,
        file: io.BytesIO,
        contents: Mapping[str, Any],
        settling: _Settling,
        stand_in: Callable[[Any], tuple[Any, ...] | None] | None = None,
    ) -> None:
        super().__init__(file, protocol=5)
        self._contents, self._settling, self._stand_in = contents, settling, stand_in
        self._containers = _Containers()
        self._texts: dict[tuple[type, Any], Any] = {}
        self.missing: dict[str, Any] = {}

    @runs_user_code
    def dump_settled(self, code: Any) -> None:
        self.dump(self._containers.settled(code))

    @runs_user_code
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is _Ordered:
            return obj.reduced()
        if isinstance(obj, LOCKS):
            # Where Ray Serve is loaded they pickle, into locks that lock nothing.
            raise TypeError(f"cannot pickle {kind.__module__}.{kind.__qualname__} object")
        if isinstance(obj, ray.ObjectRef):
            return self._reference(obj)
        if isinstance(obj, HANDLES):
            raise ActorHandleMetError
        if self._stand_in is not None and isinstance(obj, (type, types.FunctionType, types.ModuleType)):
            reduced = self._stand_in(obj)
            if reduced is not None:
                return reduced
        is_class = isinstance(obj, (type, typing.TypeVar)) and is_by_value(obj)
        if is_class and self._stand_in is None:
            self._settling.classes.settle(obj)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            if isinstance(obj, (type, types.FunctionType)):
                return reduced
            reduce = self.dispatch_table.get(kind)
            reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(5)
        if not isinstance(reduced, tuple):
            return reduced
        if is_class and self._stand_in is not None:
            reduced = without_mark(obj, reduced)
        return self._settled(obj, self._settling.marks.settle(obj, reduced))

    def _settled(self, obj: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
        make, args, *rest = reduced
        if isinstance(obj, types.CodeType):
            args = self._shared(args)
        elif isinstance(obj, types.FunctionType):
            # Made by cloudpickle, one for all functions of a module.
            names = args[1]
            names.update({name: self._shared(value) for name, value in names.items() if type(value) is str})
        if isinstance(obj, types.FunctionType) and rest and isinstance(rest[0], tuple):
            slots = rest[0][1]
            # In the order in which this process happened to import them.
            submodules = sorted(slots.get("_cloudpickle_submodules", ()), key=lambda module: module.__name__)
            slots = {name: self._shared(value) if type(value) is str else value for name, value in slots.items()}
            rest[0] = (rest[0][0], {**slots, "_cloudpickle_submodules": submodules})
        elif isinstance(obj, type) and rest and isinstance(rest[0], tuple):
            rest[0] = (_settled_class(obj, rest[0][0]), *rest[0][1:])
        elif isinstance(obj, types.ModuleType):
            args = tuple(_without(arg, _PASSING_NAMES) if isinstance(arg, dict) else arg for arg in args)
        settled = [make, self._containers.settled(args), *(self._containers.settled(part) for part in rest[:1])]
        for items in rest[1:3]:
            # Of subclasses of lists and dicts, one by one.
            settled.append(None if items is None else map(self._containers.settled, items))
        return (*settled, *rest[3:])

    def _shared(self, value: Any) -> Any:
        """One object for equal texts: whether they are one differs with whether a module was compiled or loaded."""
        kind = type(value)
        if kind is tuple:
            return tuple(map(self._shared, value))
        return self._texts.setdefault((kind, value), value) if kind is str or kind is bytes else value

    def _reference(self, ref: Any) -> tuple[Any, ...]:
        key = ref.hex()
        if key not in self._contents:
            self.missing[key] = ref
            return put_again, (None,)
        return put_again, (self._contents[key],)


def put_again(content: Any) -> Any:
    """Make an ObjectRef of what one held when the code was stored. The name is part of the stored format."""
    # Ray puts no ref by itself, but takes what becomes one where it is read.
    return ray.put(_Same(content) if isinstance(content, ray.ObjectRef) else content)


class _Same:
    def __init__(self, content: Any) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return same_content, (self._content,)


def same_content(content: Any) -> Any:
    """Give what it is given: for a reference behind a reference. The name is part of the stored format."""
    return content


def _settled_class(kind: type, members: dict[str, Any]) -> dict[str, Any]:
    members = dict(members)
    registered = members.get("_abc_impl")
    if isinstance(registered, list):
        members["_abc_impl"] = sorted(registered, key=lambda one: (one.__module__, one.__qualname__))
    names = members.get("__static_attributes__")
    if isinstance(names, tuple):
        members["__static_attributes__"] = tuple(sorted(names))
    fields = members.get("__dataclass_fields__")
    if isinstance(fields, dict) and any(isinstance(one.default, frozenset) for one in fields.values()):
        doc, begin = members.get("__doc__"), f"{kind.__name__}("
        if isinstance(doc, str) and doc.startswith(begin):
            # Made by `dataclass`, with the elements in the order of this process.
            members["__doc__"] = f"{begin}...)"
    return members


def _without(members: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


class _Ordered:
    """A set whose elements are pickled in an order of their own."""

    __slots__ = ("_kind", "elements")

    def __init__(self, kind: type) -> None:
        self._kind, self.elements = kind, list[Any]()

    def reduced(self) -> tuple[Any, ...]:
        if self._kind is frozenset:
            return frozenset, (self.elements,)
        # Filled when it is there: it may hold what holds it.
        return set, (), self.elements, None, None, set.update


class _Containers:
    """Puts stand-ins in the place of sets, at any depth of plain containers. What holds no set stays as it is."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._judged: dict[int, tuple[Any, bool]] = {}

    def settled(self, value: Any) -> Any:
        if type(value) not in _CONTAINERS or not self._holds_set(value):
            return value
        return self._copy(value)

    def _holds_set(self, value: Any) -> bool:
        known = self._judged.get(id(value))
        if known is None:
            known = self._judged[id(value)] = (value, _holds_set(value))
        return known[1]

    def _copy(self, value: Any) -> Any:
        kind = type(value)
        if kind not in _CONTAINERS:
            return value
        known = self._copies.get(id(value))
        if known is not None:
            return known[1]
        copy: Any
        if kind is tuple:
            copy = tuple(map(self._copy, value))
            # It may have been met within itself, through a list.
            return self._copies.setdefault(id(value), (value, copy))[1]
        copy = _Ordered(kind) if kind in (set, frozenset) else kind()
        self._copies[id(value)] = (value, copy)
        if kind is dict:
            copy.update((self._copy(key), self._copy(item)) for key, item in value.items())
        elif kind is list:
            copy.extend(map(self._copy, value))
        else:
            copy.elements.extend(map(self._copy, sorted(value, key=_order)))
        return copy


def _holds_set(value: Any) -> bool:
    seen: set[int] = set()
    todo: list[Iterator[Any]] = [iter((value,))]
    while todo:
        for part in todo[-1]:
            kind = type(part)
            if kind in _ATOMS or kind not in _CONTAINERS or id(part) in seen:
                continue
            if kind is set or kind is frozenset:
                return True
            seen.add(id(part))
            todo.append(iter([*part.keys(), *part.values()] if kind is dict else part))
            break
        else:
            todo.pop()
    return False


def _order(element: Any) -> tuple[str, str, str]:
    kind = type(element)
    said = ""
    if kind is tuple or kind is frozenset:
        parts = [_order(part) for part in element]
        said = repr(sorted(parts) if kind is frozenset else parts)
    elif kind in _ATOMS:
        said = repr(element)
    elif isinstance(element, (type, types.FunctionType)):
        said = f"{element.__module__} {element.__qualname__}"
    else:
        try:
            said = repr(element)
        except Exception:  # noqa: BLE001 - the user's own; its order is then as it comes
            said = ""
        if " at 0x" in said:
            said = ""
    return kind.__module__, kind.__qualname__, said
