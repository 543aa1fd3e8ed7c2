"""Takes secrets out of texts that are shown: of an address, a URL, a setting that was given where another belongs.

Whatever repeats a connection setting in an error or a log line passes it through here.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://")
_NAMED = re.compile(
    r"((?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|credentials?)[\w.-]*[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s&;,\"']+",
    re.IGNORECASE,
)


def redact(given: object) -> str:
    """Give a value as a text that can be shown, without secrets.

    Args:
        given: A text, or whatever else was given in its place.

    Returns:
        What stands before an `@` is gone, for it may be a user's name and password, and those may hold any character;
        so is what follows `password=` and its like. A scheme stays, as do host and port.
    """
    text = given if isinstance(given, str) else repr(given)
    before, at, after = text.rpartition("@")
    if at:
        scheme = _SCHEME.search(before)
        text = f"{scheme[0] if scheme else ''}{HIDDEN}@{after}"
    return _NAMED.sub(rf"\1{HIDDEN}", text)


def written(value: object) -> str:
    """The `repr` of a value that a message names; what it is, where Python does not write out all its digits."""
    try:
        return repr(value)
    except ValueError:
        if isinstance(value, int):
            return f"an integer of {value.bit_length():,} bits"
        return f"a value of type {type(value).__name__} that holds an integer of thousands of digits"
