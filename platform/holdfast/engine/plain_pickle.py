"""Frozen dataclasses, pickled as what they are: a class and its values.

What a frozen dataclass with slots does by itself goes through its fields in
Python, twice, and costs ten times as much. A graph holds thousands of them.
"""

from __future__ import annotations

from typing import Any


class PlainPickle:
    """Base of frozen dataclasses that travel often."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self)
        return _make, (kind, [getattr(self, name) for name in _names(kind)])


_known: dict[Any, tuple[str, ...]] = {}


def _names(kind: Any) -> tuple[str, ...]:
    names = _known.get(kind)
    if names is None:
        names = _known[kind] = tuple(kind.__dataclass_fields__)
    return names


def _make(kind: type[Any], values: list[Any]) -> Any:
    made: Any = object.__new__(kind)
    for name, value in zip(_names(kind), values, strict=True):
        object.__setattr__(made, name, value)
    return made
