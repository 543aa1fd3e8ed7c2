"""Makes files and folders that only this user can read, lock, replace or prepare.

The one place that makes a file or a folder, in the storage folder and where the machine's users meet (`/tmp`,
`/dev/shm`). There a name says nothing about its owner: anybody may have taken it first. So what is found under one is
looked at before it is used. Root is not kept out: it may do anything anyway.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
"""What only their owner reads and writes."""

MOST_CLOSED = 200_000
"""Beyond so many, files of an old folder stay as they are: nobody else can enter the folder."""

_OTHERS = 0o077

_MEMORY = Path("/dev/shm")


def make_folder(path: Path, *, exist_ok: bool = True) -> bool:
    """Make a folder that only this user can enter, whatever the umask; its parents as the umask has them.

    Returns:
        Whether it was made. One that is there stays as it is.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    try:
        path.mkdir(mode=FOLDER)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return make_folder(path, exist_ok=exist_ok)
    except FileExistsError:
        if not exist_ok or not path.is_dir():
            raise
        return False
    path.chmod(FOLDER)
    return True


def create_file(path: Path) -> int:
    """Make a new file that only this user can open, whatever the umask. Returns its descriptor, to read and write.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE)
    os.fchmod(descriptor, FILE)
    return descriptor


def open_file(path: Path) -> int:
    """Open a file to read and write, made as by `create_file` when it is not there; one of ours is closed to others.

    Raises:
        OSError: It cannot be opened, or its name is that of a link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE)
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != FILE:
        os.fchmod(descriptor, FILE)
    return descriptor


def open_own(path: Path) -> int:
    """Open a file of this user to read.

    Raises:
        FileNotFoundError: It is not there.
        PermissionError: What has its name is another user's, a link, or no file.
        OSError: It cannot be opened.
    """
    # Without waiting: a pipe of somebody else would be opened when that one opens it, too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    raise PermissionError(f"{path} is not a file of user {os.geteuid()}, but of user {found.st_uid}")


def is_own_folder(path: Path) -> bool:
    """Whether a folder was made by this user, and only this user can enter it: its name is no proof."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS


def is_closed(path: Path) -> bool:
    """Whether nobody but its owner can open a file or a folder."""
    return not path.stat().st_mode & _OTHERS


def close_to_others(path: Path) -> bool:
    """Leave a file or a folder to its owner alone. Returns whether it is so: another user's stays as it is."""
    found = path.stat()
    if not found.st_mode & _OTHERS:
        return True
    if os.geteuid() not in (0, found.st_uid):
        return False
    path.chmod(FOLDER if stat.S_ISDIR(found.st_mode) else FILE)
    return True


def close_all_to_others(paths: Iterable[Path]) -> int:
    """Leave files, and folders with all that is in them, to their owner alone. They may vanish during that.

    Returns:
        How many were left as they were: links, another user's, and those beyond a great number.
    """
    left, looked_at, waiting = 0, 0, deque(paths)
    while waiting:
        path = waiting.popleft()
        with suppress(FileNotFoundError, NotADirectoryError):
            looked_at += 1
            if path.is_symlink() or looked_at > MOST_CLOSED or not close_to_others(path):
                left += 1
            elif path.is_dir():
                waiting.extend(sorted(path.iterdir()))
    return left


def shared_memory() -> Path:
    """Give the folder for files in the machine's memory; that of temporary files where there is none."""
    return _MEMORY if _MEMORY.is_dir() else temporary_files()


def temporary_files() -> Path:
    """Give the folder of temporary files of this process."""
    return Path(tempfile.gettempdir())


def own_folder(shared: Path) -> Path:
    """Give this user's folder in one that all users of the machine share; the same for all its processes.

    Raises:
        PermissionError: Another user has its name, or it is a link.
        OSError: It cannot be made.
    """
    path = shared / f"holdfast-{os.geteuid()}"
    if is_own_folder(path):
        return path
    make_folder(path)
    if not is_own_folder(path):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(
                f"{path} is not a folder of user {os.geteuid()}, but belongs to user {found.st_uid}. "
                "Remove it, as that user or as root."
            )
        # Ours, and open to others: nobody else could have made it so.
        path.chmod(FOLDER)
    return path
