"""Whose code was running when a process died.

A few bytes in a file that is mapped into memory: written at each step at the
price of a memory write, and still there when the process is not. Its successor
reads them. On another node, or after a death from outside, they tell nothing,
and nobody is blamed.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from pathlib import Path

_ENTRY = struct.Struct("qq")
_NOBODY = (-1, -1)


class BlackBox:
    """Notes who runs, and tells who ran when the process before this one died.

    Args:
        name: The same for a process and its successor, and for no other.
    """

    def __init__(self, name: str) -> None:
        path = Path(tempfile.gettempdir()) / f"holdfast-{os.getuid()}-{name}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size < _ENTRY.size:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _ENTRY.pack(*_NOBODY))
            self._map = mmap.mmap(descriptor, _ENTRY.size)
        finally:
            os.close(descriptor)
        self._blamed: tuple[int, int] = _ENTRY.unpack_from(self._map)
        self.note(None)

    def note(self, key: tuple[int, int] | None) -> None:
        """Say who runs from now on; None for nobody."""
        _ENTRY.pack_into(self._map, 0, *(_NOBODY if key is None else key))

    def take_blame(self, key: tuple[int, int]) -> bool:
        """Whether this one ran when the process before this one died. Told once."""
        if key != self._blamed:
            return False
        self._blamed = _NOBODY
        return True
