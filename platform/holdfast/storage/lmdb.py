"""The durable store: one LMDB environment, shared by every process of the storage host.

All that is particular to LMDB stays here: how an environment is made, opened
once per process, written by one thread at a time, and how its errors read.
It is never opened with `MDB_WRITEMAP` or without sync, never on a network file
system, and never used in a process other than the one that opened it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lmdb

from holdfast.engine.errors import StorageError
from holdfast.storage import own_files
from holdfast.storage.interface import check_bound, check_key, end_of_prefix
from holdfast.storage.lmdb_environment import DEFAULT_MAP_BYTES, Environment, borrow, give_back
from holdfast.storage.lmdb_errors import translated


class LmdbStore:
    """A `KeyValueStore` in a folder of its own. Any thread may use it.

    Opening a path that this process has open already shares the environment; the last `close()` closes it.

    Args:
        path: The folder; it then holds `data.mdb` and `lock.mdb`.
        map_size: Bytes of address space, which limit how large the store can grow. The file is sparse and
            grows as needed. A smaller map is taken, with a log line, where the system refuses this one.
        create: Make the store when it is not there. Otherwise its absence is corruption.

    Raises:
        StorageCorruptError: Truncated, overwritten, or (without `create`) not there. Found before it is mapped.
        StorageNotWritableError: The folder cannot be made or written.
        StorageFullError: No space for the lock table.
        StorageError: The process was forked from one that has the path open.
    """

    def __init__(self, path: str | os.PathLike[str], *, map_size: int = DEFAULT_MAP_BYTES, create: bool = True) -> None:
        self.path = Path(path).absolute()
        self.url = self.path.as_uri()
        self._environment: Environment | None = borrow(self.path, self.url, map_size, create)

    def read(self) -> _LmdbRead:
        """See `KeyValueStore.read`. Costs a few microseconds; a slot of the reader table while it is open."""
        return _LmdbRead(self._checked(), self.url)

    def write(self) -> _LmdbWrite:
        """See `KeyValueStore.write`. Leaving the block costs two flushes of the disk."""
        return _LmdbWrite(self._checked(), self.url)

    def copy(self, path: str | os.PathLike[str], *, compact: bool = True) -> None:
        """Write a consistent copy, while others read and write.

        Args:
            path: A folder to make, or an empty one.
            compact: Leave out free pages.

        Raises:
            StorageError: Something is there already, or the copy could not be written; it is then unusable.

        Semantics: the copy is durable on return, and is what was committed when it began.
        """
        target = Path(path).absolute()
        environment = self._checked()
        try:
            own_files.make_folder(target)
            if any(target.iterdir()):
                raise StorageError(target.as_uri(), "it is not empty", "Copy the store to a new folder.")
            copied = own_files.create_file(target / "data.mdb")
            try:
                environment.handle.copyfd(copied, compact=compact)
            finally:
                os.close(copied)
            for made in (target / "data.mdb", target, target.parent):
                descriptor = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except (OSError, lmdb.Error) as error:
            raise translated(error, target.as_uri(), target) from error

    def commits(self) -> int:
        """How many transactions have been committed since the store was made, by whichever process."""
        return int(self._checked().handle.info()["last_txnid"])

    def check_readers(self) -> int:
        """Free the reader slots of processes that died. Returns how many there were."""
        return int(self._checked().handle.reader_check())

    def close(self) -> None:
        """See `KeyValueStore.close`. Waits for a writer on another thread."""
        environment, self._environment = self._environment, None
        if environment is not None and environment.process == os.getpid():
            give_back(environment)

    def _checked(self) -> Environment:
        environment = self._environment
        if environment is None:
            raise StorageError(self.url, "it is closed", "Open it again.")
        if environment.process != os.getpid():
            raise StorageError(
                self.url,
                f"it was opened by process {environment.process} and this is {os.getpid()}, forked from it",
                "LMDB does not survive a fork: start the process by 'spawn' and open the store in it.",
            )
        return environment


class _LmdbRead:
    __slots__ = ("_environment", "_transaction", "_url")

    def __init__(self, environment: Environment, url: str) -> None:
        self._environment, self._url = environment, url
        self._transaction: lmdb.Transaction[bytes] | None = None

    def __enter__(self) -> _LmdbRead:
        try:
            self._transaction = self._environment.handle.begin()
        except lmdb.Error as error:
            raise self._translated(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()

    def get(self, key: bytes) -> bytes | None:
        check_key(key)
        try:
            return self._live().get(key)
        except lmdb.Error as error:
            raise self._translated(error) from error

    def scan(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        check_bound(prefix)
        if start is not None:
            check_bound(start)
        return self._scan(prefix, start, reverse)

    def _scan(self, prefix: bytes, start: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        try:
            # The cursor is closed by hand: one left to the garbage collector may outlive its transaction.
            with self._live().cursor() as cursor:
                if not _seek(cursor, prefix, start, reverse):
                    return
                for key, value in cursor.iterprev() if reverse else cursor.iternext():
                    if not key.startswith(prefix):
                        return
                    yield key, value
                    self._live()
        except lmdb.Error as error:
            raise self._translated(error) from error

    def _live(self) -> lmdb.Transaction[bytes]:
        if self._transaction is None:
            raise StorageError(self._url, "the transaction is over", "Use it inside its with-block only.")
        return self._transaction

    def _translated(self, error: lmdb.Error) -> StorageError:
        return translated(error, self._url, self._environment.path)


class _LmdbWrite(_LmdbRead):
    __slots__ = ("_changes",)

    def __init__(self, environment: Environment, url: str) -> None:
        super().__init__(environment, url)
        self._changes = 0

    def __enter__(self) -> _LmdbWrite:
        environment, me = self._environment, threading.get_ident()
        if environment.writer_thread == me:
            raise StorageError(self._url, "this thread is already writing to it", "Use the transaction you have.")
        environment.writer_lock.acquire()
        environment.waiting_since_s = time.monotonic()
        try:
            self._transaction = environment.handle.begin(write=True)
            environment.waiting_since_s = 0.0
        except BaseException as error:
            environment.waiting_since_s = 0.0
            environment.writer_lock.release()
            if isinstance(error, lmdb.Error):
                raise self._translated(error) from error
            raise
        environment.writer_thread = me
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction, self._transaction = self._transaction, None
        try:
            if transaction is not None:
                if kind is None:
                    transaction.commit()
                else:
                    transaction.abort()
        except lmdb.Error as failure:
            raise self._translated(failure) from failure
        finally:
            self._environment.writer_thread = 0
            self._environment.writer_lock.release()

    def put(self, key: bytes, value: bytes) -> None:
        check_key(key)
        try:
            self._live().put(key, value)
        except lmdb.Error as error:
            raise self._translated(error) from error
        self._changes += 1

    def delete(self, key: bytes) -> bool:
        check_key(key)
        try:
            there = self._live().delete(key)
        except lmdb.Error as error:
            raise self._translated(error) from error
        self._changes += 1
        return bool(there)

    def delete_prefix(self, prefix: bytes) -> int:
        check_bound(prefix)
        count = 0
        try:
            with self._live().cursor() as cursor:
                there = cursor.set_range(prefix)
                while there and cursor.key().startswith(prefix):
                    cursor.delete()
                    count += 1
                    # After a delete the cursor is on the next key, or on nothing: then its key is empty.
                    there = bool(cursor.key())
        except lmdb.Error as error:
            raise self._translated(error) from error
        self._changes += count
        return count

    def _scan(self, prefix: bytes, start: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._live().cursor() as cursor:
                there = _seek(cursor, prefix, start, reverse)
                while there:
                    key = cursor.key()
                    if not key.startswith(prefix):
                        return
                    changes = self._changes
                    yield key, cursor.value()
                    self._live()
                    if self._changes == changes:
                        there = cursor.prev() if reverse else cursor.next()
                    elif reverse:
                        # What was written may have moved the cursor, so its place is found again by its key.
                        there = cursor.prev() if cursor.set_range(key) else cursor.last()
                    else:
                        there = cursor.set_range(key) and (cursor.key() != key or cursor.next())
        except lmdb.Error as error:
            raise self._translated(error) from error


def _seek(cursor: lmdb.Cursor[bytes], prefix: bytes, start: bytes | None, reverse: bool) -> bool:
    """Go to the first pair of a scan. Whether there is one; it may still lie outside the prefix."""
    if not reverse:
        return cursor.set_range(prefix if start is None else max(prefix, start))
    end = end_of_prefix(prefix)
    if start is not None and (end is None or start < end):
        if not cursor.set_range(start):
            return cursor.last()
        return cursor.key() == start or cursor.prev()
    if end is None or not cursor.set_range(end):
        return cursor.last()
    return cursor.prev()
