"""Thaws control groups that the kernel's freezer suspends with all their processes, as paused containers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Freezer:
    """A control group that is frozen.

    Attributes:
        control: What is written to, to thaw it and to freeze it again.
        thawed: What is written to thaw it.
        frozen: What is written to freeze it.
    """

    control: Path
    thawed: str
    frozen: str


def freezing(process: int) -> Sequence[Freezer]:
    """Find the frozen control groups of a process; none when it is not frozen, or when they cannot be seen."""
    try:
        lines = Path(f"/proc/{process}/cgroup").read_text().splitlines()
    except OSError:
        return ()
    found: list[Freezer] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            found += _frozen_groups("cgroup2", "", group, "cgroup.freeze", ("1", "cgroup.freeze", "0", "1"))
        elif "freezer" in controllers.split(","):
            control = ("1", "freezer.state", "THAWED", "FROZEN")
            found += _frozen_groups("cgroup", "freezer", group, "freezer.self_freezing", control)
    return found


@contextmanager
def thawed(freezers: Sequence[Freezer]) -> Iterator[None]:
    """Thaw control groups while the block runs.

    Raises:
        OSError: This user may not do that.
    """
    done: list[Freezer] = []
    try:
        for freezer in freezers:
            _write(freezer.control, freezer.thawed)
            done.append(freezer)
        yield
    finally:
        for freezer in reversed(done):
            with suppress(FileNotFoundError):
                _write(freezer.control, freezer.frozen)


def _frozen_groups(
    kind: str, controller: str, group: str, shows: str, control: tuple[str, str, str, str]
) -> Iterator[Freezer]:
    root = _mount(kind, controller)
    if root is None or ".." in group:
        return
    is_frozen, name, thaw, freeze = control
    at = root / group.lstrip("/")
    while at != root:
        with suppress(OSError):
            if (at / shows).read_text().strip() == is_frozen:
                yield Freezer(at / name, thaw, freeze)
        at = at.parent


def _mount(kind: str, controller: str) -> Path | None:
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, found, options, *_ = line.split()
            if found == kind and (not controller or controller in options.split(",")):
                return Path(place)
    return None


def _write(control: Path, word: str) -> None:
    # It is there, and is no file that this makes.
    descriptor = os.open(control, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, word.encode())
    finally:
        os.close(descriptor)
