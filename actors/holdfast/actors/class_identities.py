"""Gives classes that are pickled by value their identities, which are equal in all processes for equal classes.

cloudpickle gives such a class a random mark, by which the pickles of one
process lead to one class where they are loaded. A mark made of the class's
content, and of all that it reaches by value, does the same, and makes the bytes
of equal code equal. A class that was itself loaded keeps the mark it came with.
This is the only module that knows how cloudpickle keeps them.
"""

from __future__ import annotations

import hashlib
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import ray.cloudpickle

_internals: Any = ray.cloudpickle.cloudpickle
_NODES = (type, types.FunctionType, types.ModuleType)
_UNKNOWN = "0" * 32

Dump = Callable[[Any, Callable[[Any], tuple[Any, ...] | None]], bytes]
"""Pickles one object, asking first of each class, function and module in it what stands for it; None for itself."""


class ClassIdentities:
    """Marks classes for one pickling.

    Args:
        dump: Pickles a class or function with stand-ins for others.
    """

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._pieces: dict[int, tuple[Any, bytes, list[Any]]] = {}

    def settle(self, code: Any) -> None:
        """Give a class or type variable that is pickled by value the mark of its content, unless it has one."""
        if is_settled(code):
            return
        if isinstance(code, typing.TypeVar):
            bounds = (code.__bound__, code.__constraints__, code.__covariant__, code.__contravariant__)
            _assign(code, _hash(f"{code.__module__} {code.__name__} {bounds}".encode()))
            return
        digest = hashlib.blake2b(digest_size=16)
        numbers: dict[int, int] = {id(code): 0}
        todo = [code]
        for node in todo:
            _, content, children = self._piece(node)
            digest.update(_hash(content).encode())
            for child in children:
                if id(child) not in numbers:
                    numbers[id(child)] = len(numbers)
                    todo.append(child)
                digest.update(b"%d," % numbers[id(child)])
        _assign(code, digest.hexdigest())

    def _piece(self, node: Any) -> tuple[Any, bytes, list[Any]]:
        """One class or function by itself: its bytes, and what it refers to, in order."""
        found = self._pieces.get(id(node))
        if found is None:
            children: list[Any] = []

            def stand_in(other: Any) -> tuple[Any, ...] | None:
                if other is node or not is_by_value(other):
                    return None
                children.append(other)
                return _name_of, (getattr(other, "__module__", ""), getattr(other, "__qualname__", other.__name__))

            marks = _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS
            had_mark = isinstance(node, type) and node in marks
            content = self._dump(node, stand_in)
            if isinstance(node, type) and not had_mark:
                # A random one, of this pickling. Its own is made when it is needed.
                marks.pop(node, None)
            # The node too: an id is free again when its owner has gone.
            found = self._pieces[id(node)] = (node, content, children)
        return found


def is_by_value(code: Any) -> bool:
    """Whether cloudpickle pickles a class, function, module or type variable by value at the moment."""
    if isinstance(code, typing.TypeVar):
        found = _internals._lookup_module_and_qualname(code, name=code.__name__)
        return found is None or bool(_internals._is_registered_pickle_by_value(found[0]))
    return isinstance(code, _NODES) and not _internals._should_pickle_by_reference(code)


def is_settled(code: Any) -> bool:
    """Whether a class has its final mark: one of its content, or the one that it was loaded with."""
    mark = _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(code)
    # A class that its module knows was made here: what it has may be random, of a pickle that was not ours.
    return mark is not None and (mark in _ours or not _is_of_its_module(code))


def without_mark(code: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Take the mark out of what a class or type variable reduces to."""
    mark = _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(code)
    args = tuple(_UNKNOWN if mark is not None and arg == mark else arg for arg in reduced[1])
    return (reduced[0], args, *reduced[2:])


_ours: set[str] = set()


def _assign(code: Any, digest: str) -> None:
    with _internals._DYNAMIC_CLASS_TRACKER_LOCK:
        by_id, mark, copies = _internals._DYNAMIC_CLASS_TRACKER_BY_ID, digest, 0
        # Two classes that are alive must not become one, however equal they are.
        while by_id.setdefault(mark, code) is not code:
            copies += 1
            mark = _hash(f"{digest} {copies}".encode())
        _internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[code] = mark
        _ours.add(mark)


def _is_of_its_module(code: Any) -> bool:
    found: Any = sys.modules.get(code.__module__)
    for part in getattr(code, "__qualname__", code.__name__).split("."):
        found = getattr(found, part, None)
    return found is code


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _name_of(module: str, qualified: str) -> str:
    return f"{module}.{qualified}"
