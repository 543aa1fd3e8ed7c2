"""What is said on a local socket between a process and an actor of its machine: frames, and where the way ends.

A frame is a number and a pickle. The number is the caller's, and comes back with the reply.
"""

from __future__ import annotations

import logging
import pickle
import struct
import sys
from contextvars import ContextVar
from typing import Any

AVAILABLE = sys.platform == "linux"
"""Sockets whose names need no file, and vanish with the process, are there on Linux only."""

LARGEST_REQUEST = 1 << 20
"""Bytes; what is larger goes through Ray, which moves it without a copy for each of the two."""

HEAD = struct.Struct("!QQ")
"""Bytes of the pickle, and the number."""

asked_here: ContextVar[bool] = ContextVar("holdfast_asked_here", default=False)
"""Whether what is being answered was asked over a local socket: by a process that can read the storage folder, too."""

log = logging.getLogger("holdfast")


class NotHereError(Exception):
    """The short way does not lead there, or broke off: ask through Ray. The request may have been carried out."""


_ASK_THROUGH_RAY = pickle.dumps((False, NotHereError()), 5)


class Frames:
    """Cuts what comes in into frames."""

    def __init__(self) -> None:
        self._received = bytearray()

    def cut(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take what came; the (number, pickle) of each frame that is whole now."""
        self._received += data
        frames, at, there = [], 0, len(self._received)
        with memoryview(self._received) as view:
            while there - at >= HEAD.size:
                length, number = HEAD.unpack_from(view, at)
                end = at + HEAD.size + length
                if end > there:
                    break
                frames.append((number, bytes(view[at + HEAD.size : end])))
                at = end
        del self._received[:at]
        return frames


def request_of(method: str, arguments: tuple[Any, ...]) -> bytes:
    """The pickle of a call.

    Raises:
        NotHereError: It is too large for this way.
    """
    request = pickle.dumps((method, arguments), 5)
    if len(request) > LARGEST_REQUEST:
        raise NotHereError
    return request


def reply_of(done: bool, outcome: Any) -> bytes:
    """The pickle of what came of a call: what the method returned, or, if it is not done, raised."""
    try:
        return pickle.dumps((done, outcome), 5)
    except Exception as error:  # noqa: BLE001 - what only Ray's pickler can carry goes its way
        log.debug("an answer goes through Ray: %s", error)
        return _ASK_THROUGH_RAY


def outcome_of(reply: bytes) -> Any:
    """What a method returned.

    Raises:
        NotHereError: The reply could not come this way.
        Exception: What the method raised.
    """
    done, outcome = pickle.loads(reply)
    if done:
        return outcome
    raise outcome
