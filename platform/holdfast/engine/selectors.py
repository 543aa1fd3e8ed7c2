"""Which events of an outside source a reader means, and how the readers of an event are found.

A reader is looked up, never searched for: an event has one selector for each
way of selecting that is in use on its source, and whoever waits stands under
the text of theirs. Nothing here stores or decodes anything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.engine.redaction import written

Scalar: TypeAlias = str | int | float | bool | None


def is_outside(source: str) -> bool:
    """Whether a stream's source has a log of its own, read by many: `kind/connection/name`, as `kafka/default/orders`.

    A source without a slash is the workflow's own inbox.
    """
    return "/" in source


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Some of the events of a source.

    Attributes:
        key: Those with this key; None for any.
        where: Those whose value is a JSON object with these fields; None for any.
        raw: Those too whose value could not be decoded.

    Raises:
        ValueError: A key and fields at once; fields that are none, or whose values are not JSON scalars.
    """

    key: bytes | None = None
    where: Mapping[str, Scalar] | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if self.where is None:
            return
        if self.key is not None:
            raise ValueError(
                f"choose events by key ({self.key!r}) or by fields ({written(dict(self.where))}), not by both"
            )
        if not self.where:
            raise ValueError("where={} names no field: leave it out to mean every event")
        if self.raw:
            raise ValueError("where= looks at decoded values: it cannot be used with raw values")
        for field, value in self.where.items():
            if not isinstance(field, str):
                raise ValueError(f"where= takes field names, not {written(field)}")
            if value is not None and not isinstance(value, str | int | float | bool):
                raise ValueError(f"where= compares strings, numbers, booleans and None, not {field}={written(value)}")
            if value != value:  # noqa: PLR0124 - the one value that differs from itself
                raise ValueError(f"where= cannot compare with {field}={value!r}: nothing equals it")
            if value in (float("inf"), float("-inf")):
                raise ValueError(f"where= cannot compare with {field}={value!r}: JSON has no such number")

    @property
    def text(self) -> str:
        """The selector as the key of a stream: equal texts select the same events, whatever the order of fields."""
        mode = "raw " if self.raw else ""
        if self.key is not None:
            return f"{mode}key {self.key.hex()}"
        if self.where is not None:
            return "where " + _canonical(self.where)
        return f"{mode}all"

    def matches(self, key: bytes | None, fields: Mapping[str, Any] | None, *, undecodable: bool) -> bool:
        """Whether it selects an event.

        Args:
            key: The event's key.
            fields: The event's value when that is a JSON object; else None.
            undecodable: The event's value could not be decoded.
        """
        if undecodable and not self.raw:
            return False
        if self.key is not None:
            return key == self.key
        if self.where is not None:
            return fields is not None and all(
                field in fields and _is_scalar(fields[field]) and _same(fields[field], value)
                for field, value in self.where.items()
            )
        return True


def check_found(where: Mapping[str, Scalar]) -> None:
    """Refuse fields that no message has: half of a surrogate pair, and an integer that no float holds, are not JSON.

    Not for selectors that are stored: an older version took those, and they find nothing.

    Raises:
        ValueError: Names the field.
    """
    for field, value in where.items():
        for text in (field, value):
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"where= cannot compare with {field!r}={value!r}: half of a surrogate pair is no text")
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"where= cannot compare with {field}={written(value)}: JSON has no such number here")


def parse_selector(text: str) -> Selector:
    """The selector of a text that `Selector.text` made.

    Raises:
        ValueError: Another text.
    """
    raw = text.startswith("raw ")
    kind, _, rest = text.removeprefix("raw ").partition(" ")
    if kind == "key":
        return Selector(key=bytes.fromhex(rest), raw=raw)
    if kind == "where":
        return Selector(where=json.loads(rest), raw=raw)
    if kind == "all" and not rest:
        return Selector(raw=raw)
    raise ValueError(f"not the text of a selector: {text!r}")


def selectors_of(
    key: bytes | None,
    fields: Mapping[str, Any] | None,
    *,
    undecodable: bool,
    field_sets: Iterable[Sequence[str]],
) -> Iterator[str]:
    """The texts of all selectors that select an event.

    Args:
        key: The event's key.
        fields: The event's value when that is a JSON object; else None.
        undecodable: The event's value could not be decoded.
        field_sets: The sets of fields by which somebody selects from this source, each sorted.
    """
    for raw in (True,) if undecodable else (False, True):
        yield Selector(raw=raw).text
        if key is not None:
            yield Selector(key=key, raw=raw).text
    if fields is None or undecodable:
        return
    for names in field_sets:
        if all(name in fields and _is_scalar(fields[name]) for name in names):
            yield Selector(where={name: fields[name] for name in names}).text


def _is_scalar(value: Any) -> bool:
    return (value is None or isinstance(value, str | int | float | bool)) and value == value  # noqa: PLR0124 - NaN


def _same(one: Scalar, other: Scalar) -> bool:
    # True equals 1 in Python and not in JSON.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _canonical(where: Mapping[str, Scalar]) -> str:
    """Equal fields have equal texts: 1 and 1.0 are one number, and the order of fields does not matter."""
    plain = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in where.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))
