"""A short way to the actors for the driver that runs on their machine: calls over a local socket.

What Ray does for a call between any two nodes costs several times what a tiny
workflow or a read takes. A process on the same machine may ask here instead:
the same methods, the same answers. It is a short cut, never the only way.
Where it does not lead (another node, another user, a process that is being
started again) the caller asks through Ray, as anybody does; every request that
changes something is marked, so that asked twice it counts once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("holdfast")

AVAILABLE = sys.platform == "linux"
"""Sockets whose names need no file, and vanish with the process, are there on Linux only."""

LARGEST_REQUEST = 1 << 20
"""Bytes; what is larger goes through Ray, which moves it without a copy for each of the two."""

MOST_CONNECTIONS = 500
"""One to each thread that calls. Beyond that callers go through Ray: an actor needs open files for other things."""

_LENGTH = struct.Struct("!Q")
_CREDENTIALS = struct.Struct("3i")
_FIND_AGAIN_S = 5.0

Method = Callable[..., Awaitable[Any]]


class NotHereError(Exception):
    """The short way does not lead there, or broke off: ask through Ray. The request may have been carried out."""


# -- the actor's side --------------------------------------------------------------------------------------------------


class LocalService:
    """Answers calls of processes on this machine that belong to the same user.

    Args:
        methods: What may be called, by name. They run on the event loop that this is opened on.

    Attributes:
        address: What `open` returns.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self.address = f"\0holdfast-{os.getpid()}-{uuid.uuid4().hex}" if AVAILABLE else ""
        self._opening = asyncio.Lock()
        self._server: asyncio.AbstractServer | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()

    async def open(self) -> str:
        """Begin to answer; again: no effect.

        Returns:
            The address to give to `LocalCaller`; empty where there is none. It is good as long as this process lives.
        """
        if not self.address:
            return ""
        async with self._opening:
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_unix_server(
                    lambda: _Connection(self._begin, self._connections), self.address
                )
        return self.address

    def close(self) -> None:
        """Answer nobody any more: who waits is sent another way."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.break_off()

    def _begin(self, connection: _Connection, request: bytes) -> None:
        # The event loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(self._answer(connection, request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, connection: _Connection, request: bytes) -> None:
        method, arguments = pickle.loads(request)
        answer: tuple[bool, Any]
        try:
            answer = True, await self._methods[method](*arguments)
        except Exception as error:  # noqa: BLE001 - the caller's to see, as when Ray carries it
            answer = False, error
        try:
            reply = pickle.dumps(answer, 5)
        except Exception as error:  # noqa: BLE001 - what only Ray's pickler can carry goes its way
            log.debug("an answer of %s goes through Ray: %s", method, error)
            connection.break_off()
            return
        connection.send(reply)


class _Connection(asyncio.Protocol):
    """One caller's: a request at a time, each after the reply to the one before."""

    def __init__(self, begin: Callable[[_Connection, bytes], None], others: set[_Connection]) -> None:
        self._begin, self._others = begin, others
        self._received = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if len(self._others) >= MOST_CONNECTIONS:
            transport.abort()
            return
        self._others.add(self)
        peer = transport.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(raw)
        if user != os.getuid():
            log.warning("a process of user %d asked for the platform of user %d, and is not heard", user, os.getuid())
            transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._others.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < _LENGTH.size:
            return
        end = _LENGTH.size + _LENGTH.unpack_from(self._received)[0]
        if len(self._received) >= end and not self._transport.is_closing():
            request = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            self._begin(self, request)

    def send(self, reply: bytes) -> None:
        """Send what came of the request; to nobody, if the caller has left."""
        if not self._transport.is_closing():
            self._transport.writelines((_LENGTH.pack(len(reply)), reply))

    def break_off(self) -> None:
        """Have the caller ask another way."""
        self._transport.abort()


# -- the caller's side -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Known:
    """An address as it was last heard of."""

    address: str
    asked_s: float


class LocalCaller:
    """Calls local services; any thread may use it.

    Args:
        find: Asks an actor, through Ray, for the address of its service. An actor is whatever this takes.
    """

    def __init__(self, find: Callable[[Any], str]) -> None:
        self._find = find
        self._known: dict[Any, _Known] = {}
        self._lock = threading.Lock()

    def know(self, actor: Any, address: str) -> None:
        """Learn where an actor answers: it has said so itself."""
        with self._lock:
            known = self._known.get(actor)
            if known is None or known.address != address:
                self._known[actor] = _Known(address, time.monotonic())

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
        request = pickle.dumps((method, arguments), 5)
        if len(request) > LARGEST_REQUEST:
            raise NotHereError
        address = self._address(actor)
        try:
            connection = _of_thread.connection(address)
            reply = connection.exchange(request)
        except OSError as error:
            _of_thread.hang_up(address)
            self._forget(actor, address)
            raise NotHereError from error
        done, outcome = pickle.loads(reply)
        if done:
            return outcome
        raise outcome

    def _address(self, actor: Any) -> str:
        with self._lock:
            known = self._known.get(actor)
        if known is None or (not known.address and time.monotonic() - known.asked_s > _FIND_AGAIN_S):
            known = _Known(self._find(actor), time.monotonic())
            with self._lock:
                self._known[actor] = known
        if not known.address:
            raise NotHereError
        return known.address

    def _forget(self, actor: Any, address: str) -> None:
        """It is not there any more. Its successor has another address, which is asked for a little later."""
        with self._lock:
            known = self._known.get(actor)
            if known is not None and known.address == address:
                self._known[actor] = _Known("", time.monotonic())


class _Line:
    """A connection of one thread."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address)
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
        self._socket.sendall(_LENGTH.pack(len(request)) + request)
        (length,) = _LENGTH.unpack(self._received(_LENGTH.size))
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
