"""Making sure that the demo leaves no process behind, whatever moment it was stopped at.

Ray ends its processes itself, but some of them notice only seconds later that the others are gone. Only
processes that descend from this one are looked at, so a Ray that runs for somebody else is safe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 3.0
LOOK_INTERVAL_S = 0.05


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets out of sight (Linux)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) was refused")


def wait_until_alone() -> None:
    """Return when no descendant is alive. Those that do not end by themselves in time are killed, each by its pid."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        _reap()
        alive = list(_descendants())
        if not alive:
            return
        if time.monotonic() > deadline_s:
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_INTERVAL_S)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def _descendants() -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # "pid (name) state parent ...", where the name may hold blanks and brackets.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    generation = children.get(os.getpid(), [])
    while generation:
        yield from generation
        generation = [child for pid in generation for child in children.get(pid, [])]
