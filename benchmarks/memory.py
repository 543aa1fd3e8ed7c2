"""The memory of this process and all below it: a local Ray with everything that runs there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one process.

    Attributes:
        name: Of its command.
        kib: Proportional set size: what it shares is divided among those that share it.
        own_kib: Of that, what is no file: pages of a store that are mapped are not in it.
    """

    name: str
    kib: int
    own_kib: int


def memory_of_all() -> dict[int, Memory]:
    """This process and all below it, by process id. One that ends meanwhile is left out."""
    found: dict[int, Memory] = {}
    children = _children()
    left = [os.getpid()]
    while left:
        pid = left.pop()
        left.extend(children.get(pid, ()))
        try:
            name = (Path("/proc") / str(pid) / "comm").read_text().strip()
            lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes = {parts[0]: int(parts[1]) for line in lines if len(parts := line.split()) == 3 and parts[1].isdigit()}
        found[pid] = Memory(name=name, kib=sizes["Pss:"], own_kib=sizes["Pss_Anon:"])
    return found


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    return children
