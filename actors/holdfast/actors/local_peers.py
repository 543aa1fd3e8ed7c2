"""Gives local sockets their names, and checks that the process at the other end is of the same user.

Nothing that comes from a local socket is unpickled before its sender is known to be a process of this user: to unpickle
is to run what the sender likes. The kernel says who that is, at both ends. The names are in a folder that only this
user enters, so that nobody else takes one, of a process that died, either.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import stat
import struct
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from holdfast.storage import own_files

log = logging.getLogger("holdfast")

CREDENTIALS = struct.Struct("3i")
"""pid, user, group, as the kernel hands them over."""

_LONGEST_ADDRESS, _LONGEST_NAME = 107, 40
_UNFINISHED = "."
_UNFINISHED_FOR_S = 60.0


def new_address() -> str:
    """Make an unused name for a socket; empty where this user can have no folder for one.

    It is in the folder of temporary files, or in another one when that has too long a path for a socket, or is where
    there can be none: callers are given the whole of it. Not in XDG_RUNTIME_DIR, which goes when its user logs out, and
    processes of Ray stay.
    """
    name = f"{os.getpid()}-{secrets.token_hex(12)}"
    for shared in dict.fromkeys((own_files.temporary_files(), Path("/tmp"), own_files.shared_memory())):
        try:
            folder = own_files.own_folder(shared)
            _try(folder)
        except OSError as error:
            _say_once(shared, str(error))
            continue
        return str(folder / name)
    log.warning("local.no_address user=%d: actors on this machine are asked through Ray, which takes longer", _user())
    return ""


@lru_cache(maxsize=64)
def _say_once(shared: Path, error: str) -> None:
    # Each thread that calls asks for a name.
    log.warning("local.no_folder shared=%s error=%s", shared, error)


@lru_cache(maxsize=16)
def _try(folder: Path) -> None:
    """Check that a socket can have a name in a folder, once for each folder.

    Raises:
        OSError: Its path is too long, or the file system knows no sockets.
    """
    if len(os.fsencode(folder)) + _LONGEST_NAME > _LONGEST_ADDRESS:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(folder))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trial:
        address = str(folder / f"{_UNFINISHED}{secrets.token_hex(8)}")
        bind(trial, address)
        os.unlink(address)


def bind(unbound: socket.socket, address: str, *, listen: bool = False) -> None:
    """Bind a socket to its name, such that connections succeed from the first moment on.

    Args:
        unbound: Not blocking, or bound at once anyway.
        address: As `new_address` gave it.
        listen: Whether connections are taken.

    Raises:
        OSError: It cannot be made.
    """
    path = Path(address)
    # Under its own name a socket that nobody hears is one of a process that died: see `clear_dead`.
    unfinished = path.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
    own_files.make_folder(path.parent)
    unbound.bind(str(unfinished))
    try:
        if listen:
            unbound.listen()
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def release(address: str, process: int) -> None:
    """Remove the name of a socket, in the process that made it; again, or in a forked one: no effect."""
    if address and process == os.getpid():
        with suppress(OSError):
            os.unlink(address)


def clear_dead(address: str) -> int:
    """Remove the names of sockets, beside this one, whose processes died. Returns how many."""
    removed = 0
    with suppress(FileNotFoundError), os.scandir(os.path.dirname(address)) as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                recent = entry.name.startswith(_UNFINISHED) and time.time() - found.st_mtime < _UNFINISHED_FOR_S
                if stat.S_ISSOCK(found.st_mode) and not recent and not _answers(entry.path):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def _answers(address: str) -> bool:
    # Of another type than those that take connections, so that none of them hears of it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            return error.errno != errno.ECONNREFUSED
    return True


def check_peer(connected: socket.socket) -> None:
    """Check that the process at the other end of a connection is of this user.

    Raises:
        PermissionError: It is another user's.
    """
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    check_user(CREDENTIALS.unpack(raw)[1])


def check_user(user: int) -> None:
    """Check that a process is of this user.

    Raises:
        PermissionError: It is another user's, which is logged.
    """
    if user != _user():
        log.warning("local.other_user user=%d own=%d: a connection of another user was refused", user, _user())
        raise PermissionError(f"a process of user {user}, not of user {_user()}, is at the other end")


def is_own_folder(folder: str) -> bool:
    """Whether only this user can give a socket a name in a folder."""
    return own_files.is_own_folder(Path(folder))


def _user() -> int:
    return os.geteuid()
