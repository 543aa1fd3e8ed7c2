"""Reads the bodies of requests: each within a time and up to a size, and only so many at once.

A body that is sent slowly, or never to its end, costs a place among those that are read. When all places are taken the
one that was taken first is given to the next request: a body that is sent at once never loses its place.
"""

from __future__ import annotations

import asyncio
import time

from starlette.requests import ClientDisconnect, Request

from holdfast.serve.refusing import RefusedError

_SPARED_S = 1.0
"""For so long a body keeps its place, however many others come."""


class BodyReader:
    """Reads the bodies of one process.

    Args:
        most_bytes: Of a body; a longer one is refused, and not read to its end.
        within_s: Seconds that a body may take, from when its head was read.
        at_once: How many are read at the same time.
    """

    def __init__(self, *, most_bytes: int, within_s: float, at_once: int) -> None:
        self._most_bytes, self._within_s, self._at_once = most_bytes, within_s, at_once
        # In the order in which they began, with the time of it.
        self._reading: dict[asyncio.Task[bytes], float] = {}
        self._freed = asyncio.Condition()

    async def read(self, request: Request) -> bytes:
        """Read the body of a request.

        Raises:
            RefusedError: 408 or 413.
        """
        said = request.headers.get("content-length", "")
        if said.isdecimal() and (len(said) > 15 or int(said) > self._most_bytes):
            raise self._too_large()
        end_s = time.monotonic() + self._within_s
        await self._wait_for_a_place(end_s)
        reading = asyncio.ensure_future(self._read(request))
        self._reading[reading] = time.monotonic()
        try:
            done, _ = await asyncio.wait({reading}, timeout=max(0.0, end_s - time.monotonic()))
            if not done:
                raise self._too_late(f"did not come within {self._within_s:g} s")
            if reading.cancelled():
                raise self._too_late("was sent too slowly while many others were sent")
            return reading.result()
        finally:
            reading.cancel()
            await self._free(reading)

    async def _wait_for_a_place(self, end_s: float) -> None:
        while len(self._reading) >= self._at_once:
            now_s = time.monotonic()
            oldest, began_s = next(iter(self._reading.items()))
            if now_s >= began_s + _SPARED_S:
                del self._reading[oldest]
                oldest.cancel()
                return
            if now_s >= end_s:
                raise self._too_late(f"could not be read within {self._within_s:g} s: too many are sent at once")
            async with self._freed:
                try:
                    await asyncio.wait_for(self._freed.wait(), min(end_s, began_s + _SPARED_S) - now_s)
                except asyncio.TimeoutError:
                    continue

    async def _free(self, reading: asyncio.Task[bytes]) -> None:
        if self._reading.pop(reading, None) is not None:
            async with self._freed:
                self._freed.notify()

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > self._most_bytes:
                    raise self._too_large()
        except ClientDisconnect:
            raise self._too_late("ended before it was whole") from None
        return bytes(body)

    def _too_late(self, what: str) -> RefusedError:
        return RefusedError(408, f"the body {what}: send it again, at once", {"Connection": "close"})

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, f"an event may have {self._most_bytes:,} bytes: store what is larger elsewhere, and post where it is"
        )
