"""The short way to the actors for async code: calls over a local socket, any number at once on one connection.

It is what `local_calls` is for threads, and leads as far. What a loop asks for in one go is sent in one piece, so that
the actor finds it together and makes it durable together.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_frames import HEAD, Frames, NotHereError, outcome_of, request_of
from holdfast.actors.local_peers import check_peer

_AT_ONCE = 1 << 18


class AwaitedCaller:
    """Calls local services from event loops, each of which has connections of its own.

    Args:
        find: Asks an actor, through Ray, for the address of its service.
        addresses: What is known of that already.
    """

    def __init__(self, find: Callable[[Any], Awaitable[str]], addresses: LocalAddresses) -> None:
        self._find, self._addresses = find, addresses

    async def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """As `LocalCaller.call`, from an event loop, which goes on meanwhile."""
        request = request_of(method, arguments)
        of_loop = _of_running_loop()
        address = self._addresses.find(actor)
        if address is None:
            address = await self._ask_for_address(actor, of_loop)
        if not address:
            raise NotHereError
        try:
            reply = await of_loop.line(address).exchange(request)
        except OSError as error:
            of_loop.lines.pop(address, None)
            self._addresses.forget(actor, address)
            raise NotHereError from error
        return outcome_of(reply)

    async def _ask_for_address(self, actor: Any, of_loop: _OfLoop) -> str:
        """Once, whoever wants to know it meanwhile; who leaves takes it from nobody."""
        asking = of_loop.asking.get(actor)
        if asking is None:
            asking = of_loop.asking[actor] = asyncio.ensure_future(self._find(actor))
            asking.add_done_callback(lambda _: of_loop.asking.pop(actor, None))
        address = await asyncio.shield(asking)
        self._addresses.know(actor, address)
        return address


class _Line:
    """A connection of one event loop.

    It holds no reference to the loop, and is not one of its transports: a loop that is closed lets go of it, and it
    hangs up, without being asked to.
    """

    def __init__(self, address: str) -> None:
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count()
        self._frames = Frames()
        self._unsent = bytearray()
        self._sending = self._writing = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(address)
            check_peer(self._socket)
            asyncio.get_running_loop().add_reader(self._socket, self._receive)
        except BaseException:
            self._socket.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether anything can be asked here."""
        return self._socket.fileno() >= 0

    def exchange(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request, with all that this loop asks for now; its reply, or an OSError."""
        loop = asyncio.get_running_loop()
        number, reply = next(self._numbers), loop.create_future()
        self._waiting[number] = reply
        self._unsent += HEAD.pack(len(request), number)
        self._unsent += request
        if not self._sending:
            self._sending = True
            loop.call_soon(self._send)
        return reply

    def _send(self) -> None:
        self._sending = False
        if not self.usable:
            return
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            self._sending = self._writing = True
            loop.add_writer(self._socket, self._send)
        except OSError as error:
            self._break(error)
        else:
            if self._writing:
                self._writing = False
                loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            received = self._socket.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error)
            return
        if not received:
            self._break(ConnectionResetError("the actor is gone, or does not answer here"))
            return
        for number, reply in self._frames.cut(received):
            waiter = self._waiting.pop(number)
            if not waiter.done():
                waiter.set_result(reply)

    def _break(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self.close()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            if not waiter.done():
                waiter.set_exception(error)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __del__(self) -> None:
        self.close()


@dataclass
class _OfLoop:
    """What an event loop has: connections by address, and the actors that it asks for theirs."""

    lines: dict[str, _Line] = field(default_factory=dict)
    asking: dict[Any, asyncio.Future[str]] = field(default_factory=dict)
    process: int = field(default_factory=os.getpid)

    def line(self, address: str) -> _Line:
        """The connection to an address, made when there is none that can be used.

        Raises:
            OSError: Nobody is there, or it takes no more.
        """
        line = self.lines.get(address)
        if line is None or not line.usable:
            line = self.lines[address] = _Line(address)
        return line


_lock = threading.Lock()
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()


def _of_running_loop() -> _OfLoop:
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is not None and found.process == os.getpid():
        return found
    with _lock:
        for other in [one for one in _of_loops if one.is_closed()]:
            # Somebody holds on to it; to its connections nobody does.
            del _of_loops[other]
        found = _of_loops[loop] = _OfLoop()
    return found
