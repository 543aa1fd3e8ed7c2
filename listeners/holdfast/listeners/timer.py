"""Points in time as events."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from holdfast.engine.given_numbers import FARTHEST_UNIX_S, check_unbounded
from holdfast.listeners.interface import EventListener, PointInTime


class TimerListener(EventListener):
    """Fires at a wall-clock time: `workflow.wait_for_event(TimerListener, timestamp)`. The event is None.

    The time is a row in the store: it survives any crash, never fires early, and costs nothing while it waits.
    """

    @staticmethod
    def subscription(timestamp: float) -> PointInTime:
        """What to wait for.

        Args:
            timestamp: Seconds since the epoch, UTC. A past time fires at once; infinity never.
        """
        return PointInTime(_checked(timestamp))

    async def poll_for_event(self, timestamp: float) -> None:
        """Wait in this process, for use outside of a workflow.

        Args:
            timestamp: Seconds since the epoch, UTC.
        """
        await asyncio.sleep(max(0.0, _checked(timestamp) - time.time()))


def _checked(timestamp: Any) -> float:
    return check_unbounded("timestamp", timestamp, least=-FARTHEST_UNIX_S, unit="seconds since the epoch")
