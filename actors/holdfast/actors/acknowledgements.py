"""A short way back: an executor tells a caller on its own machine that a request is durable.

One actor call then does for what otherwise takes two, one to hear that a
workflow was accepted and one whose reference stands for its value: the call of
the second kind is made at once, and the acknowledgement comes over a local
datagram socket. Nothing but the mark of a request is said there. It is a short
cut, never the only way: whoever hears nothing asks again, by an ordinary call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from functools import lru_cache

from holdfast.actors import local_peers
from holdfast.actors.local_peers import CREDENTIALS

log = logging.getLogger("holdfast")

_LONGEST = 256


class AcknowledgementSocket:
    """Receives acknowledgements from this user's processes. Each thread has its own: two would take each other's.

    Raises:
        OSError: This user can have no name for it here.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = local_peers.new_address()
        if not self.address:
            raise FileNotFoundError("there is no folder for a local socket")
        # Before it has a name: what comes then comes with its sender's credentials.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        local_peers.bind(self._socket, self.address)
        # Also at the end of the process.
        self._release = weakref.finalize(self, local_peers.release, self.address, os.getpid())

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
                said = self._received()
            except TimeoutError:
                return False
            except PermissionError:
                continue
            # Anything else is of an earlier request, repeated by Ray.
            if said in (accepted, refused):
                return said == accepted
        return False

    def _received(self) -> bytes:
        # There is room for credentials alone: descriptors that somebody sends are not taken.
        said, handed_over, _, _ = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(CREDENTIALS.size))
        for level, kind, content in handed_over:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                local_peers.check_user(CREDENTIALS.unpack(content)[1])
                return said
        raise PermissionError("nothing says whose process this is of")

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        release = getattr(self, "_release", None)
        if release is not None:
            release()

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
            if not _is_own_folder_of(os.path.dirname(address)):
                return
            self._socket.sendto((b"+" if accepted else b"-") + mark.encode(), address)

    def __del__(self) -> None:
        self._socket.close()


@lru_cache(maxsize=64)
def _is_own_folder_of(folder: str) -> bool:
    # Once to a folder: it stays its owner's.
    return local_peers.is_own_folder(folder)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.pid = 0
        self.socket: AcknowledgementSocket | None = None


_of_thread = _OfThread()


def acknowledgement_socket() -> AcknowledgementSocket | None:
    """Give this thread's socket, a new one in a forked process; None where there can be none."""
    found = _of_thread.socket
    if found is None or _of_thread.pid != os.getpid():
        try:
            found = _of_thread.socket = AcknowledgementSocket()
        except OSError as error:
            log.warning("local.no_acknowledgements error=%s", error)
            return None
        _of_thread.pid = os.getpid()
    return found
