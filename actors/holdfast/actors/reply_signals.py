"""What workers and listeners say, as signals of the engine."""

from __future__ import annotations

import time

from ray.exceptions import OwnerDiedError, RayError, RayTaskError, RuntimeEnvSetupError, TaskCancelledError

from holdfast.actors.error_values import dump_error
from holdfast.actors.ray_repeats import RepeatedByRayError
from holdfast.actors.task_call import Acknowledged, Continued, Heard, Raised, Reply, Returned
from holdfast.engine.errors import WorkerLostError
from holdfast.engine.signals import (
    EventAcknowledged,
    EventPolled,
    Signal,
    Subscribed,
    TaskContinued,
    TaskLost,
    TaskRaised,
    TaskReturned,
)


def signal_of_reply(reply: Reply, place: str | None, *, listener: bool) -> Signal:
    """The signal of a reply.

    Args:
        reply: What was said.
        place: The worker, when it stands ready for an in-place task.
        listener: It came from a listener, not from a task.
    """
    about = {
        "task": reply.task,
        "attempt": reply.attempt,
        "started_unix_s": reply.started_unix_s,
        "ended_unix_s": reply.ended_unix_s,
        "place": place,
        "kept": reply.kept,
    }
    match reply:
        case Returned() if listener:
            return EventPolled(task=reply.task, attempt=reply.attempt, value=reply.base)
        case Returned():
            return TaskReturned(value=reply.base, names=reply.names, **about)  # type: ignore[arg-type]
        case Continued():
            return TaskContinued(graph=reply.graph, **about)  # type: ignore[arg-type]
        case Raised():
            about |= {"retryable": reply.retryable, "names": reply.names}
            return TaskRaised(error=reply.error, **about)  # type: ignore[arg-type]
        case Heard():
            return Subscribed(task=reply.task, attempt=reply.attempt, stream=reply.stream, due_unix_s=reply.due_unix_s)
        case Acknowledged():
            return EventAcknowledged(task=reply.task, attempt=reply.attempt)


def signal_of_loss(task: int, task_id: str, attempt: int, error: BaseException) -> Signal:
    """The signal of an attempt that came to no reply."""
    now = time.time()
    if isinstance(error, RayTaskError) and isinstance(error.cause, WorkerLostError):
        # A listener host says whose code ended the one before it.
        return TaskLost(task=task, attempt=attempt, error=error.cause, started_unix_s=now, ended_unix_s=now)
    if isinstance(error, RayTaskError) and isinstance(error.cause, RepeatedByRayError):
        lost = WorkerLostError(task_id, error.cause.reason)
        return TaskLost(task=task, attempt=attempt, error=lost, started_unix_s=now, ended_unix_s=now)
    if isinstance(error, RayTaskError | RuntimeEnvSetupError):
        # The task never came to the user's code: its environment could not be made, or lacks Holdfast.
        payload = dump_error(error, str(error))
        return TaskRaised(
            task=task, attempt=attempt, error=payload, started_unix_s=now, ended_unix_s=now, retryable=True
        )
    if not isinstance(error, RayError):
        raise error
    reason = "it was stopped" if isinstance(error, TaskCancelledError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OwnerDiedError):
        reason = "the executor that owned its inputs died"
    lost = WorkerLostError(task_id, reason)
    return TaskLost(task=task, attempt=attempt, error=lost, started_unix_s=now, ended_unix_s=now)
