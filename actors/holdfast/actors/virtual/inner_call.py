"""A step that a virtual actor's method returned, and that runs another method of the same actor.

It is a task of the sub-workflow that the actor waits for: the actor takes this
call before all that wait in its mailbox. Runs in a Ray worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import ray

from holdfast.actors import names
from holdfast.actors.operations import Elsewhere
from holdfast.actors.storage_access import portable
from holdfast.actors.task_context import current_task
from holdfast.actors.values import dump
from holdfast.actors.virtual.requests import CallRequest


def call_from_inside(
    host: str, actor_id: str, number: int, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a method for the call of this number, which waits for it.

    Args:
        host: Name of the Ray actor that has the virtual actor, or had.
        actor_id: The virtual actor.
        number: The call.
        method: The method to run.
        args: Its arguments.
        kwargs: Likewise.

    Raises:
        What the method raises.

    Semantics: the mark of the request is made of the task that this is, so that a task that runs again after a crash
    gets what was committed the first time.
    """
    task = current_task()
    assert task is not None
    said = f"{task.workflow_id}\0{task.task_id}".encode("utf-8", "surrogatepass")
    objects: dict[str, Any] = {}
    arguments = dump((args, dict(kwargs)), objects=objects, where=f"the arguments of {method!r}")
    request = CallRequest(
        actor_id=actor_id,
        method=method,
        name=method,
        arguments=portable(arguments),
        objects={key: portable(payload) for key, payload in objects.items()},
        nonce=hashlib.blake2b(said, digest_size=16).hexdigest(),
        inside=number,
    )
    while True:
        outcome: Any = ray.get(ray.get_actor(host, namespace=names.NAMESPACE).call.remote(request))
        if not isinstance(outcome, Elsewhere):
            break
        host = outcome.executor
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome.error is not None:
        raise outcome.error from outcome.error.__cause__
    return outcome.value
