"""Files that are whole or absent: written under a temporary name, flushed, renamed.

The one place that writes ordinary files into the storage folder. A writer that
dies leaves a temporary file without a lock, which anybody may clear away; what
has its final name is never changed again.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from holdfast.engine.errors import StorageError, StorageFullError, StorageNotWritableError
from holdfast.storage import own_files
from holdfast.storage.payload import Buffer

_TEMPORARY = ".writing-"
# The least that POSIX promises would be 16; Linux takes 1024 pieces in one call.
_PIECES_PER_CALL = 512
_AT_ONCE = 1 << 20
# One is written, the other one filled.
_WINDOWS = 2


def write_whole(
    folder: Path, name: str, pieces: Iterable[Buffer], *, durable: bool, url: str, cached: bool = True
) -> None:
    """Write a file that nobody sees before it is whole.

    Args:
        folder: An existing folder.
        name: The final name. A file of that name is replaced.
        pieces: The content; large buffers are not copied.
        durable: Flush the file and the folder's entry before returning.
        url: What errors name.
        cached: Whether the file is to be in the page cache then. One that nobody reads soon is written faster past it.

    Raises:
        StorageFullError: No space; nothing is left behind.
        StorageNotWritableError: The folder refuses a new file.
        StorageError: The folder was removed meanwhile, or the disk failed.
    """
    try:
        descriptor, temporary = _create_temporary(folder)
        try:
            try:
                views = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
                if cached or not _write_past_cache(descriptor, views):
                    _write_all(descriptor, views)
                if durable:
                    os.fsync(descriptor)
                os.rename(temporary, folder / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        finally:
            os.close(descriptor)
        if durable:
            flush_folder(folder)
    except OSError as error:
        raise file_error(error, url) from error


def flush(path: Path) -> None:
    """Make the content of a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


flush_folder = flush


def clear_temporary(folder: Path) -> int:
    """Remove the temporary files of writers that died. Returns how many; files being written stay."""
    count = 0
    for path in folder.glob(f"{_TEMPORARY}*"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever got the lock of a file that was finished meanwhile holds its final name, not this one.
            path.unlink()
            count += 1
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(descriptor)
    return count


def file_error(error: OSError, url: str) -> StorageError:
    """The error to raise in place of what the operating system said."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFullError(url, "no space left on the device", "Free some space and repeat it.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        return StorageNotWritableError(url, str(error), "Give a folder that this user can write.")
    if error.errno == errno.ENOENT:
        return StorageError(url, f"removed while it was used: {error}", "Do not delete what is being written.")
    return StorageError(url, str(error), "Look at the disk and the system log.")


def _create_temporary(folder: Path) -> tuple[int, Path]:
    """A new file, locked for as long as its writer lives."""
    while True:
        path = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        descriptor = own_files.create_file(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor, path
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        # Somebody cleared it away between its creation and its lock.
        os.close(descriptor)


def _write_past_cache(descriptor: int, views: Sequence[memoryview]) -> bool:
    """Write an empty file without the page cache. Returns False when that cannot be done here: nothing is written."""
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return False
    size = 0
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="holdfast-disk") as disk:
            writing: deque[Future[None]] = deque()
            for window, filled in _windows(views):
                # To the end of the page; what is too much is cut off.
                writing.append(disk.submit(_write_at, descriptor, window[: filled + -filled % mmap.PAGESIZE], size))
                size += filled
                if len(writing) == _WINDOWS:
                    # The next content comes into its window; the disk has that of the others to write meanwhile.
                    writing.popleft().result()
            for written in writing:
                written.result()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A file system that takes the flag, and nothing then.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        os.ftruncate(descriptor, 0)
        return False
    os.ftruncate(descriptor, size)
    return True


def _windows(views: Sequence[memoryview]) -> Iterator[tuple[memoryview, int]]:
    """The content in pieces of one size, the last one smaller: (where it lies, how many bytes).

    The memory is its own, which begins at a page: what is written has to. The pieces share it in turns.
    """
    windows = [memoryview(mmap.mmap(-1, _AT_ONCE)) for _ in range(_WINDOWS)]
    number = filled = 0
    for view in views:
        at = 0
        while at < view.nbytes:
            window = windows[number % _WINDOWS]
            taken = min(_AT_ONCE - filled, view.nbytes - at)
            window[filled : filled + taken] = view[at : at + taken]
            filled, at = filled + taken, at + taken
            if filled == _AT_ONCE:
                yield window, filled
                number, filled = number + 1, 0
    if filled:
        yield windows[number % _WINDOWS], filled


def _write_at(descriptor: int, view: memoryview, at: int) -> None:
    while view.nbytes:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


def _write_all(descriptor: int, views: list[memoryview]) -> None:
    at = 0
    while at < len(views):
        written = os.writev(descriptor, views[at : at + _PIECES_PER_CALL])
        while at < len(views) and written >= views[at].nbytes:
            written -= views[at].nbytes
            at += 1
        if written:
            views[at] = views[at][written:]
