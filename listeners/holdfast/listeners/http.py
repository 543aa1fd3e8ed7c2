"""Events that are sent to a workflow by its id and a key: from Python, or over HTTP."""

from __future__ import annotations

from typing import Any, ClassVar

from holdfast.listeners.interface import EventListener, ReportHandle, Stream

SOURCE = "event"
"""The source of events sent by `workflow.send_event` and over HTTP."""

EVENT_PROVIDER = "workflows_http_event_provider"
"""Name of the Serve deployment, and application, that takes events over HTTP."""


class HTTPListener(EventListener):
    """Waits for an event of this workflow under a key; gives `(key, payload)`.

    The event comes by `workflow.send_event(workflow_id, key, payload)`, or by `POST /event/send_event/<workflow_id>`
    where `holdfast.serve` serves it. One that comes before its waiter is kept.

    Whoever posts an event is answered when it is durable. Where a subclass that has an `event_checkpointed` of its
    own is waiting for it, the answer comes after that, and the subclass decides it:
    `await self.handle.report_checkpointed.remote(workflow_id, key, ok)`.

    Attributes:
        handle: The way back to who posts; given to each instance by who runs it.
    """

    handle: ClassVar[ReportHandle] = ReportHandle()

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
