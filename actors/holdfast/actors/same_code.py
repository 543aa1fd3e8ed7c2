"""Finds whether two pickles say the same, without loading either.

Equal values and equal code may have unequal bytes: stored by an earlier
version, with classes marked at random, sets in another order, references to
objects of another cluster. What a pickle would make is built here out of names
alone, nothing of the user's is imported or run, and brought to one form.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

_MARK = re.compile(r"[0-9a-f]{32}\Z")
_MARKED = frozenset({"_make_skeleton_class", "_make_skeleton_enum", "_make_typevar"})
_MADE_ANEW = frozenset(
    {
        *("_uuid", "_last_export_cluster_and_job", "_function_descriptor", "_function_signature", "_pickled_function"),
        *("class_id", "last_export_cluster_and_job", "_stable_uuid"),
    }
)
_UNORDERED = frozenset({"_cloudpickle_submodules", "_abc_impl"})

FindObject = Callable[[str], tuple[bytes | memoryview, tuple[Any, ...]]]
"""Gives what an object of a value holds, by its key: the pickle and its buffers."""


def form_of(pickled: bytes | memoryview, buffers: tuple[Any, ...] = (), find_object: FindObject | None = None) -> bytes:
    """Compute the hash of what a pickle says.

    Args:
        pickled: The pickle.
        buffers: Its buffers.
        find_object: Where the objects are that it refers to.

    Raises:
        pickle.UnpicklingError, ValueError, RecursionError: It cannot be read in this way.
    """
    reader = _Reader(io.BytesIO(pickled), buffers=[bytes(buffer) for buffer in buffers])
    try:
        made = reader.load()
    except (EOFError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"not a pickle that can be read by its names alone: {error!r}") from error
    return _Form(find_object).of(made)


class _Made(type):
    """What a name in a pickle is, or what is made by calling it: a class, for it may stand where one is needed."""

    module: str
    name: str
    by: _Made | None
    said: list[tuple[str, tuple[Any, ...], dict[str, Any]]]

    def __new__(cls, by: _Made | None, module: str, name: str) -> _Made:
        self = super().__new__(cls, "_Made", (), {"__new__": _make})
        self.by, self.module, self.name, self.said = by, module, name, []
        return self

    def __init__(cls, *_: Any) -> None:
        pass

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _make(cls, *args, **kwargs)

    def __setstate__(cls, state: Any) -> None:
        cls.said.append(("state", (state,), {}))

    def append(cls, item: Any) -> None:
        cls.said.append(("item", (item,), {}))

    def extend(cls, items: Any) -> None:
        cls.said.extend(("item", (item,), {}) for item in items)

    def __setitem__(cls, key: Any, item: Any) -> None:
        cls.said.append(("entry", (key, item), {}))


def _make(by: _Made, *args: Any, **kwargs: Any) -> _Made:
    made = _Made(by, by.module, by.name)
    made.said.append(("made", args, kwargs))
    if args and isinstance(args[0], _Made) and (by.by is not None or by.name.endswith("_setstate")):
        # Such as `set.update`, which says something of its first argument.
        args[0].said.append(("called", (by, *args[1:]), kwargs))
    return made


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Made(None, module, name)


class _Form:
    def __init__(self, find_object: FindObject | None) -> None:
        self._find_object = find_object
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def of(self, value: Any) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        self._write(digest.update, value)
        return digest.digest()

    def _write(self, say: Callable[[bytes], object], value: Any) -> None:
        kind = type(value)
        if kind in (tuple, str, bytes, bytearray, int, float, bool, complex, type(None)):
            if kind is tuple:
                say(b"(%d," % len(value))
                for item in value:
                    self._write(say, item)
            else:
                said = value if kind in (bytes, bytearray) else repr(value).encode()
                say(f"{kind.__name__}:{len(said)}:".encode() + bytes(said))
            return
        if kind in (set, frozenset):
            self._write_unordered(say, kind.__name__, value)
            return
        known = self._numbers.get(id(value))
        if known is not None:
            say(b"again:%d," % known)
            return
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        if kind is list:
            say(b"[%d," % len(value))
            for item in value:
                self._write(say, item)
        elif kind is dict:
            say(b"{%d," % len(value))
            for key, item in value.items():
                self._write(say, key)
                if key == "__doc__" and "__dataclass_fields__" in value:
                    # `dataclass` writes the elements of sets into it, in any order.
                    continue
                if key in _UNORDERED and type(item) is list:
                    self._write_unordered(say, "list", item)
                else:
                    self._write(say, item)
        elif isinstance(value, _Made) and value.by is None:
            self._numbers.pop(id(value))
            self._write(say, ("named", value.module, value.name))
        elif isinstance(value, _Made):
            self._write_made(say, value)
        else:
            raise ValueError(f"a {kind.__name__} is not expected in a pickle that is read by its names alone")

    def _write_unordered(self, say: Callable[[bytes], object], name: str, items: Any) -> None:
        say(f"{name}:{len(items)}:".encode() + b"".join(sorted(_Form(self._find_object).of(item) for item in items)))

    def _write_made(self, say: Callable[[bytes], object], made: _Made) -> None:
        name, module = made.name, made.module
        _, args, kwargs = made.said[0]
        if made.by is not None and made.by.by is not None:
            # An object of a class that is itself made, or what a method gives.
            self._write(say, ("made by", made.by, args, sorted(kwargs.items())))
        elif module == "builtins" and name in ("set", "frozenset"):
            # Without a number, as one that is written as a set.
            self._numbers.pop(id(made))
            filled = [said[1][1] for said in made.said if said[0] == "called"]
            self._write_unordered(say, name, filled[0] if filled else args[0] if args else [])
            return
        else:
            self._write(say, ("made", module, name, self._settled(module, name, args), sorted(kwargs.items())))
        for what, said, _ in made.said[1:]:
            told = said
            if what == "state" and module.startswith("ray.") and isinstance(said[0], dict):
                told = ({key: part for key, part in said[0].items() if key not in _MADE_ANEW},)
            self._write(say, (what, told))

    def _settled(self, module: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments without what differs between equal values."""
        if module.startswith("holdfast."):
            if name == "named_code":
                return (*args[:2], form_of(args[3]))
            if name == "load_carrying":
                return args[0], form_of(args[1])
            if name in ("object_ref", "object_value") and self._find_object is not None:
                return (form_of(*self._find_object(args[0]), self._find_object),)
        if name in _MARKED:
            return tuple(None if isinstance(arg, str) and _MARK.match(arg) else arg for arg in args)
        return args[:-1] if name == "PythonFunctionDescriptor" else args
