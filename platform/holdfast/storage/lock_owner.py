"""Finds the holder of the store's lock, and whether it moves, from LMDB's lock file and the kernel. Decides nothing."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.storage import freezer

# The locks are in the first bytes of the file; each names its owner's thread, beside a flag or two.
_HEAD = struct.Struct("<64I")
_THREAD_BITS = 0x3FFFFFFF
# A lock of glibc that is shared by processes and outlives them: its word, a count, the owner, a count, its kind.
_OWNER, _KIND = 2, 4
_SHARED_AND_ROBUST = 0x90


@dataclass(frozen=True, slots=True)
class Owner:
    """A thread of another process that holds one of the store's locks."""

    thread: int
    process: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Holds counters of a thread that change when it does anything: equal ones, read twice, show that it did nothing.

    Attributes:
        state: The kernel's letter.
        switches: How often it gave up its CPU, or was made to.
        cpu_ticks: How long it had one.
        frozen: Whether the kernel's freezer holds it still.
    """

    state: str
    switches: tuple[int, int]
    cpu_ticks: int
    frozen: bool

    @property
    def at_work(self) -> bool:
        """Whether the thread has a CPU, waits for one, or waits for a disk."""
        return not self.frozen and self.state in ("R", "D")


def named_threads(lock_file: Path) -> set[int]:
    """Find the numbers in the head of the lock file that may be those of the thread that holds the lock."""
    return {word & _THREAD_BITS for word in _head(lock_file) if word & _THREAD_BITS > 1}


def owners(lock_file: Path, *, sure: bool = True) -> list[Owner]:
    """Find the threads that hold a lock, of other processes that have the file open.

    Args:
        lock_file: This process has it open, too.
        sure: Only those that are named by what is a lock, where glibc made it. Else any that a number there may name:
            each of them may be told to go on, and none may be ended.
    """
    threads = _surely_named(lock_file) if sure else named_threads(lock_file)
    found = [Owner(thread, process_of(thread)) for thread in sorted(threads)]
    return [
        one for one in found if one.process not in (0, os.getpid()) and start_of(lock_file, one.process) is not None
    ]


def state_of(thread: int) -> str:
    """Read the kernel's letter for the state of a thread; empty when it is gone."""
    return _status(thread).get("State", " ")[0].strip()


def process_of(thread: int) -> int:
    """Find the process of a thread; 0 when it is gone."""
    return int(_status(thread).get("Tgid", 0))


def marks_of(owner: Owner) -> Marks | None:
    """Read the marks of a thread; None when it is gone, or they cannot be read."""
    status = _status(owner.thread)
    try:
        fields = Path(f"/proc/{owner.process}/task/{owner.thread}/stat").read_text().rpartition(")")[2].split()
        switches = int(status["voluntary_ctxt_switches"]), int(status["nonvoluntary_ctxt_switches"])
    except (OSError, KeyError):
        return None
    return Marks(fields[0], switches, int(fields[11]) + int(fields[12]), bool(freezer.freezing(owner.process)))


def start_of(lock_file: Path, process: int) -> int | None:
    """Find the address at which a process has the file mapped; None when it has not."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        place, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0] == str(lock_file) and int(offset, 16) == 0:
            return int(place.partition("-")[0], 16)
    return None


def _surely_named(lock_file: Path) -> set[int]:
    words = _head(lock_file)
    return {
        words[at + _OWNER]
        for at in range(len(words) - _KIND)
        if words[at] & _THREAD_BITS == words[at + _OWNER] > 1 and words[at + _KIND] == _SHARED_AND_ROBUST
    }


def _head(lock_file: Path) -> Sequence[int]:
    start = start_of(lock_file, os.getpid())
    # Read where it is mapped: to open and close the file would release LMDB's own claim on it.
    return () if start is None else _HEAD.unpack(ctypes.string_at(start, _HEAD.size))


def _status(thread: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
