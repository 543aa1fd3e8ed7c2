"""LMDB's errors and the operating system's, as ours. Nothing else may interpret them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb

from holdfast.engine.errors import StorageCorruptError, StorageError, StorageFullError, StorageNotWritableError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
_FREE_SPACE = "Free some space and repeat it; nothing was written."
_LITTLE_SPACE_BYTES = 1 << 20


def translated(error: OSError | lmdb.Error, url: str, path: Path) -> StorageError:
    """The error to raise in place of `error`.

    Args:
        url: What the message names.
        path: A file or folder of the store, to ask for the space left.
    """
    number = error.errno or 0 if isinstance(error, OSError) else _number(error)
    if isinstance(error, lmdb.MapFullError):
        return StorageFullError(url, "the store has grown to the size of its map", "Open it with a larger map_size.")
    if isinstance(error, lmdb.MapResizedError):
        return StorageFullError(
            url, "another process has let it grow beyond the map of this one", "Open it with the same map_size."
        )
    # A write cut short by a full disk reaches us from LMDB as an I/O error.
    if isinstance(error, lmdb.DiskError) or number in _FULL or (number == errno.EIO and _little_space(path)):
        return StorageFullError(url, "no space left on the device", _FREE_SPACE)
    if isinstance(
        error,
        lmdb.InvalidError
        | lmdb.CorruptedError
        | lmdb.VersionMismatchError
        | lmdb.PageNotFoundError
        | lmdb.IncompatibleError,
    ):
        return StorageCorruptError(url, str(error), "Restore the folder from a backup, or give another one.")
    if isinstance(error, lmdb.ReadonlyError) or number in _NOT_WRITABLE:
        return StorageNotWritableError(url, str(error), "Give a folder that this user can write.")
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(url, "too many transactions read it at once", "Shorten them, or start fewer processes.")
    return StorageError(url, str(error), "Look at the disk and the system log; nothing was written.")


def _number(error: lmdb.Error) -> int:
    # The number is an attribute only in newer releases of py-lmdb; the text is in all.
    text = str(error)
    return next((number for number in (errno.EIO, *_FULL, *_NOT_WRITABLE) if text.endswith(os.strerror(number))), 0)


def _little_space(path: Path) -> bool:
    try:
        left = os.statvfs(path)
    except OSError:
        return False
    return left.f_bavail * left.f_frsize < _LITTLE_SPACE_BYTES
