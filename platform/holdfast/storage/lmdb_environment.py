"""One LMDB environment per process and path: made whole, opened once, counted.

LMDB's locks belong to the process, so a second environment on the same files
would silently release those of the first, and so would opening and closing
`lock.mdb` by any other way. Nothing outside this module opens these files.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from holdfast.engine.errors import StorageCorruptError, StorageError
from holdfast.storage import own_files
from holdfast.storage.datafile import check_data_file
from holdfast.storage.lmdb_errors import translated
from holdfast.storage.stopped_writer import WriterWatch

DEFAULT_MAP_BYTES = 1 << 40
_SMALLEST_MAP_BYTES = 1 << 28
_MAX_READERS = 4096
# A little more than LMDB asks for: it takes what is there.
_LOCK_TABLE_BYTES = (_MAX_READERS + 4) * 64
_UNFINISHED = ".new-"

_logger = logging.getLogger(__name__)


class Environment:
    """An open environment and who holds it. `handle` is good only in `process`."""

    def __init__(self, handle: lmdb.Environment, path: Path, identity: tuple[int, int]) -> None:
        self.handle, self.path, self.identity = handle, path, identity
        self.process = os.getpid()
        self.holders = 0
        self.writer_lock = threading.Lock()
        self.writer_thread = 0
        self.waiting_since_s = 0.0
        self.watch = WriterWatch(path, lambda: self.waiting_since_s)


_registry: dict[tuple[int, int], Environment] = {}
_registry_lock = threading.Lock()


def _renew_lock_after_fork() -> None:
    # Another thread may have held it at the moment of the fork, and that thread does not exist in the child.
    global _registry_lock  # noqa: PLW0603
    _registry_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_after_fork)


def borrow(path: Path, url: str, map_bytes: int, create: bool) -> Environment:
    """The environment of this process on these files, opened when it is not yet. See `LmdbStore`."""
    with _registry_lock:
        try:
            if create:
                _make(path, map_bytes)
            environment = _registry.get(_identity(path, url))
            if environment is None:
                environment = _open(path, url, map_bytes)
                _registry[environment.identity] = environment
        except (OSError, lmdb.Error) as error:
            raise translated(error, url, path) from error
        if environment.process != os.getpid():
            # Closing the inherited one would clear the parent's slots in the reader table, so it stays.
            raise StorageError(
                url,
                f"process {environment.process} had it open when it forked this one",
                "LMDB does not survive a fork: start the process by 'spawn' and open the store in it.",
            )
        environment.holders += 1
        return environment


def give_back(environment: Environment) -> None:
    """Undo one `borrow`; the last one closes the environment, after its writer is done."""
    with _registry_lock:
        environment.holders -= 1
        if environment.holders > 0:
            return
        del _registry[environment.identity]
        if environment.writer_thread == threading.get_ident():
            _close(environment)
            return
        with environment.writer_lock:
            _close(environment)


def _close(environment: Environment) -> None:
    # Before what it looks at is unmapped; and after a writer that waits, whom it may have to help.
    environment.watch.close()
    environment.handle.close()


def _identity(path: Path, url: str) -> tuple[int, int]:
    # The file, not its name: one folder has many names, and one name may come to mean another folder. An
    # environment keeps its file open, so the number is not given to another file meanwhile.
    try:
        status = os.stat(path / "data.mdb")
    except FileNotFoundError:
        raise StorageCorruptError(
            url, "data.mdb is missing", "Restore the folder from a backup, or give another one."
        ) from None
    return status.st_dev, status.st_ino


def _make(path: Path, map_bytes: int) -> None:
    """Make an empty environment, in one step: at every moment `data.mdb` is either absent or whole.

    LMDB by itself takes an empty data file for a new one, so a truncated store would open as an empty one.
    """
    own_files.make_folder(path)
    if (path / "data.mdb").exists():
        return
    with _alone(path) as descriptor:
        for left in path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        if (path / "data.mdb").exists():
            return
        unfinished = path / f"{_UNFINISHED}{secrets.token_hex(8)}"
        own_files.make_folder(unfinished, exist_ok=False)
        try:
            # LMDB's own would be as the umask has it.
            os.close(own_files.create_file(unfinished / "data.mdb"))
            # Nobody else can have it open, and a lock table would be mapped before it has its blocks (see below).
            _open_handle(unfinished, map_bytes, lock=False).close()
            made = os.open(unfinished / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(made)
            finally:
                os.close(made)
            os.rename(unfinished / "data.mdb", path / "data.mdb")
        finally:
            shutil.rmtree(unfinished)
        os.fsync(descriptor)


def _open(path: Path, url: str, map_bytes: int) -> Environment:
    identity = _identity(path, url)
    check_data_file(path / "data.mdb", url)
    with _alone(path):
        _reserve_lock_table(path / "lock.mdb")
        handle = _open_handle(path, map_bytes)
    dead = handle.reader_check()
    if dead:
        _logger.info("storage.dead_readers_cleared url=%s count=%d", url, dead)
    return Environment(handle, path, identity)


def _open_handle(path: Path, map_bytes: int, *, lock: bool = True) -> lmdb.Environment:
    # New files in the format of LMDB 0.9 whatever the library would prefer: every py-lmdb reads it.
    format_choice: dict[str, Any] = {"lib_version": 0} if hasattr(lmdb.Environment, "lib_version") else {}
    while True:
        try:
            return lmdb.Environment(
                str(path),
                map_size=map_bytes,
                max_readers=_MAX_READERS,
                max_dbs=0,
                mode=own_files.FILE,
                sync=True,
                metasync=True,
                writemap=False,
                lock=lock,
                **format_choice,
            )
        except lmdb.MemoryError:
            if map_bytes // 4 < _SMALLEST_MAP_BYTES:
                raise
            _logger.warning("storage.map_refused path=%s map_bytes=%d next=%d", path, map_bytes, map_bytes // 4)
            map_bytes //= 4


def _reserve_lock_table(lock_file: Path) -> None:
    """Give the lock table its blocks now: LMDB maps it, and a hole in it on a full disk is a SIGBUS later.

    Only for files this process has not opened (see the module's rule).
    """
    descriptor = own_files.open_file(lock_file)
    try:
        # A table in use is not made longer: others map it at the length it has.
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size or _LOCK_TABLE_BYTES)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold off every other process that makes or opens the environment. Gives the folder's descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
