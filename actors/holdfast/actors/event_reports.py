"""Who waits to hear how a listener took an event.

In memory only: whoever waits is on a connection that does not outlive a crash,
and the event is durable whatever becomes of them. Nothing here knows Ray or
the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.engine.records import EventGivenBack, Record, TaskFailed, TaskFinished
from holdfast.storage.workflow_row import WorkflowRow


@dataclass(eq=False, slots=True)
class _Waiting:
    seq: int
    task: int
    workflow_id: str
    key: str
    heard: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class EventReports:
    """Reports of listeners, for the requests that wait for one."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    async def wait(self, workflow_id: str, key: str, seq: int, task: int) -> bool:
        """Whether the listener took the event well: as it reports; without a report, whether it came to its end.

        Args:
            workflow_id: The workflow that got the event.
            key: The key it was sent under.
            seq: The workflow's number.
            task: The task that took the event.
        """
        waiting = _Waiting(seq, task, workflow_id, key)
        self._waiting.append(waiting)
        try:
            return await waiting.heard
        finally:
            self._waiting.remove(waiting)

    def report(self, workflow_id: str, key: str, ok: bool) -> bool:
        """A listener says how it took an event: that of who waits longest. Returns whether anybody waited."""
        for waiting in self._waiting:
            if (waiting.workflow_id, waiting.key) == (workflow_id, key) and not waiting.heard.done():
                waiting.heard.set_result(ok)
                return True
        return False

    def logged(self, row: WorkflowRow, record: Record) -> None:
        """A record is durable: that of a task's end is as good as a report, when there has been none."""
        if not self._waiting or not isinstance(record, TaskFinished | TaskFailed | EventGivenBack):
            return
        # An event that was given back is in the inbox, as one for which nobody waits.
        ok = isinstance(record, EventGivenBack) or (isinstance(record, TaskFinished) and not record.value.caught)
        self._tell(ok, (w for w in self._waiting if (w.seq, w.task) == (row.seq, record.task)))

    def ended(self, seq: int) -> None:
        """A workflow has ended, or is driven by somebody else: nobody will say here that all is well."""
        self._tell(False, (w for w in self._waiting if w.seq == seq))

    @staticmethod
    def _tell(ok: bool, whom: Iterable[_Waiting]) -> None:
        for waiting in whom:
            if not waiting.heard.done():
                waiting.heard.set_result(ok)
