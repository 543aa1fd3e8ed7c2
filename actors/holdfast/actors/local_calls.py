"""A short way to the actors for who runs on their machine: calls over a local socket, from threads that wait.

What Ray does for a call between any two nodes costs several times what a tiny
workflow or a read takes. A process on the same machine may ask here instead:
the same methods, the same answers. It is a short cut, never the only way.
Where it does not lead (another node, another user, a process that is being
started again) the caller asks through Ray, as anybody does; every request that
changes something is marked, so that asked twice it counts once.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_frames import HEAD, NotHereError, outcome_of, request_of
from holdfast.actors.local_peers import check_peer


class LocalCaller:
    """Calls local services; any thread may use it.

    Args:
        find: Asks an actor, through Ray, for the address of its service. An actor is whatever this takes.
        addresses: What is known of that already.
    """

    def __init__(self, find: Callable[[Any], str], addresses: LocalAddresses) -> None:
        self._find, self._addresses = find, addresses

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Call a method of an actor, and wait for what it returns, however long that takes.

        Args:
            actor: Which one.
            method: Of those that it answers locally.
            *arguments: For the method.

        Raises:
            NotHereError: Ask through Ray.
            Exception: What the method raised.
        """
        request = request_of(method, arguments)
        address = self._address(actor)
        try:
            connection = _of_thread.connection(address)
            reply = connection.exchange(request)
        except OSError as error:
            _of_thread.hang_up(address)
            self._addresses.forget(actor, address)
            raise NotHereError from error
        return outcome_of(reply)

    def _address(self, actor: Any) -> str:
        address = self._addresses.find(actor)
        if address is None:
            address = self._find(actor)
            self._addresses.know(actor, address)
        if not address:
            raise NotHereError
        return address


class _Line:
    """A connection of one thread."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address)
            check_peer(self._socket)
        except BaseException:
            self._socket.close()
            raise
        self._busy = False

    @property
    def usable(self) -> bool:
        """Whether the next reply would be that of the next request."""
        return not self._busy and self._socket.fileno() >= 0

    def exchange(self, request: bytes) -> bytes:
        """Send a request, and wait for its reply.

        Raises:
            OSError: The other end is gone.
        """
        self._busy = True
        self._socket.sendall(HEAD.pack(len(request), 0) + request)
        length, _ = HEAD.unpack(self._received(HEAD.size))
        reply = self._received(length)
        self._busy = False
        return reply

    def _received(self, length: int) -> bytes:
        received = self._socket.recv(length, socket.MSG_WAITALL)
        while len(received) < length:
            more = self._socket.recv(length - len(received), socket.MSG_WAITALL)
            if not more:
                raise ConnectionResetError("the actor is gone, or does not answer here")
            received += more
        return received

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __del__(self) -> None:
        # A thread takes its own with it when it ends.
        self.close()


@dataclass
class _OfThread(threading.local):
    """The connections of a thread, by address."""

    lines: dict[str, _Line] = field(default_factory=dict)
    process: int = 0

    def hang_up(self, address: str) -> None:
        """Nobody is there any more."""
        line = self.lines.pop(address, None)
        if line is not None:
            line.close()

    def connection(self, address: str) -> _Line:
        """This thread's connection, made when there is none that can be used."""
        if self.process != os.getpid():
            # Those of the process that forked this one are not ours to speak on.
            self.lines, self.process = {}, os.getpid()
        line = self.lines.get(address)
        if line is None or not line.usable:
            if line is not None:
                line.close()
            line = self.lines[address] = _Line(address)
        return line


_of_thread = _OfThread()
