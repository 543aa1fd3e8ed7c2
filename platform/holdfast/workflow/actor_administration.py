"""What `get_status`, `delete` and their kin say and do where an id is a virtual actor's.

Workflows and actors share one name space, and users ask about either by the
same calls. A workflow is looked for first; what is here is asked only where
there is none. Nothing here decides anything about an actor.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import ray

from holdfast.actors.client import Platform, fetch
from holdfast.actors.virtual import client
from holdfast.actors.virtual.requests import ActorPlace, CallView
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_errors import CallNotFoundError, VirtualActorNotCancellableError
from holdfast.storage.actor_row import ActorDescription, ActorState

_PAGE = 1000


def find_place(platform: Platform, actor_id: str) -> ActorPlace | None:
    """Where an actor is to be found; None when there is none."""
    place: ActorPlace | None = fetch(platform.management.virtual_actor_place.remote(actor_id))
    return place


def find_description(platform: Platform, actor_id: str) -> ActorDescription | None:
    """An actor as the store knows it; None when there is none."""
    found: ActorDescription | None = fetch(platform.management.virtual_actor.remote(actor_id))
    return found


def list_statuses(platform: Platform, statuses: Collection[WorkflowStatus]) -> list[tuple[str | None, WorkflowStatus]]:
    """(id, status) of actors, in the order in which they were made; no id where a row is damaged."""
    found: list[tuple[str | None, WorkflowStatus]] = []
    after = -1
    while True:
        page = fetch(platform.management.list_virtual_actors_by_status.remote(statuses, after, _PAGE))
        found.extend((actor_id, status) for _, actor_id, status in page)
        if len(page) < _PAGE:
            return found
        after = page[-1][0]


def delete_actor(platform: Platform, actor_id: str) -> bool:
    """Forget an actor. Returns whether there is one of this id.

    Raises:
        WorkflowStillActiveError: It works.
    """
    try:
        place = find_place(platform, actor_id)
    except StorageCorruptError:
        # Nobody can read whose it is: any host gives it up.
        place = ActorPlace(actor_id=actor_id, digest="", class_name="", hosts="")
    if place is not None:
        client.ask(platform, place, "delete", actor_id, uuid.uuid4().hex)
    return place is not None


def cancel_call(platform: Platform, call_id: str) -> bool:
    """Cancel the call `<actor id>/<call>`. Returns whether there is such an actor.

    Raises:
        VirtualActorNotCancellableError: It is the id of an actor itself.
        CallNotFoundError: An actor of this id has no such call.
    """
    found = find_description(platform, call_id)
    if found is not None:
        raise VirtualActorNotCancellableError(call_id, found.current_call)
    refused: CallNotFoundError | None = None
    for actor_id, name in _calls_of(call_id):
        place = find_place(platform, actor_id)
        if place is None:
            continue
        try:
            client.ask(platform, place, "cancel_call", actor_id, name)
            return True
        except CallNotFoundError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return False


def end_call_of(platform: Platform, workflow_id: str) -> None:
    """Cancel the call that continues as a cancelled workflow, so that it does not hold up the mailbox."""
    for actor_id, name in _calls_of(workflow_id):
        place = find_place(platform, actor_id)
        if place is not None:
            with suppress(CallNotFoundError):
                client.ask(platform, place, "cancel_call", actor_id, name, True)


def reset_actor(platform: Platform, actor_id: str, state: ActorState | None, expected_version: int | None) -> bool:
    """End the call that an actor is stuck in, and give the actor a state. Returns whether there is one of this id.

    Raises:
        VirtualActorVersionError: Its state is of another version.
    """
    place = find_place(platform, actor_id)
    if place is not None:
        client.ask(platform, place, "reset", actor_id, uuid.uuid4().hex, state, expected_version)
    return place is not None


def _calls_of(call_id: str) -> Iterator[tuple[str, str]]:
    """Find the pairs (actor id, call) that an id may name: either may have a slash in it."""
    at = call_id.rfind("/")
    while at > 0:
        if call_id[at + 1 :]:
            yield call_id[:at], call_id[at + 1 :]
        at = call_id.rfind("/", 0, at)


def resume_actor(platform: Platform, actor_id: str) -> ray.ObjectRef[Any] | None:
    """Go on with an actor that is suspended or quarantined; a reference that is there at once. None: there is none.

    Raises:
        VirtualActorNotResumableError: There is nothing to go on with.
    """
    place = find_place(platform, actor_id)
    if place is None:
        return None
    client.ask(platform, place, "resume", actor_id, uuid.uuid4().hex)
    return ray.put(None)


def actor_metadata(platform: Platform, actor_id: str) -> dict[str, Any] | None:
    """What `get_metadata` says of an actor; None when there is none of this id."""
    found = find_description(platform, actor_id)
    if found is None:
        return None
    stats = {"start_time": found.created_unix_s}
    if found.status is WorkflowStatus.SUCCESSFUL and found.last_call_unix_s is not None:
        stats["end_time"] = found.last_call_unix_s
    return {"status": found.status, "user_metadata": {}, "stats": stats}


def call_metadata(platform: Platform, actor_id: str, name: str) -> dict[str, Any] | None:
    """What `get_metadata` says of one writing call of an actor; None when there is no such actor.

    Raises:
        ValueError: There is no such call.
        CallOutcomeForgottenError: It is not kept any more.
    """
    call: CallView | None = fetch(platform.management.virtual_actor_call.remote(actor_id, name))
    if call is None:
        if find_place(platform, actor_id) is None:
            return None
        raise ValueError(f"No such task_id {name!r} in virtual actor {actor_id!r}")
    stats = {}
    if call.started_unix_s:
        stats["start_time"] = call.started_unix_s
    if call.ended_unix_s:
        stats["end_time"] = call.ended_unix_s
    return {
        "task_id": call.name,
        "task_options": {"task_type": "VIRTUAL_ACTOR_METHOD", "method": call.method},
        "user_metadata": dict(call.metadata),
        "workflow_refs": [],
        "stats": stats,
    }
