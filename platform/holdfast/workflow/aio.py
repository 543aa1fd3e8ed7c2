"""The API for async code: the same calls, awaited.

Nothing here blocks the event loop: short calls go through a thread, and what
takes long is awaited without one, over a local socket where the actors are on
this machine, else as Ray references; so a thousand waiters cost no threads. The
threads are our own: those of `asyncio.to_thread` are few, and all of them may
be taken by code that waits for what is asked here.

Every function of `holdfast.workflow` that asks the platform has its twin here,
of the same name and arguments. What only builds a graph asks nobody and has none. A
class of virtual actors, and each method of a handle, has its own `.aio`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from ray.exceptions import RayTaskError

from holdfast.actors.threads import in_thread
from holdfast.workflow import (
    actor_events,
    api,
    opening,
    outside_sources,
    platform,
    reminders,
    schedules,
    subscriptions,
    virtual_actors,
)

__all__ = [
    "cancel",
    "cancel_reminder",
    "dead_letters",
    "delete",
    "delete_dead_letter",
    "delete_event_subscription",
    "delete_schedule",
    "describe",
    "describe_schedule",
    "event_sources",
    "get_actor",
    "get_metadata",
    "get_output",
    "get_output_async",
    "get_status",
    "init",
    "list_actors",
    "list_all",
    "list_event_subscriptions",
    "list_reminders",
    "list_schedules",
    "on_event",
    "pause_schedule",
    "platform_status",
    "remind",
    "replay_dead_letter",
    "reset_actor",
    "resume",
    "resume_all",
    "resume_async",
    "resume_schedule",
    "run",
    "run_async",
    "schedule",
    "send_event",
    "show_dead_letter",
    "shutdown",
    "submit",
    "subscribe",
    "trigger_schedule",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _twin(function: Callable[_P, _T]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """The same function, called in a thread of ours and awaited."""

    @functools.wraps(function)
    async def twin(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await in_thread(function, *args, **kwargs)

    # It is found here when it is pickled by its name.
    twin.__module__ = __name__
    twin.__doc__ = f"As `workflow.{function.__name__}`, awaited."
    return twin


init = _twin(opening.init)
shutdown = _twin(platform.shutdown)
platform_status = _twin(platform.platform_status)

run_async = _twin(api.run_async)
resume_async = _twin(api.resume_async)
resume_all = _twin(api.resume_all)
get_output_async = _twin(api.get_output_async)
get_status = _twin(api.get_status)
get_metadata = _twin(api.get_metadata)
list_all = _twin(api.list_all)
cancel = _twin(api.cancel)
delete = _twin(api.delete)

on_event = _twin(subscriptions.on_event)
list_event_subscriptions = _twin(subscriptions.list_event_subscriptions)
subscribe = _twin(actor_events.subscribe)
delete_event_subscription = _twin(subscriptions.delete_event_subscription)

event_sources = _twin(outside_sources.event_sources)
dead_letters = _twin(outside_sources.dead_letters)
show_dead_letter = _twin(outside_sources.show_dead_letter)
replay_dead_letter = _twin(outside_sources.replay_dead_letter)
delete_dead_letter = _twin(outside_sources.delete_dead_letter)

get_actor = _twin(virtual_actors.get_actor)
list_actors = _twin(virtual_actors.list_actors)
describe = _twin(virtual_actors.describe)
reset_actor = _twin(virtual_actors.reset_actor)

remind = _twin(reminders.remind)
cancel_reminder = _twin(reminders.cancel_reminder)
list_reminders = _twin(reminders.list_reminders)

schedule = _twin(schedules.schedule)
list_schedules = _twin(schedules.list_schedules)
describe_schedule = _twin(schedules.describe_schedule)
pause_schedule = _twin(schedules.pause_schedule)
resume_schedule = _twin(schedules.resume_schedule)
trigger_schedule = _twin(schedules.trigger_schedule)
delete_schedule = _twin(schedules.delete_schedule)


async def run(
    dag: Any,
    *args: Any,
    workflow_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    dedicated_executor: bool = False,
    **kwargs: Any,
) -> Any:
    """As `workflow.run`, awaited; no thread waits for the value. Those asked for together are made durable together."""
    request = await in_thread(api.submit_request, dag, args, kwargs, workflow_id, metadata, dedicated_executor)
    return api.value(await api.ask_awaited(request.workflow_id, "run", request))


async def submit(
    dag: Any,
    *args: Any,
    workflow_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    dedicated_executor: bool = False,
    **kwargs: Any,
) -> str:
    """As `workflow.submit`, awaited. Those asked for together are made durable together."""
    request = await in_thread(api.submit_request, dag, args, kwargs, workflow_id, metadata, dedicated_executor)
    api.accepted(await api.ask_awaited(request.workflow_id, "submit", request))
    return request.workflow_id


async def send_event(workflow_id: str, key: str, payload: Any = None, *, idempotency_key: str | None = None) -> bool:
    """As `workflow.send_event`, awaited. Those sent together are made durable together."""
    request = await in_thread(api.event_request, workflow_id, key, payload, idempotency_key)
    return api.accepted(await api.ask_awaited(workflow_id, "post", request)).fresh


async def resume(workflow_id: str, *, dedicated_executor: bool | None = None) -> Any:
    """As `workflow.resume`, awaited; no thread waits for the value."""
    return await _value(await resume_async(workflow_id, dedicated_executor=dedicated_executor))


async def get_output(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> Any:
    """As `workflow.get_output`, awaited; no thread waits for the value."""
    return await _value(await get_output_async(workflow_id, task_id=task_id, name=name))


async def _value(reference: Any) -> Any:
    try:
        return await reference
    except RayTaskError as error:
        raise api.unwrap(error) from api.unwrap(error).__cause__
