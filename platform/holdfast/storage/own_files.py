"""Files and folders of this user alone: no other one reads, holds, replaces or prepares them.

The one place that makes a file or a folder, in the storage folder and where the machine's users meet (`/tmp`,
`/dev/shm`). There a name says nothing about its owner: anybody may have taken it first. So what is found under one is
looked at before it is used. Root is not kept out: it may do anything anyway.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

_FOLDER, _FILE, _OTHERS = 0o700, 0o600, 0o077

_MEMORY = Path("/dev/shm")


def make_folder(path: Path, *, exist_ok: bool = True) -> bool:
    """Make a folder that only this user enters, whatever the umask; those above it as the umask has them.

    Returns:
        Whether it was made. One that is there stays as it is.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    try:
        path.mkdir(mode=_FOLDER)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return make_folder(path, exist_ok=exist_ok)
    except FileExistsError:
        if not exist_ok or not path.is_dir():
            raise
        return False
    path.chmod(_FOLDER)
    return True


def create_file(path: Path) -> int:
    """Make a new file that only this user opens, whatever the umask. Returns its descriptor, to read and write.

    Raises:
        FileExistsError: The name is taken.
        OSError: It cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE)
    os.fchmod(descriptor, _FILE)
    return descriptor


def open_file(path: Path) -> int:
    """Open a file to read and write, made as by `create_file` when it is not there; one of ours is closed to others.

    Raises:
        OSError: It cannot be opened, or its name is that of a link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _FILE)
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != _FILE:
        os.fchmod(descriptor, _FILE)
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
    """Whether a folder is one that this user has made, and nobody else may enter: a name says nothing."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS


def shared_memory() -> Path:
    """Where files lie in the machine's memory; the folder of temporary files where there is no such place."""
    return _MEMORY if _MEMORY.is_dir() else temporary_files()


def temporary_files() -> Path:
    """The folder of temporary files, as this process has it."""
    return Path(tempfile.gettempdir())


def own_folder(shared: Path) -> Path:
    """This user's folder in one that all users of the machine share; the same for all its processes.

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
        path.chmod(_FOLDER)
    return path
