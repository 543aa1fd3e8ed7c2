"""Copies of large blobs in the machine's memory, each for the first who reads it.

What a task leaves is mostly read once, at once, by the next one, on the same machine. A blob that goes to the disk past
the page cache takes a fraction of the time, and its reader finds the copy. The copy is never the truth: without the
file nobody looks for it, and where there is no room for one, or none any more, the file is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.storage import own_files
from holdfast.storage.own_files import is_own_folder

log = logging.getLogger("holdfast")

LEAST_BYTES = 1 << 20
"""What is smaller is as fast without a copy."""

MOST_BYTES = 1 << 30
"""Of all copies of one folder; and at most a sixteenth of what the machine's memory file system holds."""

KEPT_S = 60.0
"""Seconds for which a copy is kept at least, if there is room for it."""

_MEMORY = Path("/dev/shm")
_UNFINISHED = "."


class MemoryCopies:
    """The copies of one folder of blobs. Any thread and process of this user may use it.

    Args:
        root: The folder of the blobs.
    """

    def __init__(self, root: Path) -> None:
        digest = hashlib.blake2b(os.fsencode(root), digest_size=12).hexdigest()
        self._folder = _MEMORY / f"{_mine()}{digest}"

    @contextmanager
    def kept(self, group: str, name: str, pieces: Sequence[memoryview]) -> Iterator[bool]:
        """Make a copy of a blob that nobody knows yet, in place of older ones if there is no room, beside the block.

        Yields:
            Whether there will be one, unless memory runs short. When the block raises there is none.
        """
        size = sum(piece.nbytes for piece in pieces)
        if size < LEAST_BYTES or not self._make_room(size):
            yield False
            return
        copying = threading.Thread(target=self._copy, args=(group, name, pieces), name="holdfast-copy")
        copying.start()
        try:
            yield True
        except BaseException:
            copying.join()
            self.drop(group, name)
            raise
        copying.join()

    def _copy(self, group: str, name: str, pieces: Sequence[memoryview]) -> None:
        unfinished = self._folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            descriptor = own_files.create_file(unfinished)
            try:
                for piece in pieces:
                    _write(descriptor, piece)
            finally:
                os.close(descriptor)
            unfinished.rename(self._path(group, name))
        except OSError as error:
            log.debug("a blob has no copy in memory: %s", error)
            unfinished.unlink(missing_ok=True)

    def take(self, group: str, name: str, size: int) -> int | None:
        """The descriptor of a copy of this size, which nobody else gets; None when there is none.

        So its memory is free, for the next one, as soon as its reader does without it: memory that was in use a moment
        ago is several times faster than other. Who reads a blob again finds it on the disk.
        """
        if size < LEAST_BYTES:
            return None
        path = self._path(group, name)
        try:
            descriptor = own_files.open_own(path)
            path.unlink()
        except OSError:
            return None
        if os.fstat(descriptor).st_size == size:
            return descriptor
        os.close(descriptor)
        return None

    def drop(self, group: str, name: str | None = None) -> None:
        """Forget the copy of a blob, or all of a group."""
        if name is not None:
            self._path(group, name).unlink(missing_ok=True)
            return
        prefix = self._path(group, "").name
        for path, _ in _list(self._folder):
            if path.name.startswith(prefix):
                path.unlink(missing_ok=True)

    @staticmethod
    def drop_old() -> None:
        """Forget those that have been kept for their time, of all folders of this user: who made them may be gone."""
        before_unix_s = time.time() - KEPT_S
        for folder in _MEMORY.glob(f"{_mine()}*"):
            if is_own_folder(folder):
                _drop_before(folder, before_unix_s)
                with suppress(OSError):
                    # One that is not empty stays.
                    folder.rmdir()

    def clear(self) -> None:
        """Forget all: nobody uses the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, group: str, name: str) -> Path:
        # Neither has a "_" in it.
        return self._folder / f"{group}_{name}"

    def _make_room(self, size: int) -> bool:
        if not sys.platform.startswith("linux"):
            return False
        try:
            own_files.make_folder(self._folder)
            memory = os.statvfs(_MEMORY)
        except OSError:
            return False
        if not is_own_folder(self._folder):
            return False
        most = min(MOST_BYTES, memory.f_blocks * memory.f_frsize // 16)
        # Others, as Ray's object store, count on the rest.
        if size > most or memory.f_bavail * memory.f_frsize < 2 * most:
            return False
        _drop_before(self._folder, time.time() - KEPT_S)
        copies = sorted(_list(self._folder), key=lambda copy: copy[1].st_mtime)
        taken = sum(found.st_size for _, found in copies)
        for path, found in copies:
            if taken + size <= most:
                break
            path.unlink(missing_ok=True)
            taken -= found.st_size
        return True


def _mine() -> str:
    return f"holdfast-{os.geteuid()}-blobs-"


def _drop_before(folder: Path, unix_s: float) -> None:
    for path, found in _list(folder):
        if found.st_mtime < unix_s:
            path.unlink(missing_ok=True)


def _list(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    return found


def _write(descriptor: int, piece: memoryview) -> None:
    at = 0
    while at < piece.nbytes:
        at += os.write(descriptor, piece[at:])
