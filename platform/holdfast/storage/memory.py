"""A store in memory: the real interface without the disk.

Tests and the deterministic simulation run on it, so a transaction costs a few
microseconds whatever the size of the store: writes go straight into one sorted
map and an undo log takes them back. It forgets everything with the process;
nothing outside tests may hold a platform's state in it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeAlias

from holdfast.engine.errors import StorageError
from holdfast.storage.interface import check_bound, check_key, end_of_prefix

Operation: TypeAlias = tuple[bytes, bytes | None]
"""One write: a key and its new value, or None where the key was deleted."""


class _Map:
    """A dict with its keys sorted beside it. `shifts` counts the changes that move positions in `keys`."""

    __slots__ = ("keys", "shifts", "values")

    def __init__(self, keys: list[bytes], values: dict[bytes, bytes], shifts: int) -> None:
        self.keys, self.values, self.shifts = keys, values, shifts

    def copy(self) -> _Map:
        # The same count: a scan that moves over to the copy keeps its position.
        return _Map(self.keys.copy(), self.values.copy(), self.shifts)

    def set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            del self.values[key]
            del self.keys[bisect_left(self.keys, key)]
            self.shifts += 1
        else:
            if key not in self.values:
                insort(self.keys, key)
                self.shifts += 1
            self.values[key] = value

    def undo(self, undo_log: list[Operation]) -> None:
        for key, before in reversed(undo_log):
            self.set(key, before)

    def first_at_or_above(self, prefix: bytes, start: bytes | None) -> int:
        return bisect_left(self.keys, prefix if start is None else max(prefix, start))

    def last_at_or_below(self, prefix: bytes, start: bytes | None) -> int:
        end = end_of_prefix(prefix)
        if start is not None and (end is None or start < end):
            return bisect_right(self.keys, start) - 1
        return (len(self.keys) if end is None else bisect_left(self.keys, end)) - 1


class MemoryStore:
    """An in-memory `KeyValueStore`. Any thread may use it.

    Attributes:
        url: For messages.
        on_commit: Called with the writes of each transaction that wrote anything, in their order, after they
            have taken effect and before `write()` returns; calls come in commit order.
    """

    def __init__(self, *, on_commit: Callable[[tuple[Operation, ...]], None] | None = None) -> None:
        self.url = f"memory://{id(self):x}"
        self.on_commit = on_commit
        self._closed = False
        # Held for single steps only. The writer is let in by _writer_lock and stays there for its whole block.
        self._lock = threading.Lock()
        self._writer_lock = threading.Lock()
        self._writer_thread = 0
        self._map = _Map([], {}, 0)
        self._undo_log: list[Operation] = []
        self._readers: set[_MemoryRead] = set()

    def read(self) -> _MemoryRead:
        """See `KeyValueStore.read`."""
        self._check_open()
        return _MemoryRead(self)

    def write(self) -> _MemoryWrite:
        """See `KeyValueStore.write`."""
        self._check_open()
        return _MemoryWrite(self)

    def close(self) -> None:
        """See `KeyValueStore.close`. The content stays readable by `fork()`, as a disk would."""
        self._closed = True

    def fork(self) -> MemoryStore:
        """A store of its own with the committed content of this one, without the hook."""
        other = MemoryStore()
        with self._lock:
            other._map = self._committed_copy()
        return other

    def apply(self, operations: Iterable[Operation]) -> None:
        """Write what an `on_commit` hook recorded, in one transaction."""
        with self.write() as transaction:
            for key, value in operations:
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)

    def __len__(self) -> int:
        with self._lock:
            return len(self._map.keys)

    def _committed_copy(self) -> _Map:
        copy = self._map.copy()
        copy.undo(self._undo_log)
        return copy

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(self.url, "it is closed", "Open it again.")


class _MemoryRead:
    """A snapshot: the live map until a writer first touches it, from then on a copy made just before."""

    __slots__ = ("_map", "_store")

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._map: _Map | None = None

    def __enter__(self) -> _MemoryRead:
        store = self._store
        with store._lock:
            if store._undo_log:
                self._map = store._committed_copy()
            else:
                self._map = store._map
                store._readers.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._store._lock:
            self._store._readers.discard(self)
            self._map = None

    def get(self, key: bytes) -> bytes | None:
        check_key(key)
        with self._store._lock:
            return self._live().values.get(key)

    def scan(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        check_bound(prefix)
        if start is not None:
            check_bound(start)
        return self._scan_down(prefix, start) if reverse else self._scan_up(prefix, start)

    def _scan_up(self, prefix: bytes, start: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        shifts, at, key = -1, 0, b""
        while True:
            with self._store._lock:
                live = self._live()
                if shifts == live.shifts:
                    at += 1
                elif shifts == -1:
                    at = live.first_at_or_above(prefix, start)
                else:
                    at = bisect_right(live.keys, key)
                shifts = live.shifts
                if at >= len(live.keys):
                    return
                key = live.keys[at]
                if not key.startswith(prefix):
                    return
                value = live.values[key]
            yield key, value

    def _scan_down(self, prefix: bytes, start: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        shifts, at, key = -1, 0, b""
        while True:
            with self._store._lock:
                live = self._live()
                if shifts == live.shifts:
                    at -= 1
                elif shifts == -1:
                    at = live.last_at_or_below(prefix, start)
                else:
                    at = bisect_left(live.keys, key) - 1
                shifts = live.shifts
                if at < 0:
                    return
                key = live.keys[at]
                if not key.startswith(prefix):
                    return
                value = live.values[key]
            yield key, value

    def _live(self) -> _Map:
        if self._map is None:
            raise StorageError(self._store.url, "the transaction is over", "Use it inside its with-block only.")
        return self._map


class _MemoryWrite(_MemoryRead):
    """The one writer. Changes the live map in place and remembers how to take it back."""

    __slots__ = ("_operations",)

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self._operations: list[Operation] = []

    def __enter__(self) -> _MemoryWrite:
        store, me = self._store, threading.get_ident()
        if store._writer_thread == me:
            raise StorageError(store.url, "this thread is already writing to it", "Use the transaction you have.")
        store._writer_lock.acquire()
        store._writer_thread = me
        self._map = store._map
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        try:
            with store._lock:
                if kind is not None:
                    store._map.undo(store._undo_log)
                store._undo_log.clear()
                self._map = None
            if kind is None and store.on_commit is not None and self._operations:
                store.on_commit(tuple(self._operations))
        finally:
            store._writer_thread = 0
            store._writer_lock.release()

    def put(self, key: bytes, value: bytes) -> None:
        check_key(key)
        with self._store._lock:
            self._set(self._live(), key, value)

    def delete(self, key: bytes) -> bool:
        check_key(key)
        with self._store._lock:
            live = self._live()
            if key not in live.values:
                return False
            self._set(live, key, None)
            return True

    def delete_prefix(self, prefix: bytes) -> int:
        check_bound(prefix)
        with self._store._lock:
            live = self._live()
            low = bisect_left(live.keys, prefix)
            high = live.last_at_or_below(prefix, None) + 1
            # From the end, so that the keys that stay are moved as little as possible.
            for key in reversed(live.keys[low:high]):
                self._set(live, key, None)
            return high - low

    def _set(self, live: _Map, key: bytes, value: bytes | None) -> None:
        store = self._store
        if store._readers:
            snapshot = live.copy()
            for reader in store._readers:
                reader._map = snapshot
            store._readers.clear()
        store._undo_log.append((key, live.values.get(key)))
        self._operations.append((key, value))
        live.set(key, value)
