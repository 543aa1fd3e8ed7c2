"""What a store is: an ordered map of bytes with transactions.

Only promises live here, as protocols that every backend keeps and that one
contract suite checks. Keys mean nothing in this file, and no backend may offer
more than this to the rest of the house.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

MAX_KEY_BYTES = 511
"""Longest key, in bytes: the limit LMDB is built with."""


class ReadTransaction(Protocol):
    """One consistent view of the store: what was committed when it began, whatever is committed meanwhile."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None when it is not there.

        Raises:
            ValueError: The key is empty or longer than `MAX_KEY_BYTES`.
        """
        ...

    def scan(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, with their values, in byte order.

        Args:
            prefix: The empty prefix is every key.
            start: Where to begin, inclusive; it need not exist, and one outside the range of the prefix is
                moved to the nearer end of it. Default: the first key (with `reverse` the last one).
            reverse: Go down instead of up.

        Raises:
            ValueError: `prefix` or `start` is longer than a key can be.

        Semantics: lazy, and good only while the transaction is. In a write transaction its own writes are
        seen. It may write while it scans: each key comes at most once and in order, a key written ahead of
        the scan is met, a key deleted ahead of it is not.
        """
        ...


class WriteTransaction(ReadTransaction, Protocol):
    """A view that can be changed. Nobody else sees anything of it before the end, and then all of it."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key, whether or not it is there.

        Raises:
            ValueError: The key is empty or longer than `MAX_KEY_BYTES`.
            StorageFullError: No space; leave the block by raising, and nothing was written.
        """
        ...

    def delete(self, key: bytes) -> bool:
        """Remove a key. Returns whether it was there."""
        ...

    def delete_prefix(self, prefix: bytes) -> int:
        """Remove every key that begins with `prefix` (the empty one: all). Returns how many there were."""
        ...


class KeyValueStore(Protocol):
    """An ordered map of bytes that outlives whoever writes it."""

    @property
    def url(self) -> str:
        """Where it is, for messages."""
        ...

    def read(self) -> AbstractContextManager[ReadTransaction]:
        """Begin a snapshot. Never waits for a writer.

        Keep it short: what was deleted after it began cannot be reused before it ends.
        """
        ...

    def write(self) -> AbstractContextManager[WriteTransaction]:
        """Begin to write. One writer at a time, over all threads and processes; others wait.

        Semantics: when the block is left normally everything is durable (it survives the loss of the process
        and of the machine) before the next statement runs, and a reader sees either all or nothing. When the
        block raises, or the process dies in it, nothing was written. Begin and end are on one thread.

        Raises:
            StorageFullError: When the block is left: there was no space. Nothing was written, the store is usable.
            StorageError: This thread is already inside a `write()` of the same store.
        """
        ...

    def close(self) -> None:
        """Let go of the store. No transaction may be open. Again: no effect; other use: StorageError."""
        ...


def check_key(key: bytes) -> None:
    """Refuse a key that no backend could hold.

    Raises:
        ValueError: Empty, or longer than `MAX_KEY_BYTES`.
    """
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(key)}: {key[:40]!r}; hash long names")


def check_bound(bound: bytes) -> None:
    """Refuse a prefix or a start that no key could have.

    Raises:
        ValueError: Longer than `MAX_KEY_BYTES`.
    """
    if len(bound) > MAX_KEY_BYTES:
        raise ValueError(f"a bound of a scan has at most {MAX_KEY_BYTES} bytes, not {len(bound)}: {bound[:40]!r}")


def end_of_prefix(prefix: bytes) -> bytes | None:
    """The least bytes above every key that begins with `prefix`; None when nothing is above them."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None
