"""Ends a listener host that a listener has frozen or filled, and leaves word of which one it was.

A listener that holds Python's lock in C code stops every thread of its
process, the one that looks after it too. What still runs then is a timer of
the interpreter's that needs no lock: it is set anew at every look, and ends
the process when there has been none for long. A listener that takes ever more
memory is found by its steps, before the machine kills something else for it.
"""

from __future__ import annotations

import faulthandler
import logging
import os

from holdfast.actors.black_box import BlackBox
from holdfast.actors.memory_limit import memory_limit_bytes
from holdfast.actors.operating_system import private_bytes
from holdfast.actors.poll_loops import PollLoops

log = logging.getLogger("holdfast")

MEMORY_VARIABLE = "HOLDFAST_LISTENER_HOST_MB"
"""The environment variable that limits a listener host, in MiB. Default: a quarter of the machine."""

FROZEN_S = 15.0
"""A process that nothing has run in for so long is ended."""

_STANDARD_ERROR = 2
_BLAMED_FROM = 1 / 8


class HostGuard:
    """Looks after this process.

    Args:
        black_box: Where the next process reads whose fault it was.
        limit_bytes: How much memory the process may have. Default: see `MEMORY_VARIABLE`.
        frozen_s: Seconds without a look after which the process is ended.

    Raises:
        ValueError: The variable is not a whole number of at least 1.
    """

    def __init__(self, black_box: BlackBox, *, limit_bytes: int | None = None, frozen_s: float = FROZEN_S) -> None:
        self._black_box, self._frozen_s = black_box, frozen_s
        self._limit_bytes = memory_limit_bytes(MEMORY_VARIABLE) if limit_bytes is None else limit_bytes

    @property
    def limit_mib(self) -> int:
        """How much memory the process may have, in MiB."""
        return self._limit_bytes >> 20

    def look(self, loops: PollLoops) -> None:
        """Say that the process is not frozen, and end it when it has too much memory."""
        # Writes down where every thread is, then ends the process. Who ran is in the black box already.
        faulthandler.dump_traceback_later(self._frozen_s, exit=True, file=_STANDARD_ERROR)
        used = private_bytes()
        if used <= self._limit_bytes:
            return
        hungriest = loops.hungriest()
        # Where many have a little each, none of them is to blame: they are too many for the limit.
        if hungriest is not None and hungriest[1] >= self._limit_bytes * _BLAMED_FROM:
            key, grown = hungriest
            self._black_box.accuse(key)
            log.error(
                "a listener used its process's memory up, which is ended workflow=%d task=%d grown_mib=%d limit_mib=%d",
                *key[:2],
                grown >> 20,
                self.limit_mib,
            )
        else:
            log.error(
                "a listener host has too much memory and is ended, and it is not known whose it is mib=%d limit_mib=%d",
                used >> 20,
                self.limit_mib,
            )
        os._exit(1)
