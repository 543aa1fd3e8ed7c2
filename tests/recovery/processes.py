"""Processes below one of ours: found by descent, told apart by when they began, ended by pid (Linux).

Nothing here looks at a process that does not descend from the one given: others run on the same machine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from holdfast.actors.operating_system import Process

_T = TypeVar("_T")

ROLES = {
    "worker": "ray::run_task",
    "executor": "ray::Executor",
    "management": "ray::ManagementActor",
    "listener host": "ray::ListenerHost",
    "virtual actor host": "ray::VirtualActorHost",
    "event source host": "ray::EventSourceHost",
}
"""How Ray titles the processes of each role."""


def descendants(root: int) -> list[Process]:
    """The living processes below one, parents first."""
    children: dict[int, list[Process]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # "pid (name) state parent ...", where the name may hold blanks and brackets.
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(Process(int(stat.parent.name), int(fields[19])))
    found: list[Process] = []
    generation = children.get(root, [])
    while generation:
        found.extend(generation)
        generation = [child for process in generation for child in children.get(process.pid, [])]
    return found


def title(process: Process) -> str:
    """What the process calls itself; empty when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def of_role(role: str, root: int | None = None) -> list[Process]:
    """The processes of a role below `root` (default: this process), in order of pid."""
    below = descendants(os.getpid() if root is None else root)
    found = [process for process in below if title(process).startswith(ROLES[role])]
    return sorted(found, key=lambda process: process.pid)


def the_one(role: str, root: int | None = None) -> Process:
    """The process of a role, once there is exactly one."""
    return until(lambda: (found := of_role(role, root)) and len(found) == 1 and found[0], f"one {role}")


def replaced(role: str, killed: Iterable[Process], root: int | None = None) -> Process:
    """A process of a role that is none of these, once there is one."""
    gone = set(killed)
    return until(lambda: next((found for found in of_role(role, root) if found not in gone), None), f"a new {role}")


def end(processes: Iterable[Process]) -> None:
    """SIGKILL, all at once as far as that goes."""
    for process in processes:
        process.kill()


def interrupt(process: Process) -> None:
    """What Ctrl-C sends."""
    os.kill(process.pid, signal.SIGINT)


def until(condition: Callable[[], _T | bool | None], what: str, within_s: float = 60.0) -> _T:
    """The first true result of a condition.

    Raises:
        AssertionError: It did not come true in time.
    """
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        found = condition()
        if found:
            return found  # type: ignore[return-value]
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s:g} s: {what}")
