"""How much memory a process of ours that runs user code may have, by an environment variable or by the machine."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.engine.given_numbers import check_whole_text

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MOST_MIB = 1 << 40
_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(variable: str) -> int:
    """The limit that the environment sets, in MiB; else a quarter of the machine, or of the container.

    Args:
        variable: Name of the environment variable.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    given = os.environ.get(variable)
    if given is not None:
        return check_whole_text(variable, given, least=1, most=_MOST_MIB, unit="MiB") << 20
    return default_limit_bytes()


def default_limit_bytes() -> int:
    """A quarter of the machine, or of the container."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
    container = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return (min(machine, int(container)) if container.isdecimal() else machine) // 4
