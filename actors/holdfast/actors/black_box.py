"""Whose code was running when a process died.

A few bytes for each thread in a file that is mapped into memory: written at
each step at the price of a memory write, and still there when the process is
not. Its successor reads them. On another node, or after a death while nobody
ran, they tell nothing, and nobody is blamed.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from enum import Enum
from pathlib import Path

_ENTRY = struct.Struct("qq")
_NOBODY = (-1, -1)
_THREADS = 256
_EMPTY = _ENTRY.pack(*_NOBODY) * (_THREADS + 1)


class Blame(Enum):
    """Why one is held to be guilty of the end of a process."""

    RAN = "its code was running"
    ACCUSED = "the process was ended for it"


class BlackBox:
    """Notes who runs, and tells who ran when the process before this one died.

    Args:
        name: The same for a process and its successor, and for no other.

    Attributes:
        explains: Whether somebody is to blame for the death of the process before this one.
    """

    def __init__(self, name: str) -> None:
        path = Path(tempfile.gettempdir()) / f"holdfast-{os.getuid()}-{name}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size != len(_EMPTY):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _EMPTY)
            self._map = mmap.mmap(descriptor, len(_EMPTY))
        finally:
            os.close(descriptor)
        *ran, accused = _ENTRY.iter_unpack(self._map[:])
        if accused != _NOBODY:
            self._blamed = {accused: Blame.ACCUSED}
        else:
            self._blamed = dict.fromkeys(set(ran) - {_NOBODY}, Blame.RAN)
        # Keys below 0 are of no listener: nobody comes to take that blame.
        self.explains = any(key >= (0, 0) for key in self._blamed)
        self._map[:] = _EMPTY

    def note(self, thread: int, key: tuple[int, int] | None) -> None:
        """Say who runs from now on.

        Args:
            thread: In which thread, numbered from 0 in the order of their beginning.
            key: Who; None for nobody.
        """
        _ENTRY.pack_into(self._map, thread % _THREADS * _ENTRY.size, *(_NOBODY if key is None else key))

    def accuse(self, key: tuple[int, int]) -> None:
        """Say that the process is about to be ended for this one, and that nobody else who runs is to blame."""
        _ENTRY.pack_into(self._map, _THREADS * _ENTRY.size, *key)

    def take_blame(self, key: tuple[int, int]) -> Blame | None:
        """Why this one is guilty of the end of the process before this one; None when it is not. Told once."""
        return self._blamed.pop(key, None)

    def take_all_blame(self) -> list[tuple[int, int]]:
        """All that are guilty. Told once."""
        blamed, self._blamed = self._blamed, {}
        return sorted(blamed)
