"""What a worker has done of a bundle, told even if it dies: which task it had begun last, and the replies before it.

A file that is mapped into memory, one for each bundle that is out: written at
the price of a memory write, and still there when the worker is not. It outlives
a process and no machine: what has to outlive that is in the store. Whoever sent
the bundle reads it on the same machine; elsewhere there is none, and a worker
there reports each task before it begins the next.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.storage import own_files

_HEAD = struct.Struct("<qqqq")  # which bundle, the task begun last, how many ended, bytes of their replies
_LENGTH = struct.Struct("<q")
_SIZE = 1 << 19

LARGEST_NOTED = 4_000
"""Bytes of the largest reply that is noted: of the longest bundle all find room. A larger one is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far a worker came.

    Attributes:
        replies: Of the tasks that ended, in the order of the bundle.
        begun: How many it had begun; the last of them, if it has no reply, was running.
    """

    replies: Sequence[bytes]
    begun: int


class BundleBox:
    """The worker's end.

    Args:
        owner: Whoever sent the bundle.
        place: What the bundle is known by; both of letters and digits.

    Raises:
        OSError: There can be none here.
    """

    def __init__(self, owner: str, place: str) -> None:
        self._path = path_of_box(owner, place)
        descriptor = own_files.create_file(self._path)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._round = self._begun = self._ended = self._bytes = 0

    def next_round(self) -> None:
        """The worker was given another bundle: what it did of the one before is known."""
        self._round += 1
        self._begun = self._ended = self._bytes = 0
        self._write_head()

    def begin(self) -> None:
        """The next task begins."""
        self._begun += 1
        self._write_head()

    def end(self, reply: bytes) -> bool:
        """The task that runs has ended so.

        Returns:
            False when there is no room for the reply: nothing was written, and nothing may begin before it is reported.
        """
        at = _HEAD.size + self._bytes
        if at + _LENGTH.size + len(reply) > _SIZE:
            return False
        _LENGTH.pack_into(self._map, at, len(reply))
        self._map[at + _LENGTH.size : at + _LENGTH.size + len(reply)] = reply
        self._bytes += _LENGTH.size + len(reply)
        self._ended += 1
        # Last: a reply counts when all of it is there.
        self._write_head()
        return True

    def remove(self) -> None:
        """All has been told, or is about to be."""
        self._map.close()
        with suppress(FileNotFoundError):
            self._path.unlink()

    def _write_head(self) -> None:
        _HEAD.pack_into(self._map, 0, self._round, self._begun, self._ended, self._bytes)


def read_box(owner: str, place: str, round_: int = 0) -> Done | None:
    """How far the worker of a bundle came that is no more, and remove what it left.

    Args:
        owner: Whoever sent the bundle.
        place: What it is known by.
        round_: Which of the bundles that the worker was given, one after the other.

    Returns:
        None when it has left nothing: it never began, had told all, or was on another machine.
    """
    try:
        path = path_of_box(owner, place)
        with open(own_files.open_own(path), "rb") as box:
            content = box.read()
    except (FileNotFoundError, PermissionError):
        return None
    path.unlink(missing_ok=True)
    if len(content) < _SIZE:
        # It died while it made the file: before any task.
        return Done(replies=(), begun=0)
    noted, begun, ended, _ = _HEAD.unpack_from(content)
    if noted != round_:
        # It did not hear of this one.
        return Done(replies=(), begun=0)
    replies, at = [], _HEAD.size
    for _ in range(ended):
        (length,) = _LENGTH.unpack_from(content, at)
        replies.append(content[at + _LENGTH.size : at + _LENGTH.size + length])
        at += _LENGTH.size + length
    return Done(replies=replies, begun=begun)


def clear_boxes(owner: str) -> None:
    """Remove what was left for one that had this name before."""
    with suppress(PermissionError):
        for path in path_of_box(owner, "0").parent.glob(_name(owner, "*")):
            path.unlink(missing_ok=True)


def path_of_box(owner: str, place: str) -> Path:
    """Give the path of a bundle's file, on the machine of its worker.

    Raises:
        PermissionError: Another user has taken the name of this one's folder.
    """
    if not (owner.isalnum() and place.isalnum()):
        raise ValueError(f"a bundle is known by letters and digits, not by {owner!r} and {place!r}")
    return own_files.own_folder(own_files.shared_memory()) / _name(owner, place)


def _name(owner: str, place: str) -> str:
    return f"bundle-{owner}-{place}"
