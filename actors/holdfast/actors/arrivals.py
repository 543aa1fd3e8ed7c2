"""What arrives at an actor that writes, gathered: all since the last turn of its loop is one batch, one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeAlias, TypeVar

_Operation = TypeVar("_Operation")
_Outcome = TypeVar("_Outcome")

Arrived: TypeAlias = tuple[_Operation, asyncio.Future[_Outcome] | None]
"""An operation, and whoever waits for what comes of it."""


class Arrivals(Generic[_Operation, _Outcome]):
    """Gathers operations, on one event loop.

    Args:
        loop: The loop that all of this is called on.
        work_on: Given all that has arrived, in order, in the next turn of the loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work_on: Callable[[Sequence[Arrived[_Operation, _Outcome]]], None]
    ) -> None:
        self._loop, self._work_on = loop, work_on
        self._arrived: list[Arrived[_Operation, _Outcome]] = []
        self._settling: list[asyncio.Future[None]] = []

    def arrive(self, operation: _Operation, waiter: asyncio.Future[_Outcome] | None = None) -> None:
        """Have an operation performed with all that arrives until then.

        Args:
            operation: What.
            waiter: Told what came of it, if somebody wants to know.
        """
        if not self._arrived:
            self._loop.call_soon(self._work)
        self._arrived.append((operation, waiter))

    def operate(self, operation: _Operation) -> asyncio.Future[_Outcome]:
        """As `arrive`. Returns what will come of it: also an exception is a result here."""
        waiter: asyncio.Future[_Outcome] = self._loop.create_future()
        self.arrive(operation, waiter)
        return waiter

    async def settle(self) -> None:
        """Return when all that has arrived was worked on, whatever came of it."""
        if self._arrived:
            settled: asyncio.Future[None] = self._loop.create_future()
            self._settling.append(settled)
            await settled

    def _work(self) -> None:
        arrived, self._arrived = self._arrived, []
        settling, self._settling = self._settling, []
        try:
            self._work_on(arrived)
        finally:
            for settled in settling:
                if not settled.done():
                    settled.set_result(None)


def tell(arrived: Sequence[Arrived[_Operation, _Outcome]], outcomes: Iterable[_Outcome]) -> None:
    """Tell whoever waits what came of each operation."""
    for (_, waiter), outcome in zip(arrived, outcomes, strict=True):
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)
