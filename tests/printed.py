"""What a program has printed by itself: Ray prints in between what its raylet has to say."""

from __future__ import annotations


def own_lines(printed: str) -> list[str]:
    """The lines that are neither empty nor Ray's, which tells every driver of a process that was ended."""
    return [line for line in printed.splitlines() if line.strip() and "(raylet)" not in line]
