"""Finds the variable by which code holds something that must not be stored, for the error to name it.

Runs only when pickling has failed.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

_MOST_PARTS = 10_000


def find_held(code: Any, is_it: Callable[[Any], bool]) -> tuple[str, Any]:
    """Look for something in what code reaches, the nearest first.

    Args:
        code: A function, class, or tuple of them.
        is_it: Whether a part is what is looked for.

    Returns:
        Where it is, for people (" in its global 'x'"), and the part; "" and the code itself when it is not found.
    """
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", code)]
    for where, value in todo:
        if is_it(value):
            return where, value
        # What was made on the way stays alive with `todo`: no id is taken twice.
        if id(value) in seen or len(todo) > _MOST_PARTS:
            continue
        seen.add(id(value))
        todo.extend((_joined(where, step), part) for step, part in _parts(value))
    return "", code


def _joined(where: str, step: str) -> str:
    if not step.startswith(" "):
        return where + step
    return f" in {step.strip()}" + (f",{where}" if where else "")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    # Not isinstance: it asks the object, and a user's proxy may answer with an error.
    kind = type(value)
    if issubclass(kind, dict):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif issubclass(kind, (list, tuple)):
        for position, part in enumerate(value):
            yield f"[{position}]", part
    elif issubclass(kind, types.FunctionType):
        yield from _parts_of_function(value)
    elif issubclass(kind, functools.partial):
        yield from [("", value.func), ("", value.args), ("", value.keywords)]
    elif issubclass(kind, (staticmethod, classmethod, types.MethodType)):
        yield "", value.__func__
    elif issubclass(kind, property):
        yield "", value.fget
    elif issubclass(kind, type):
        for name, part in vars(value).items():
            yield f" the attribute {name!r} of class {value.__qualname__!r}", part
        yield from (("", base) for base in value.__bases__)
    elif issubclass(kind, types.ModuleType):
        if value.__name__.partition(".")[0] != "ray":
            yield from ((f" the global {name!r} of module {value.__name__!r}", part) for name, part in _vars(value))
    else:
        yield from ((f".{name}", part) for name, part in _vars(value))


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    owner = f"of {function.__qualname__!r}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" the variable {name!r} {owner}", cell.cell_contents
        except ValueError:
            # Not filled yet.
            continue
    defaults = function.__defaults__ or ()
    taking = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, part in [*zip(taking[::-1], defaults[::-1], strict=False), *(function.__kwdefaults__ or {}).items()]:
        yield f" the default of {name!r} {owner}", part
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f" the global {name!r} {owner}", function.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _vars(value: Any) -> list[tuple[str, Any]]:
    found = getattr(value, "__dict__", None)
    return list(found.items()) if isinstance(found, dict) else []
