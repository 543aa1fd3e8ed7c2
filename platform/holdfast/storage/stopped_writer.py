"""Frees the store from a process that was stopped while it wrote.

One process writes at a time. A lock whose owner has died the next writer gets,
but one that is stopped, by Ctrl-Z in the terminal of a driver, holds it until
somebody lets it go on, and nobody can write meanwhile. It needs a millisecond
to finish: so it is let go on until it has let go of the lock, and is stopped
again. A process in a debugger is left alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""A writer that waits so long looks whether the one before it is stopped."""

_LOOK_EVERY_S = 1.0
_MOVING_S = 5.0
_MOMENT_S = 0.001
# The lock is in the first bytes of the file, a few words into it; it names its owner's thread, beside a flag or two.
_HEAD = struct.Struct("<64I")
_THREAD_BITS = 0x3FFFFFFF


class WriterWatch:
    """Looks after a process's writer, from its making to `close`.

    Args:
        folder: Where `lock.mdb` is.
        waiting_since_s: Since when a thread of this process waits to write, by the monotonic clock; 0.0 when none does.
    """

    def __init__(self, folder: Path, waiting_since_s: Callable[[], float]) -> None:
        self._folder, self._waiting_since_s = folder, waiting_since_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="holdfast-writer-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. Waits for a look that is under way: it reads what the environment has mapped."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            since_s = self._waiting_since_s()
            if since_s and time.monotonic() - since_s > PATIENCE_S:
                released = release_stopped_writer(self._folder)
                if released is not None:
                    log.warning("storage.stopped_writer pid=%d: it was let go on until it had written", released)


def release_stopped_writer(folder: Path) -> int | None:
    """Have a stopped process that holds the writer's lock let go of it. It is stopped again afterwards.

    Args:
        folder: Where `lock.mdb` is; this process has it open.

    Returns:
        The id of that process; None when the writer is not stopped, or another process sees to it already.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _release(folder / "lock.mdb")
    except (BlockingIOError, ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(descriptor)


def _release(lock_file: Path) -> int | None:
    stopped = _stopped_owner(lock_file)
    if stopped is None:
        return None
    thread, process = stopped
    deadline_s = time.monotonic() + _MOVING_S
    while time.monotonic() < deadline_s and thread in _named(lock_file):
        os.kill(process, signal.SIGCONT)
        while time.monotonic() < deadline_s and thread in _named(lock_file) and _state(process)[0] != "T":
            time.sleep(_MOMENT_S)
        # It may be writing again by the time that this reaches it.
        os.kill(process, signal.SIGSTOP)
        _wait_until_stopped(process, deadline_s)
    return process


def _wait_until_stopped(process: int, deadline_s: float) -> None:
    while time.monotonic() < deadline_s and _state(process)[0] not in ("T", ""):
        time.sleep(_MOMENT_S)


def _stopped_owner(lock_file: Path) -> tuple[int, int] | None:
    """The thread that holds the lock and its process, if that is stopped."""
    for thread in _named(lock_file):
        state, process = _state(thread)
        if state == "T" and process != os.getpid() and _start_of(lock_file, process) is not None:
            return thread, process
    return None


def _state(thread: int) -> tuple[str, int]:
    """(state, process) of a thread; an empty state when it is gone."""
    try:
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    except OSError:
        return "", 0
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return fields.get("State", " ")[0], int(fields.get("Tgid", 0))


def _named(lock_file: Path) -> set[int]:
    """Numbers in the head of the lock file that may be that of the thread which holds the lock."""
    start = _start_of(lock_file, os.getpid())
    if start is None:
        return set()
    # Read where it is mapped: to open and close the file would release LMDB's own claim on it.
    words = _HEAD.unpack(ctypes.string_at(start, _HEAD.size))
    return {word & _THREAD_BITS for word in words if word & _THREAD_BITS > 1}


def _start_of(lock_file: Path, process: int) -> int | None:
    """Where a process has the file mapped; None when it has not."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        place, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0] == str(lock_file) and int(offset, 16) == 0:
            return int(place.partition("-")[0], 16)
    return None
