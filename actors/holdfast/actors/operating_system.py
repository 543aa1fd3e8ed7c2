"""Processes as the operating system of this node knows them. Decides nothing about them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ENDED, _STOPPED = ("Z", "X"), ("T", "t")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this node.

    Attributes:
        pid: Its number, which another process may have after its end.
        started: When it began, in the kernel's own count, which tells the two apart; 0 where that is not to be had.
    """

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process is there; one that has ended and is not reaped yet is not.

        It is while one of its threads is: its first thread may have ended before the others, and what it has open is
        open until the last one has.
        """
        return _look_up(self.pid) == self

    @property
    def stopped(self) -> bool:
        """Whether it is there and stopped, by a signal or a debugger; False where that is not to be had."""
        state, _, started = _read_stat(self.pid) or ("", 0, -1)
        return state in _STOPPED and started == self.started

    def kill(self) -> bool:
        """End it by SIGKILL, also when it is stopped. Returns whether it was there to be ended."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def this_process() -> Process:
    """The process that calls."""
    found = _look_up(os.getpid())
    assert found is not None
    return found


@cache
def _own_sizes(pid: int) -> int | None:
    """A descriptor of what the kernel says of the size of this process, kept open: it is read often."""
    path = f"/proc/{pid}/statm"
    return os.open(path, os.O_RDONLY) if Path(path).exists() else None


def private_bytes() -> int:
    """The memory of this process that is not shared: what would be free without it; 0 where that is not to be had."""
    sizes = _own_sizes(os.getpid())
    if sizes is None:
        return 0
    _, resident, shared, _ = os.pread(sizes, 128, 0).split(maxsplit=3)
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _look_up(pid: int) -> Process | None:
    if not Path("/proc/self/stat").exists():
        return _look_up_by_signal(pid)
    found = _read_stat(pid)
    if found is None:
        return None
    state, threads, started = found
    return None if state in _ENDED and threads <= 1 else Process(pid, started)


def _read_stat(pid: int) -> tuple[str, int, int] | None:
    """(state, threads, start) of whatever has the number; None where nothing has, or nothing says so."""
    try:
        # "pid (name) state parent ...", where the name may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[17]), int(fields[19])


def _look_up_by_signal(pid: int) -> Process | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        # Somebody else's: the number has been given to another process.
        return None
    return Process(pid, 0)
