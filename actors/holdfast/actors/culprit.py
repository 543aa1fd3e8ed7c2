"""Finding the piece of a value that cannot be pickled, to name it in the refusal.

Runs only when pickling has failed. It looks into containers, attributes and
closures, never deeper than a reader of the message would.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

_DEEPEST = 32


def find_culprit(value: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Go down to the smallest part that fails.

    Args:
        value: What failed as a whole.
        fails: Whether a part fails by itself.

    Returns:
        The path from the value to the part, as in Python ("" for the value itself), and the part.
    """
    path = ""
    for _ in range(_DEEPEST):
        for step, part in _parts(value):
            if part is not value and fails(part):
                path, value = path + step, part
                break
        else:
            break
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"[{key!r}]", part
            yield f" (the key {key!r})", key
    elif isinstance(value, (list, tuple)):
        for position, part in enumerate(value):
            yield f"[{position}]", part
    elif isinstance(value, (set, frozenset)):
        for part in value:
            yield " (an element)", part
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f" (its variable {name!r})", cell.cell_contents
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f" (its global {name!r})", value.__globals__[name]
    elif isinstance(getattr(value, "__dict__", None), dict):
        for name, part in list(vars(value).items()):
            yield f".{name}", part
