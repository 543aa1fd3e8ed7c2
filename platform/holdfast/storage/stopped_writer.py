"""Frees the store from a process that does not move while it writes.

One process writes at a time. A lock whose owner has died the next writer gets,
but one that is stopped, by Ctrl-Z in the terminal of a driver, or frozen, as a
container that is paused, holds it until somebody lets it go on, and nobody can
write meanwhile. It needs a millisecond to finish: so it is let go on until it
has let go of the lock, and is stopped or frozen again. One for which that
cannot be done (a debugger holds it, it may not be thawed from here) and that
has not moved for as long as a lease is good is ended: the kernel then gives
the lock to the next writer.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.storage import freezer, lock_owner
from holdfast.storage.lock_owner import Marks, Owner

log = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""A writer that waits so long looks whether the one before it is stopped."""

STILL_LOOKS = 15
"""One that has done nothing between so many looks, a second apart, is ended. Looks are counted, and not seconds: those
of a machine that was suspended are nobody's fault."""

_LOOK_EVERY_S = 1.0
_MOVING_S = 5.0
_MOMENT_S = 0.001


class WriterWatch:
    """Looks after a process's writer, from its making to `close`.

    Args:
        folder: Where `lock.mdb` is.
        waiting_since_s: Since when a thread of this process waits to write, by the monotonic clock; 0.0 when none does.
    """

    def __init__(self, folder: Path, waiting_since_s: Callable[[], float]) -> None:
        self._folder, self._waiting_since_s = folder, waiting_since_s
        self._suspicion = Suspicion(folder)
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
                    continue
                ended = self._suspicion.look()
                if ended is not None:
                    log.error(
                        "storage.suspended_writer pid=%d: it held the store and did not move; it was killed", ended
                    )


def release_stopped_writer(folder: Path) -> int | None:
    """Have a stopped or frozen process release the writer's lock, and stop or freeze it again.

    Args:
        folder: Where `lock.mdb` is; this process has it open.

    Returns:
        The id of that process; None when there is none, it has not let go, or another process sees to it already.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _release(folder / "lock.mdb")
    except (BlockingIOError, ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(descriptor)


class Suspicion:
    """Kills a writer that does not move, where nothing else frees the store from it.

    Args:
        folder: Where `lock.mdb` is; this process has it open.
    """

    def __init__(self, folder: Path) -> None:
        self._lock_file = folder / "lock.mdb"
        self._seen: tuple[Owner, Marks] | None = None
        self._looks = 0

    def look(self) -> int | None:
        """Look at the lock holder once more, while this process waits for the lock.

        Returns:
            The process that was ended, if one was.
        """
        found = self._still()
        if found is None or found != self._seen:
            self._seen, self._looks = found, 0
            return None
        self._looks += 1
        if self._looks < STILL_LOOKS:
            return None
        self._seen, self._looks = None, 0
        process = found[0].process
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return None
        except PermissionError:
            log.error("storage.suspended_writer pid=%d: it holds the store and does not move; kill it", process)
            return None
        return process

    def _still(self) -> tuple[Owner, Marks] | None:
        for owner in lock_owner.owners(self._lock_file):
            marks = lock_owner.marks_of(owner)
            if marks is not None and not marks.at_work:
                return owner, marks
        return None


def _release(lock_file: Path) -> int | None:
    for owner in lock_owner.owners(lock_file, sure=False):
        frozen = freezer.freezing(owner.process)
        if frozen:
            try:
                with freezer.thawed(frozen):
                    if lock_owner.state_of(owner.thread) == "T":
                        _let_go_on(lock_file, owner)
                    else:
                        _wait_until_released(lock_file, owner, time.monotonic() + _MOVING_S)
            except OSError as error:
                log.info("storage.frozen_writer pid=%d error=%s: it cannot be thawed from here", owner.process, error)
                continue
        elif lock_owner.state_of(owner.thread) == "T":
            _let_go_on(lock_file, owner)
        else:
            continue
        return None if _holds(lock_file, owner) else owner.process
    return None


def _let_go_on(lock_file: Path, owner: Owner) -> None:
    deadline_s = time.monotonic() + _MOVING_S
    while time.monotonic() < deadline_s and _holds(lock_file, owner):
        os.kill(owner.process, signal.SIGCONT)
        _wait_until_released(lock_file, owner, deadline_s, or_stopped=True)
        # It may be writing again by the time that this reaches it.
        os.kill(owner.process, signal.SIGSTOP)
        _wait_until_stopped(owner.process, deadline_s)


def _holds(lock_file: Path, owner: Owner) -> bool:
    return owner.thread in lock_owner.named_threads(lock_file)


def _wait_until_released(lock_file: Path, owner: Owner, deadline_s: float, *, or_stopped: bool = False) -> None:
    while time.monotonic() < deadline_s and _holds(lock_file, owner):
        if or_stopped and lock_owner.state_of(owner.process) == "T":
            return
        time.sleep(_MOMENT_S)


def _wait_until_stopped(process: int, deadline_s: float) -> None:
    while time.monotonic() < deadline_s and lock_owner.state_of(process) not in ("T", ""):
        time.sleep(_MOMENT_S)
