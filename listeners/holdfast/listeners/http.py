"""Events that are sent to a workflow by its id and a key."""

from __future__ import annotations

from typing import Any

from holdfast.listeners.interface import EventListener, Stream

SOURCE = "event"
"""The source of events sent by `workflow.send_event` and over HTTP."""


class HTTPListener(EventListener):
    """Waits for an event of this workflow under a key; gives `(key, payload)`.

    The event comes by `workflow.send_event(workflow_id, key, payload)`. One that comes before its waiter is kept.
    """

    @staticmethod
    def subscription(event_key: str) -> Stream:
        """What to wait for.

        Args:
            event_key: The key it is sent under.
        """
        return Stream(SOURCE, event_key)

    async def poll_for_event(self, event_key: str) -> tuple[str, Any]:
        """Never called in a workflow: the event is a row of the inbox, and `subscription` says which."""
        raise NotImplementedError(f"the event {event_key!r} is delivered by the workflow's inbox, not polled for")
