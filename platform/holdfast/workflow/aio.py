"""The API for async code: the same calls, awaited.

Nothing here blocks the event loop: short calls go through a thread, and values
are awaited as Ray references, so that a thousand waiters cost no threads. The
threads are our own: those of `asyncio.to_thread` are few, and all of them may
be taken by code that waits for what is asked here.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ray.exceptions import RayTaskError

from holdfast.engine.transitions import WorkflowStatus
from holdfast.workflow import api, schedules, subscriptions

__all__ = [
    "cancel",
    "delete",
    "delete_event_subscription",
    "delete_schedule",
    "describe_schedule",
    "get_metadata",
    "get_output",
    "get_status",
    "list_all",
    "list_event_subscriptions",
    "list_schedules",
    "on_event",
    "pause_schedule",
    "resume",
    "resume_all",
    "resume_schedule",
    "run",
    "run_async",
    "schedule",
    "send_event",
    "submit",
    "trigger_schedule",
]

_T = TypeVar("_T")

# Started when they are needed. Each waits for an actor's answer most of its time.
_threads = ThreadPoolExecutor(32, thread_name_prefix="holdfast-aio")


async def run(
    dag: Any, *args: Any, workflow_id: str | None = None, metadata: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    """As `workflow.run`."""
    return await _value(await run_async(dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs))


async def run_async(
    dag: Any, *args: Any, workflow_id: str | None = None, metadata: dict[str, Any] | None = None, **kwargs: Any
) -> Any:
    """As `workflow.run_async`: an awaitable Ray reference."""
    return await _in_thread(api.run_async, dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs)


async def submit(
    dag: Any, *args: Any, workflow_id: str | None = None, metadata: dict[str, Any] | None = None, **kwargs: Any
) -> str:
    """As `workflow.submit`."""
    return await asyncio.to_thread(api.submit, dag, *args, workflow_id=workflow_id, metadata=metadata, **kwargs)


async def resume(workflow_id: str, *, dedicated_executor: bool | None = None) -> Any:
    """As `workflow.resume`."""
    return await _value(await _in_thread(api.resume_async, workflow_id, dedicated_executor=dedicated_executor))


async def resume_all(include_failed: bool = False) -> list[tuple[str, Any]]:
    """As `workflow.resume_all`."""
    return await _in_thread(api.resume_all, include_failed)


async def get_output(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> Any:
    """As `workflow.get_output`."""
    return await _value(await _in_thread(api.get_output_async, workflow_id, task_id=task_id, name=name))


async def get_status(workflow_id: str) -> WorkflowStatus:
    """As `workflow.get_status`."""
    return await _in_thread(api.get_status, workflow_id)


async def get_metadata(workflow_id: str, task_id: str | None = None) -> dict[str, Any]:
    """As `workflow.get_metadata`."""
    return await _in_thread(api.get_metadata, workflow_id, task_id)


async def list_all(status_filter: Any = None) -> list[tuple[str, WorkflowStatus]]:
    """As `workflow.list_all`."""
    return await _in_thread(api.list_all, status_filter)


async def cancel(workflow_id: str) -> None:
    """As `workflow.cancel`."""
    await _in_thread(api.cancel, workflow_id)


async def delete(workflow_id: str) -> None:
    """As `workflow.delete`."""
    await _in_thread(api.delete, workflow_id)


async def send_event(workflow_id: str, key: str, payload: Any = None, *, idempotency_key: str | None = None) -> bool:
    """As `workflow.send_event`."""
    return await _in_thread(api.send_event, workflow_id, key, payload, idempotency_key=idempotency_key)


async def _in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    # With the caller's context, as `asyncio.to_thread`: it tells in which task of a workflow we are.
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


async def on_event(listener_class: Any, *args: Any, **kwargs: Any) -> str:
    """As `workflow.on_event`."""
    return await asyncio.to_thread(subscriptions.on_event, listener_class, *args, **kwargs)


async def list_event_subscriptions() -> list[subscriptions.EventSubscription]:
    """As `workflow.list_event_subscriptions`."""
    return await asyncio.to_thread(subscriptions.list_event_subscriptions)


async def delete_event_subscription(name: str) -> None:
    """As `workflow.delete_event_subscription`."""
    await asyncio.to_thread(subscriptions.delete_event_subscription, name)


async def schedule(name: str, dag: Any, *args: Any, **options: Any) -> None:
    """As `workflow.schedule`."""
    await asyncio.to_thread(schedules.schedule, name, dag, *args, **options)


async def list_schedules() -> list[dict[str, Any]]:
    """As `workflow.list_schedules`."""
    return await asyncio.to_thread(schedules.list_schedules)


async def describe_schedule(name: str) -> dict[str, Any]:
    """As `workflow.describe_schedule`."""
    return await asyncio.to_thread(schedules.describe_schedule, name)


async def pause_schedule(name: str) -> None:
    """As `workflow.pause_schedule`."""
    await asyncio.to_thread(schedules.pause_schedule, name)


async def resume_schedule(name: str) -> None:
    """As `workflow.resume_schedule`."""
    await asyncio.to_thread(schedules.resume_schedule, name)


async def trigger_schedule(name: str) -> str | None:
    """As `workflow.trigger_schedule`."""
    return await asyncio.to_thread(schedules.trigger_schedule, name)


async def delete_schedule(name: str) -> None:
    """As `workflow.delete_schedule`."""
    await asyncio.to_thread(schedules.delete_schedule, name)


async def _value(reference: Any) -> Any:
    try:
        return await reference
    except RayTaskError as error:
        raise api.unwrap(error) from api.unwrap(error).__cause__
