"""Who may have a storage folder open: one live platform at a time.

Two advisory locks, which the kernel drops when their process dies however it
dies: `LOCK` is held by the process in charge, `LOCK.members` is shared by the
other processes of its platform. What the files say is for messages, except
the platform id in `LOCK`, which decides whose members may live. Nothing here
looks at a pid to decide anything.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import weakref
from pathlib import Path

import orjson

from holdfast.engine.errors import StorageLockedError
from holdfast.storage import files, own_files

_CHARGE, _MEMBERS = "LOCK", "LOCK.members"
# Longer than any record, so that one that is shorter leaves nothing of the one before it.
_RECORD_BYTES = 512
_STOP_OTHER = "Stop that platform, or give this one another storage."


class PlatformLock:
    """A claim on one folder by this process: either in charge (`acquire`) or a member (`join`).

    Released by `release`, and by the end of the process. Not inherited by forked or spawned processes.

    Args:
        folder: An existing folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.url = self.folder.as_uri()
        self._descriptor = -1
        self._guard = threading.Lock()
        _live.add(self)

    @property
    def held(self) -> bool:
        """Whether this process holds the claim."""
        return self._descriptor >= 0

    def acquire(self, platform_id: str) -> None:
        """Take charge of the folder.

        Args:
            platform_id: Who asks. The id that had it last may take it while its members live on (its process
                in charge was restarted); another id only when no member lives.

        Raises:
            StorageLockedError: Somebody has it; names the pid, host and platform. Nothing changed.
            StorageNotWritableError: The lock file cannot be made.
            RuntimeError: This object holds a claim already.
        """
        with self._guard:
            descriptor = self._open(_CHARGE)
            try:
                if not _try_lock(descriptor, fcntl.LOCK_EX):
                    raise StorageLockedError(self.url, f"it is open in {_holder(descriptor)}", _STOP_OTHER)
                if _recorded(descriptor).get("platform_id") == platform_id:
                    _record(descriptor, platform_id, self.url)
                else:
                    self._take_over(descriptor, platform_id)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor

    def join(self, platform_id: str) -> None:
        """Become a member of the platform that has, or last had, the folder.

        Raises:
            StorageLockedError: The folder belongs to another platform, or to none yet. Nothing changed.
            StorageNotWritableError: The lock file cannot be made.
            RuntimeError: This object holds a claim already.

        Semantics: while a member lives, no other platform takes the folder.
        """
        with self._guard:
            members = self._open(_MEMBERS)
            try:
                # Waits only for one who is about to write another id into LOCK, which takes no time.
                fcntl.flock(members, fcntl.LOCK_SH)
                charge = own_files.open_file(self.folder / _CHARGE)
                try:
                    owner = _recorded(charge).get("platform_id")
                    if owner != platform_id:
                        told = _holder(charge) if owner else "no platform yet"
                        raise StorageLockedError(
                            self.url, f"{platform_id!r} cannot join: it belongs to {told}", _STOP_OTHER
                        )
                finally:
                    os.close(charge)
                _record(members, platform_id, self.url)
            except BaseException:
                os.close(members)
                raise
            self._descriptor = members

    def release(self) -> None:
        """Give the claim up. Without one: no effect."""
        with self._guard:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                # Unlocked, not only closed: a child between fork and exec has the descriptor too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _open(self, name: str) -> int:
        if self.held:
            raise RuntimeError(f"this object already holds a claim on {self.url}; release it first")
        try:
            return own_files.open_file(self.folder / name)
        except OSError as error:
            raise files.file_error(error, self.url) from error

    def _take_over(self, charge: int, platform_id: str) -> None:
        members = self._open(_MEMBERS)
        try:
            if not _try_lock(members, fcntl.LOCK_EX):
                raise StorageLockedError(
                    self.url,
                    f"processes of another platform still live; the last that joined is {_holder(members)}",
                    _STOP_OTHER,
                )
            # Written before members are let in again, so that whoever joins next sees the new id.
            _record(charge, platform_id, self.url)
        finally:
            os.close(members)

    def _forget_in_child(self) -> None:
        # Closing the copy leaves the parent's lock alone; keeping it would let the lock outlive the parent.
        descriptor, self._descriptor = self._descriptor, -1
        self._guard = threading.Lock()
        if descriptor >= 0:
            os.close(descriptor)


def was_last_held_by(folder: str | os.PathLike[str], platform_id: str) -> bool:
    """Whether this platform is the last that took charge of a folder.

    Args:
        folder: It need not exist.
        platform_id: Who asks.
    """
    try:
        descriptor = os.open(Path(folder) / _CHARGE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Whoever opens it is told what is the matter.
        return False
    try:
        return _recorded(descriptor).get("platform_id") == platform_id
    finally:
        os.close(descriptor)


_live: weakref.WeakSet[PlatformLock] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for lock in list(_live):
        lock._forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _record(descriptor: int, platform_id: str, url: str) -> None:
    content = orjson.dumps({"pid": os.getpid(), "host": socket.gethostname(), "platform_id": platform_id})
    try:
        # Written over what is there, in one piece: a full disk takes that, and would not take a file made empty first.
        os.ftruncate(descriptor, os.pwrite(descriptor, content.ljust(_RECORD_BYTES), 0))
    except OSError as error:
        raise files.file_error(error, url) from error


def _recorded(descriptor: int) -> dict[str, object]:
    """What the file says; nothing when its writer died in the middle of it."""
    try:
        fields = orjson.loads(os.pread(descriptor, 65536, 0))
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _holder(descriptor: int) -> str:
    fields = _recorded(descriptor)
    if not fields:
        return "a process that has just begun to open it"
    return f"process {fields.get('pid')} on host {fields.get('host')!r} (platform {fields.get('platform_id')!r})"
