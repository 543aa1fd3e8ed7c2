"""Whose code was running when a process died.

A few bytes for each thread in a file that is mapped into memory: written at
each step at the price of a memory write, and still there when the process is
not. Its successor reads them. On another node, or after a death while nobody
ran, they tell nothing, and nobody is blamed. A blame stands through later
deaths too: an answer that tells it may be lost with the next process.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from enum import Enum
from typing import TypeAlias

from holdfast.storage import own_files

log = logging.getLogger("holdfast")

Key: TypeAlias = tuple[int, int, int]
"""Whose code it is: (workflow, task, mark of the attempt)."""

_ENTRY = struct.Struct("qqq")
_NOBODY = (-1, -1, -1)
_THREADS = 256
_STANDING = struct.Struct("qqqq")
_MOST_STANDING = 1024
_RAN_SIZE = _ENTRY.size * (_THREADS + 1)
_NOBODY_RAN = _ENTRY.pack(*_NOBODY) * (_THREADS + 1)
_EMPTY = _NOBODY_RAN + bytes(_STANDING.size * _MOST_STANDING)


class Blame(Enum):
    """Why one is held to be guilty of the end of a process."""

    RAN = 1
    """Its code was running."""
    ACCUSED = 2
    """The process was ended for it."""


def _map_file(name: str) -> mmap.mmap:
    descriptor = own_files.open_file(own_files.own_folder(own_files.temporary_files()) / name)
    try:
        if os.fstat(descriptor).st_size != len(_EMPTY):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _EMPTY)
        return mmap.mmap(descriptor, len(_EMPTY))
    finally:
        os.close(descriptor)


class BlackBox:
    """Notes who runs, and tells who ran when the process before this one died.

    Args:
        name: The same for a process and its successors, and for no other.

    Attributes:
        explains: Whether somebody is to blame for the death of the process before this one.
    """

    def __init__(self, name: str) -> None:
        try:
            self._map = _map_file(name)
        except OSError as error:
            log.warning("black_box.unavailable error=%s: no call will be suspected when this process dies", error)
            self._map = mmap.mmap(-1, len(_EMPTY))
            self._map[:] = _EMPTY
        *ran, accused = _ENTRY.iter_unpack(self._map[:_RAN_SIZE])
        if accused != _NOBODY:
            blamed = {accused: Blame.ACCUSED}
        else:
            # Keys below 0 are of no listener: nobody comes to take that blame.
            blamed = dict.fromkeys((key for key in ran if key >= (0, 0, 0)), Blame.RAN)
        self.explains = bool(blamed)
        self._blamed = {**self._standing(), **blamed}
        # In this order: what dies in between blames them once more, which changes nothing.
        self._write_standing()
        self._map[:_RAN_SIZE] = _NOBODY_RAN

    def _standing(self) -> dict[Key, Blame]:
        entries = _STANDING.iter_unpack(self._map[_RAN_SIZE:])
        return {(first, second, mark): Blame(why) for first, second, mark, why in entries if why}

    def _write_standing(self) -> None:
        latest = list(self._blamed.items())[-_MOST_STANDING:]
        raw = b"".join(_STANDING.pack(*key, blame.value) for key, blame in latest)
        self._map[_RAN_SIZE:] = raw.ljust(_STANDING.size * _MOST_STANDING, b"\0")

    def note(self, thread: int, key: Key | None) -> None:
        """Say who runs from now on.

        Args:
            thread: In which thread, numbered from 0 in the order of their beginning.
            key: Who; None for nobody.
        """
        _ENTRY.pack_into(self._map, thread % _THREADS * _ENTRY.size, *(_NOBODY if key is None else key))

    def forget_who_runs(self) -> None:
        """Note that the process is about to end on purpose, so that no running call counts as the reason."""
        self._map[:_RAN_SIZE] = _NOBODY_RAN

    def accuse(self, key: Key) -> None:
        """Say that the process is about to be ended for this one, and that nobody else who runs is to blame."""
        _ENTRY.pack_into(self._map, _THREADS * _ENTRY.size, *key)

    def blame_of(self, key: Key) -> Blame | None:
        """Why this one is guilty of the end of a process before this one; None when it is not.

        Told each time: that it was told once does not say that it was heard. A new attempt has another mark.
        """
        return self._blamed.get(key)

    def take_all_blame(self) -> list[Key]:
        """All that are guilty. Told once."""
        blamed, self._blamed = self._blamed, {}
        self._write_standing()
        return sorted(blamed)
