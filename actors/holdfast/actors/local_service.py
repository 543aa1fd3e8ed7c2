"""The actors' side of calls over a local socket: the same methods, and the same answers, as through Ray.

Who may ask, and why: `local_calls`, for threads, and `awaited_calls`, for event loops.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from holdfast.actors import local_peers
from holdfast.actors.local_frames import AVAILABLE, HEAD, Frames, asked_here, reply_of

log = logging.getLogger("holdfast")

MOST_CONNECTIONS = 500
"""One to each thread, or event loop, that calls. Beyond that callers go through Ray: an actor needs open files for
other things."""

Method = Callable[..., Awaitable[Any]]


class LocalService:
    """Answers calls of processes on this machine that belong to the same user.

    Args:
        methods: What may be called, by name. They run on the event loop that this is opened on.

    Attributes:
        address: What `open` returns.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self.address = local_peers.new_address() if AVAILABLE else ""
        self._opening = asyncio.Lock()
        self._server: asyncio.AbstractServer | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()

    async def open(self) -> str:
        """Begin to answer; again: no effect.

        Returns:
            The address to give to callers; empty where there is none. It is good as long as this process lives.
        """
        if not self.address:
            return ""
        async with self._opening:
            # Whatever clears away old temporary files may have taken its name.
            if self._server is None or not os.path.exists(self.address):
                loop, listening = asyncio.get_running_loop(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    local_peers.bind(listening, self.address, listen=True)
                except OSError as error:
                    listening.close()
                    log.warning("local.not_listening address=%s error=%s", self.address, error)
                    return ""
                if self._server is not None:
                    self._server.close()
                self._server = await loop.create_unix_server(
                    lambda: _Connection(loop, self._begin, self._connections), sock=listening
                )
                local_peers.clear_dead(self.address)
        return self.address

    def close(self) -> None:
        """Answer nobody any more: who waits is sent another way."""
        if self._server is not None:
            self._server.close()
            local_peers.release(self.address, os.getpid())
        for connection in self._connections:
            connection.break_off()

    def _begin(self, connection: _Connection, number: int, request: bytes) -> None:
        # The event loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(self._answer(connection, number, request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, connection: _Connection, number: int, request: bytes) -> None:
        # Of this task alone.
        asked_here.set(True)
        try:
            method, arguments = pickle.loads(request)
            reply = reply_of(True, await self._methods[method](*arguments))
        except Exception as error:  # noqa: BLE001 - the caller's to see, as when Ray carries it
            reply = reply_of(False, error)
        connection.send(number, reply)


class _Connection(asyncio.Protocol):
    """One caller's. It may ask for much at once, and hears of each when that is there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        begin: Callable[[_Connection, int, bytes], None],
        others: set[_Connection],
    ) -> None:
        self._loop, self._begin, self._others = loop, begin, others
        self._frames = Frames()
        self._open = 0
        self._replies: list[bytes] = []
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        try:
            local_peers.check_peer(transport.get_extra_info("socket"))
        except PermissionError:
            transport.abort()
            return
        if len(self._others) >= MOST_CONNECTIONS:
            transport.abort()
            return
        self._others.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._others.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        for number, request in self._frames.cut(data):
            self._open += 1
            self._begin(self, number, request)

    def send(self, number: int, reply: bytes) -> None:
        """Send what came of a request; to nobody, if the caller has left."""
        self._open -= 1
        self._replies += (HEAD.pack(len(reply), number), reply)
        if not self._open:
            self._flush()
        elif len(self._replies) == 2:
            # What ends together is told together: waking the caller costs more than what it is told.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        if replies and not self._transport.is_closing():
            self._transport.writelines(replies)

    def break_off(self) -> None:
        """Have the caller ask another way."""
        self._transport.abort()
