"""Removes code and packages that no row names: what is left of removed workflows, schedules and rules."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator

from holdfast.storage.folder import StorageFolder

_HEX = re.compile(rb"[0-9a-f]{32,}")
_DIGITS = 32
# Rows of nothing but what came from outside, and indexes: of all there are the most of these, and none names code.
_NAMES_NO_CODE = frozenset((b"E", b"K", b"D", b"s", b"f", b"d", b"b", b"i", b"n", b"j"))
_LARGEST_ENVIRONMENT = 1024 * 1024
_ROWS_AT_ONCE = 2_000
_PAUSE_S = 0.002


def collect_code(folder: StorageFolder, before_unix_s: float) -> int:
    """Remove pieces of code, environments and packages that no row names.

    Args:
        folder: The storage folder.
        before_unix_s: Only what nobody has stored, or stored again, since, in seconds since the epoch. Nobody who
            may submit it without storing it again may be alive since.

    Returns:
        How many were removed.

    Raises:
        StorageError: Something that is named cannot be read; nothing was removed.

    Semantics: safe beside readers and writers. A hash that stands anywhere in a row keeps its piece. It ends as soon
    as each old piece has been found in a row; only what is left over takes a look at every row.
    """
    unnamed = set(folder.code.names_before(before_unix_s))
    if unnamed:
        with folder.kv.read() as txn:
            # One state of the store: a name that moves from row to row is in it.
            for row, value in enumerate(_values(txn.scan(b""))):
                _leave_named(value, unnamed)
                if not unnamed:
                    break
                if row % _ROWS_AT_ONCE == 0:
                    # Others of this process have their turn.
                    time.sleep(_PAUSE_S)
    # An environment names its packages, also one that was stored a moment ago.
    for name in folder.code.names_before(math.inf):
        if not unnamed:
            break
        if name not in unnamed and folder.code.size(name) <= _LARGEST_ENVIRONMENT:
            _leave_named(folder.code.get(name), unnamed)
    return sum(folder.code.remove(name, before_unix_s) for name in sorted(unnamed))


def _values(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    return (value for key, value in rows if key[:1] not in _NAMES_NO_CODE)


def _leave_named(content: bytes, unnamed: set[str]) -> None:
    """Take out of a set of hashes those that stand in some content."""
    for run in _HEX.findall(content):
        for at in range(len(run) - _DIGITS + 1):
            unnamed.discard(run[at : at + _DIGITS].decode())
