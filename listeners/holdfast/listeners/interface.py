"""What a source of events promises.

A listener is a class, built without arguments; its instances are never stored
and hold nothing that must survive. Ours use only what stands here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.engine.given_numbers import FARTHEST_UNIX_S, check_unbounded


class EventListener:
    """Brings one event to a task that waits for it. Derive from it and override `poll_for_event`.

    A class may also have a static or class method `subscription(*args, **kwargs)` with the arguments of
    `poll_for_event`, which returns a `Stream` or a `PointInTime`. Then nothing is polled: the waiting task is a
    row in the store, and costs no process and no memory.

    Beside it the class may have a static or class method `conversion`, with the same arguments, which returns a
    function of the event, or None: the function is called in a task of the workflow, and what it returns is given
    in the event's place.
    A class attribute that is a `ReportHandle` is replaced in each instance by one that leads to whoever sent the
    event and waits to hear how it was taken. While either method runs, `workflow_context.get_current_workflow_id()`
    and `get_current_task_id()` say for whom.
    """

    async def poll_for_event(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the event and return it.

        Args:
            *args: As given to `workflow.wait_for_event`.
            **kwargs: Likewise.

        Returns:
            The event: any value that can be stored.

        Semantics: at least once. After a crash before the event is durable it is called again, so the source
        must give the event again until `event_checkpointed` was called with it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to wait for an event: write poll_for_event")

    async def event_checkpointed(self, event: Any) -> None:
        """The event is durable: acknowledge it to its source.

        Args:
            event: What `poll_for_event` returned.

        Semantics: at least once; again when a crash came inside it, without another poll. The tasks that take
        the event start when it has returned.
        """


class ReportHandle:
    """The way back to whoever sent an event, in the form of a Ray handle.

    Args:
        send: Carries (workflow id, key, ok) there. Default: nobody asks, and a report goes nowhere.
    """

    def __init__(self, send: Callable[[str, str, bool], Awaitable[Any]] | None = None) -> None:
        self._send = send

    @property
    def report_checkpointed(self) -> ReportMethod:
        """`await handle.report_checkpointed.remote(workflow_id, key, ok)`."""
        return ReportMethod(self._send)


class ReportMethod:
    """A method of a `ReportHandle`, called by `.remote(...)` as a method of a Ray actor is."""

    def __init__(self, send: Callable[[str, str, bool], Awaitable[Any]] | None) -> None:
        self._send = send

    def remote(self, workflow_id: str, key: str, ok: bool) -> Awaitable[Any]:
        """Say how an event was taken.

        Args:
            workflow_id: The workflow that got it.
            key: The key it was sent under.
            ok: Whether all is well. The sender over HTTP is answered 200 for True and 500 for False.

        Returns:
            To be awaited: what is not awaited may come too late.

        Semantics: the first report of an event counts. Without a sender that waits it does nothing.
        """
        return _NobodyAsks() if self._send is None else self._send(workflow_id, key, bool(ok))


class _NobodyAsks:
    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


@dataclass(frozen=True, slots=True)
class Stream:
    """Wait for the next event of a stream of this workflow's inbox.

    Attributes:
        source: Who sends.
        key: Which of its events.
    """

    source: str
    key: str


@dataclass(frozen=True, slots=True)
class PointInTime:
    """Wait until a wall-clock time.

    Attributes:
        due_unix_s: Seconds since the epoch, UTC. A past time comes at once, infinity never.

    Raises:
        ValueError: Not a number.
    """

    due_unix_s: float

    def __post_init__(self) -> None:
        # As it is stored: what is later than a calendar goes is never.
        due_unix_s = check_unbounded("due_unix_s", self.due_unix_s, least=-FARTHEST_UNIX_S)
        object.__setattr__(self, "due_unix_s", due_unix_s)


def conversion_of(
    listener: type[EventListener], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Callable[[Any], Any] | None:
    """What a listener makes of its events before a workflow gets them; None when nothing."""
    conversion: Any = getattr(listener, "conversion", None)
    if conversion is None:
        return None
    found: Callable[[Any], Any] | None = conversion(*args, **kwargs)
    return found
