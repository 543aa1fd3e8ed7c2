"""A short way back: an executor tells a caller on its own machine that a request is durable.

One actor call then does for what otherwise takes two, one to hear that a
workflow was accepted and one whose reference stands for its value: the call of
the second kind is made at once, and the acknowledgement comes over a local
datagram socket. Nothing but the mark of a request is said there. It is a short
cut, never the only way: whoever hears nothing asks again, by an ordinary call.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid

_LONGEST = 256


class AcknowledgementSocket:
    """Hears acknowledgements. One to a thread: two threads would take each other's."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"\0holdfast-{os.getpid()}-{uuid.uuid4().hex}"
        self._socket.bind(self.address)

    def wait(self, mark: str, timeout_s: float) -> bool:
        """Wait until a request is acknowledged.

        Args:
            mark: The request's.
            timeout_s: Seconds to wait at most.

        Returns:
            Whether it was; False also when it was said that it is refused.
        """
        accepted, refused = b"+" + mark.encode(), b"-" + mark.encode()
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                said = self._socket.recv(_LONGEST)
            except TimeoutError:
                return False
            # Anything else is of an earlier request, repeated by Ray.
            if said in (accepted, refused):
                return said == accepted
        return False

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __del__(self) -> None:
        # A thread takes its own with it when it ends.
        self.close()


class Acknowledger:
    """Sends acknowledgements from one process."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def say(self, address: str, mark: str, accepted: bool) -> None:
        """Say that a request is durable, or refused. Never waits; whoever is not there any more hears nothing."""
        with contextlib.suppress(OSError):
            self._socket.sendto((b"+" if accepted else b"-") + mark.encode(), address)

    def __del__(self) -> None:
        self._socket.close()


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.pid = 0
        self.socket: AcknowledgementSocket | None = None


_of_thread = _OfThread()


def acknowledgement_socket() -> AcknowledgementSocket:
    """This thread's socket; made anew in a process that was forked."""
    found = _of_thread.socket
    if found is None or _of_thread.pid != os.getpid():
        found = _of_thread.socket = AcknowledgementSocket()
        _of_thread.pid = os.getpid()
    return found
