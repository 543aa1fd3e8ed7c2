"""Reads and writes JSON by one rule for all that comes in: metadata in Python, bodies over HTTP, values of Kafka.

- NaN, Infinity, and numbers that no float holds (`1e999`) are not JSON.
- Half of a surrogate pair is not text.
- An object that says one key twice is refused: which of the two is meant, nobody knows.
- Integers are exact; one that no float holds either (309 digits) is refused.

orjson reads all but the last two so; what it reads is compared with the text, and only a text that it may have read
otherwise is read again, by the standard library. Nothing here stores anything.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import orjson

from holdfast.engine.errors import MetadataTooLargeError, NotJsonError
from holdfast.engine.redaction import written

MOST_METADATA_BYTES = 64 * 1024
"""Of user metadata as compact JSON: it lies in the row that says what its owner is, and is read with it each time."""

_ESCAPED_COLON = b"\\u003"
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
_DEEPEST = 200


def parse(text: bytes, where: str = "the text") -> Any:
    """Read a JSON text that comes in.

    Args:
        text: UTF-8.
        where: What it is; for the message.

    Raises:
        NotJsonError: It is not JSON by the rule above; says why.
    """
    try:
        value = orjson.loads(text)
        return value if _is_as_written(text, value) else _parse_again(text, _unique)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(where, f"is not JSON: {_reason(error)}") from None


def parse_accepted(text: bytes) -> Any:
    """Read a JSON text that was accepted before, maybe by an older version: the last one of equal keys counts.

    Raises:
        NotJsonError: It is not JSON.
    """
    try:
        value = orjson.loads(text)
        return value if _is_as_written(text, value) else _parse_again(text, dict)
    except (ValueError, RecursionError) as error:
        raise NotJsonError("the text", f"is not JSON: {_reason(error)}") from None


def check_metadata(value: Any, parameter: str = "metadata") -> dict[str, Any]:
    """Check user metadata, and copy it as it will be read back: later changes of the user's dict do not count.

    Args:
        value: What was given; None for none.
        parameter: Its name; for the message.

    Raises:
        NotJsonError: Not a dict of JSON; says where in it.
        MetadataTooLargeError: More than `MOST_METADATA_BYTES`.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotJsonError(parameter, f"must be a dict, not {type(value).__name__}: {_shown(value)}")
    if not value:
        return {}
    text = dump(value, parameter)
    if len(text) > MOST_METADATA_BYTES:
        raise MetadataTooLargeError(parameter, len(text), MOST_METADATA_BYTES)
    copy: dict[str, Any] = orjson.loads(text)
    return copy


def dump(value: Any, parameter: str) -> bytes:
    """Write a value that a user gave, as compact JSON that says the very same.

    Args:
        value: The value.
        parameter: Its name; for the message.

    Raises:
        NotJsonError: It is not JSON: says where in it, and what.
    """
    try:
        _check_plain(value, parameter, _DEEPEST)
        return orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise NotJsonError(parameter, f"must be JSON (string keys, plain values): {error}") from None


def _is_as_written(text: bytes, value: Any) -> bool:
    """Whether a value is sure to say all that the text says. Looks at no token: this is done for each message.

    Each member of an object has a colon, strings have others, and all are written again as they are, unless a string
    has one as an escape: so where a member was lost the text has more of them. Integers that orjson reads as floats
    have 19 digits at least.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:
        # Nested more deeply than it writes.
        return False
    return written == text or (
        text.count(b":") == written.count(b":")
        and _ESCAPED_COLON not in text
        and _LONG_NUMBER not in text.translate(_DIGITS_ALIKE)
    )


def _parse_again(text: bytes, pairs: Any) -> Any:
    return json.loads(text.decode(), object_pairs_hook=pairs, parse_constant=_refuse_constant, parse_float=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.100} comes twice in one object")
            seen.add(key)
    return found


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text:.40} is more than a number can be")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _check_plain(value: Any, where: str, left: int) -> None:
    """Refuse what JSON does not have, with a ValueError that says where it is."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} is not valid text: {_shown(value)}") from None
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            bits = value.bit_length() + (value < 0)
            raise ValueError(f"{where} is an integer of {bits} bits, and 64 are kept: give it as a string, str(...)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}, which JSON does not have: give None, or a string")
        if type(value) is not float:
            raise ValueError(f"{where} is {_shown(value)}, which JSON does not have: give float(...)")
    elif isinstance(value, dict | list | tuple):
        if not left:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"{_shown(key)} is a key of {where}, and not a string")
                _check_plain(key, f"a key of {where}", left)
                _check_plain(item, f"{where}[{key!r}]", left - 1)
        else:
            for position, item in enumerate(value):
                _check_plain(item, f"{where}[{position}]", left - 1)
    else:
        kind = type(value).__name__
        raise ValueError(f"{where} is {_shown(value)} of type {kind}: give str(...), int(...), float(...) or a list")


def _shown(value: Any) -> str:
    return f"{written(value):.200}"
