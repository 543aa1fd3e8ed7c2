"""Running workflows and looking after them: `run`, `resume`, `cancel` and their kin.

It checks what users give, builds graphs, and asks the actors. It decides
nothing about a workflow and reads no storage.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RaySystemError, RayTaskError

from holdfast.actors.client import Platform, fetch, forget_platform, knows_platform
from holdfast.actors.environment import capture_environment
from holdfast.actors.graph_builder import build
from holdfast.actors.nodes import is_task
from holdfast.actors.operations import Accepted
from holdfast.actors.requests import EventRequest, SubmitRequest
from holdfast.actors.sealed import Answer
from holdfast.actors.storage_access import portable
from holdfast.actors.task_runner import settle_arguments
from holdfast.actors.threads import in_thread
from holdfast.actors.values import dump, set_cluster_nonce
from holdfast.actors.virtual.context import request_nonce, waiting
from holdfast.engine.errors import (
    HoldfastError,
    InvalidWorkflowIdError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
)
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.http import SOURCE
from holdfast.storage.strict_json import check_metadata
from holdfast.workflow import actor_administration
from holdfast.workflow.event_streams import begin_to_read
from holdfast.workflow.metadata import task_metadata, workflow_metadata
from holdfast.workflow.platform import get_platform

__all__ = [
    "cancel",
    "delete",
    "get_metadata",
    "get_output",
    "get_output_async",
    "get_status",
    "list_all",
    "resume",
    "resume_all",
    "resume_async",
    "run",
    "run_async",
    "send_event",
    "submit",
]

log = logging.getLogger("holdfast")

_LONGEST_ID_BYTES = 1024
_PAGE = 1000
_T = TypeVar("_T")
_EVERY_STATUS = frozenset(WorkflowStatus) - {WorkflowStatus.NONE}


def run(
    dag: Any,
    *args: Any,
    workflow_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    dedicated_executor: bool = False,
    **kwargs: Any,
) -> Any:
    """Run a graph durably and return its value.

    Args:
        dag: A node, `f.bind(...)`, or a step `Workflow`.
        *args: What `ray.dag.InputNode` stands for, by position.
        workflow_id: At most 1,024 bytes. Default: a random one.
        metadata: JSON, given back by `get_metadata`.
        dedicated_executor: Drive it in a process of its own, which ends with it. Costs its start, half a second.
        **kwargs: What `ray.dag.InputNode` stands for, by key.

    Returns:
        The value. For an id that has succeeded before: the stored one, and nothing runs.

    Raises:
        TypeError: Not a node, or arguments that do not fit a function.
        WorkflowExecutionError: A task failed; its error is the `__cause__`.
        WorkflowCancellationError: It was cancelled meanwhile.
        RuntimeError: The id is running or pending.
        queue.Full: No place to run and none to wait.

    Semantics: API.md, `run`. An id that FAILED or is RESUMABLE is resumed, whatever `dag` is given.
    """
    request = submit_request(dag, args, kwargs, workflow_id, metadata, dedicated_executor)
    return value(_asking(request.workflow_id, "run", request))


def run_async(
    dag: Any,
    *args: Any,
    workflow_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    dedicated_executor: bool = False,
    **kwargs: Any,
) -> ray.ObjectRef[Any]:
    """Set a graph going durably and return a reference of its value.

    Args:
        dag: As for `run`.
        *args: As for `run`.
        workflow_id: As for `run`.
        metadata: As for `run`.
        dedicated_executor: As for `run`.
        **kwargs: As for `run`.

    Returns:
        A Ray reference, for `ray.get` and `ray.wait`. It outlives the executor; it is lost with the cluster, and
        the workflow is not.

    Raises:
        As `run`, but for the errors of the run itself, which reading the reference raises.

    Semantics: when this returns the workflow is durable. The reference is a call that Ray keeps open until the
    workflow ends; `submit` does without.
    """
    request = submit_request(dag, args, kwargs, workflow_id, metadata, dedicated_executor)
    started = with_platform(lambda platform: platform.start(request))
    if started is not None:
        return started
    _accepted(_asking(request.workflow_id, "submit", request))
    return _reference(request.workflow_id)


def submit(
    dag: Any,
    *args: Any,
    workflow_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    dedicated_executor: bool = False,
    **kwargs: Any,
) -> str:
    """Set a graph going durably and return its id, with nothing held for who might wait for the value.

    Args:
        dag: As for `run`.
        *args: As for `run`.
        workflow_id: As for `run`.
        metadata: As for `run`.
        dedicated_executor: As for `run`.
        **kwargs: As for `run`.

    Returns:
        The workflow's id, for `get_output`, `get_status` and their kin.

    Raises:
        As `run_async`.

    Semantics: when this returns the workflow is durable. A reference, as `run_async` gives, is a call that Ray
    keeps open until the workflow ends: some 90 KiB over both processes. For a hundred thousand workflows that
    sleep use this.
    """
    request = submit_request(dag, args, kwargs, workflow_id, metadata, dedicated_executor)
    _accepted(_asking(request.workflow_id, "submit", request))
    return request.workflow_id


def resume(workflow_id: str, *, dedicated_executor: bool | None = None) -> Any:
    """Take a workflow up again and return its value; of a virtual actor, go on with what suspended or quarantined it.

    Args:
        workflow_id: One that FAILED or is RESUMABLE; for one that succeeded the stored value is returned.
        dedicated_executor: As for `run`, for this time. Default: as it was submitted.

    Raises:
        WorkflowNotResumableError: There is no such workflow, or it was cancelled.
        RuntimeError: It is running or pending.
        As `run` otherwise.
    """
    return _get(resume_async(workflow_id, dedicated_executor=dedicated_executor))


def resume_async(workflow_id: str, *, dedicated_executor: bool | None = None) -> ray.ObjectRef[Any]:
    """Take a workflow up again and return a reference of its value.

    Args:
        workflow_id: As for `resume`.
        dedicated_executor: As for `resume`.

    Raises:
        As `resume`, but for the errors of the run itself.
    """
    check_workflow_id(workflow_id)
    outcome = _asking(workflow_id, "resume", workflow_id, uuid.uuid4().hex, dedicated_executor)
    if isinstance(outcome, WorkflowNotResumableError):
        resumed = with_platform(lambda platform: actor_administration.resume_actor(platform, workflow_id))
        if resumed is not None:
            return resumed
    _accepted(outcome)
    return _reference(workflow_id)


def resume_all(include_failed: bool = False) -> list[tuple[str, ray.ObjectRef[Any]]]:
    """Take up again what lost its cluster, and what was queued then.

    Args:
        include_failed: Those that FAILED too.

    Returns:
        (workflow id, reference of its value): what was running first, then what was queued.

    Semantics: cancelled workflows are never resumed. One that another process resumed meanwhile is in the list too.
    """
    resumed = []
    platform = get_platform()
    for workflow_id, status in ray.get(platform.management.resumable.remote(include_failed)):
        if status is WorkflowStatus.PENDING:
            ray.get(platform.executor_for(workflow_id).admit_queued.remote())
        else:
            outcome = _asking(workflow_id, "resume", workflow_id, uuid.uuid4().hex)
            if isinstance(outcome, queue.Full):
                raise outcome
        resumed.append((workflow_id, _reference(workflow_id)))
    return resumed


def get_output(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> Any:
    """The value of a workflow, or of one of its tasks; waits for it.

    Args:
        workflow_id: The workflow.
        task_id: One of its tasks.
        name: The same, under its old name.

    Raises:
        ValueError: No such workflow or task; it is RESUMABLE; it failed (the task's error is the `__cause__`).
        WorkflowCancellationError: It was cancelled.
    """
    return _get(get_output_async(workflow_id, task_id=task_id, name=name))


def get_output_async(workflow_id: str, *, task_id: str | None = None, name: str | None = None) -> ray.ObjectRef[Any]:
    """A reference of the value of a workflow, or of one of its tasks.

    Args:
        workflow_id: As for `get_output`.
        task_id: As for `get_output`.
        name: As for `get_output`.

    Semantics: the errors of `get_output` are raised when the reference is read. Of a virtual actor it is what the
    writing call of that name came to, or its last one.
    """
    check_workflow_id(workflow_id)
    return with_platform(
        lambda platform: platform.executor_for(workflow_id).output.remote(workflow_id, task_id or name, False)
    )


def list_all(
    status_filter: WorkflowStatus | str | Collection[WorkflowStatus | str] | None = None,
) -> list[tuple[str, WorkflowStatus]]:
    """The workflows there are, in order of submission; after them the virtual actors, in order of their making.

    Args:
        status_filter: A status, its string, or a set of either; None for all.

    Raises:
        ValueError: No such status.
        TypeError: Neither of these.

    Semantics: the time it takes follows what is asked for, not what is stored. A workflow whose row is damaged is
    left out, and the log of this process says so.
    """
    statuses = _statuses(status_filter)
    found: list[tuple[str, WorkflowStatus]] = []
    after = -1
    while True:
        last = after
        page = fetch(_management().list_workflows.remote(statuses, last, _PAGE))
        for number, workflow_id, status in page:
            if workflow_id is None:
                log.error(
                    "workflow number %d is not listed: its row in %s is damaged. Its status was %s; "
                    "get_status of its id says what is wrong with it",
                    number,
                    get_platform().config.storage,
                    status.value,
                )
            else:
                found.append((workflow_id, status))
        if len(page) < _PAGE:
            break
        after = page[-1][0]
    for actor_id, status in with_platform(lambda platform: actor_administration.list_statuses(platform, statuses)):
        if actor_id is None:
            log.error("a virtual actor is not listed: its row in %s is damaged", get_platform().config.storage)
        else:
            found.append((actor_id, status))
    return found


def get_status(workflow_id: str) -> WorkflowStatus:
    """Where a workflow stands.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        StorageCorruptError: Its row in the store is damaged.
    """
    check_workflow_id(workflow_id)
    row = fetch(_management().workflow.remote(workflow_id))
    if row is None:
        actor = with_platform(lambda platform: actor_administration.find_description(platform, workflow_id))
        if actor is None:
            raise WorkflowNotFoundError(workflow_id, get_platform().config.storage)
        return actor.status
    status: WorkflowStatus = row.status
    return status


def get_metadata(workflow_id: str, task_id: str | None = None, *, name: str | None = None) -> dict[str, Any]:
    """What is known about a workflow, or one of its tasks.

    Args:
        workflow_id: The workflow.
        task_id: One of its tasks.
        name: The same, under its old name.

    Returns:
        Workflow: `status`, `user_metadata`, `stats` with `start_time` and `end_time` (seconds since the epoch).
        Task: `task_id`, `task_options`, `user_metadata`, `workflow_refs`, `stats`.

    Raises:
        ValueError: No such workflow or task.
    """
    check_workflow_id(workflow_id)
    platform = get_platform()
    asked = task_id or name
    return workflow_metadata(platform, workflow_id) if asked is None else task_metadata(platform, workflow_id, asked)


def cancel(workflow_id: str) -> None:
    """Cancel a workflow, permanently; or one call of a virtual actor, `<actor id>/<call>`.

    Raises:
        WorkflowNotFoundError: There is no such workflow, and no such call.
        VirtualActorNotCancellableError: It is a virtual actor.

    Semantics: when it returns the status is CANCELED and what ran for it has been killed. A workflow that has
    succeeded stays so. What becomes of a call: docs/semantics.md, "A stuck actor can be freed".
    """
    check_workflow_id(workflow_id)
    outcome = _asking(workflow_id, "cancel", workflow_id, uuid.uuid4().hex)
    if isinstance(outcome, WorkflowNotFoundError) and with_platform(
        lambda platform: actor_administration.cancel_call(platform, workflow_id)
    ):
        return
    _accepted(outcome)
    if "/" in workflow_id:
        with_platform(lambda platform: actor_administration.end_call_of(platform, workflow_id))


def delete(workflow_id: str) -> None:
    """Forget a workflow, or a virtual actor, and all that is stored of it.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        WorkflowStillActiveError: It is running or pending.

    Semantics: one whose row is damaged is deleted whatever its status was; what ran for it is ended.
    """
    check_workflow_id(workflow_id)
    outcome = _asking(workflow_id, "delete", workflow_id, uuid.uuid4().hex)
    if isinstance(outcome, WorkflowNotFoundError) and with_platform(
        lambda platform: actor_administration.delete_actor(platform, workflow_id)
    ):
        return
    _accepted(outcome)


def send_event(workflow_id: str, key: str, payload: Any = None, *, idempotency_key: str | None = None) -> bool:
    """Send an event to a workflow, for `wait_for_event(HTTPListener, event_key=key)`.

    Args:
        workflow_id: The workflow.
        key: Under which key it waits.
        payload: Any value that can be stored.
        idempotency_key: Of events with the same one the workflow gets the first only.

    Returns:
        Whether the event is new; False for a repetition.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        WorkflowEndedError: It has succeeded or was cancelled: nobody will take the event.
        TypeError: The key is not a string, or the payload cannot be stored.
        ValueError: The key is not valid text.

    Semantics: durable when this returns. An event that comes before its waiter is kept for it.
    """
    return _accepted(_asking(workflow_id, "post", event_request(workflow_id, key, payload, idempotency_key))).fresh


def event_request(
    workflow_id: str, key: str, payload: Any, idempotency_key: str | None, *, follow: bool = False
) -> EventRequest:
    """What an executor is asked to take in for `send_event`.

    Args:
        workflow_id: As for `send_event`.
        key: As for `send_event`.
        payload: As for `send_event`.
        idempotency_key: As for `send_event`.
        follow: Have the answer wait for a listener's `event_checkpointed`, where the event has one at once.

    Raises:
        TypeError: As `send_event`.
        ValueError: As `send_event`.
    """
    check_workflow_id(workflow_id)
    for name, given in (("key", key), ("idempotency_key", "" if idempotency_key is None else idempotency_key)):
        if not isinstance(given, str):
            raise TypeError(f"the {name} of an event must be a string, not {given!r}")
        if not _is_text(given):
            raise ValueError(f"the {name} of an event is not valid text: {given!r:.200}")
    objects: dict[str, Any] = {}
    event = dump((key, payload), objects=objects, where=f"the payload of event {key!r}")
    if objects:
        raise TypeError(f"the payload of event {key!r} holds an ObjectRef: send the value itself, ray.get(...)")
    # Ray repeats the request when the executor dies in it: it has a mark of its own, and is not taken twice
    # without a key of the user's either.
    nonce = uuid.uuid4().hex
    return EventRequest(
        workflow_id=workflow_id,
        stream=(SOURCE, key),
        payload=portable(event),
        dedupe_id=f"request {nonce}" if idempotency_key is None else f"key {idempotency_key}",
        nonce=nonce,
        follow=follow,
    )


# -- inside ------------------------------------------------------------------------------------------------------------


def ask(workflow_id: str, method: str, *arguments: Any) -> Any:
    """Call a method of the executor that answers for an id, the platform found anew when it was started anew."""
    return _asking(workflow_id, method, *arguments)


async def ask_awaited(workflow_id: str, method: str, *arguments: Any) -> Any:
    """As `ask`, from an event loop, which goes on meanwhile."""
    with waiting():
        try:
            # To find it, or to start it, may take seconds.
            platform = get_platform() if knows_platform() else await in_thread(get_platform)
            return await platform.ask_async(workflow_id, method, *arguments)
        except (RayActorError, ValueError) as error:
            _forget_unless_told(error)
            return await (await in_thread(get_platform)).ask_async(workflow_id, method, *arguments)


def accepted(outcome: Any) -> Accepted:
    """What an executor said, when it did what was asked; else what it refused with is raised."""
    return _accepted(outcome)


def check_workflow_id(workflow_id: Any) -> str:
    """A usable workflow id.

    Raises:
        InvalidWorkflowIdError: It is not.
    """
    if not isinstance(workflow_id, str):
        raise InvalidWorkflowIdError(
            repr(workflow_id)[:200], f"is not a string but of type {type(workflow_id).__name__}"
        )
    if not _is_text(workflow_id):
        raise InvalidWorkflowIdError(repr(workflow_id)[:200], "is not valid text")
    length = len(workflow_id.encode())
    if length == 0:
        raise InvalidWorkflowIdError(repr(workflow_id), "is empty")
    if length > _LONGEST_ID_BYTES:
        raise InvalidWorkflowIdError(repr(workflow_id[:40]) + "...", f"has {length:,} bytes")
    return workflow_id


def _is_text(given: str) -> bool:
    """Whether a string can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def submit_request(
    dag: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    workflow_id: str | None,
    metadata: dict[str, Any] | None,
    dedicated: bool,
) -> SubmitRequest:
    """What a user gives to `run`, checked and in a form that can be stored.

    Raises:
        As `run` at the call.
    """
    if not is_task(dag):
        build(dag)  # raises, and says why
    # Asked for by a virtual actor's method that runs again after a crash, it is the same workflow.
    checked_id = request_nonce("id") if workflow_id is None else check_workflow_id(workflow_id)
    checked_metadata = check_metadata(metadata)
    set_cluster_nonce(get_platform().address.cluster)
    draft = build(dag, args=args, kwargs=kwargs)
    if draft.workflow_ids:
        raise ValueError(
            f"the graph holds a task of workflow {sorted(draft.workflow_ids)[0]!r}: "
            "a remaining task of workflow.wait can be used in its own workflow only"
        )
    begin_to_read(get_platform(), (node.stream for node in draft.graph.nodes))
    return SubmitRequest(
        workflow_id=checked_id,
        nonce=request_nonce(f"workflow {checked_id}"),
        graph=settle_arguments(draft.graph, portable),
        code=draft.code,
        objects={key: portable(payload) for key, payload in draft.objects.items()},
        user_metadata=checked_metadata,
        environment=capture_environment(),
        dedicated=dedicated,
    )


def with_platform(call: Callable[[Platform], _T]) -> _T:
    """Ask the platform; the new one, when the one that was known is gone."""
    with waiting():
        try:
            return call(get_platform())
        except (RayActorError, ValueError) as error:
            _forget_unless_told(error)
            return call(get_platform())


def _forget_unless_told(error: RayActorError | ValueError) -> None:
    """Forget a platform that is not there; raise what is no sign of that."""
    if isinstance(error, ValueError) and "Failed to look up actor" not in str(error):
        raise error
    # The platform that this process knew was shut down, and perhaps started anew.
    forget_platform()


def _management() -> Any:
    return get_platform().management


def _asking(workflow_id: str, method: str, *arguments: Any) -> Any:
    return with_platform(lambda platform: platform.ask(workflow_id, method, *arguments))


def _accepted(outcome: Any) -> Accepted:
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Accepted)
    return outcome


def _reference(workflow_id: str) -> ray.ObjectRef[Any]:
    return with_platform(lambda platform: platform.executor_for(workflow_id).output.remote(workflow_id))


def value(answer: Any) -> Any:
    """The value in what an executor answered; the error in it, or what it refused with, is raised."""
    if not isinstance(answer, Answer):
        _accepted(answer)
    if answer.error is not None:
        raise answer.error from answer.error.__cause__
    return answer.value


def _get(reference: ray.ObjectRef[Any]) -> Any:
    try:
        with waiting():
            return ray.get(reference)
    except RayTaskError as error:
        raise unwrap(error) from unwrap(error).__cause__
    except RaySystemError as error:
        # How Ray says that a value could not be unpickled in this process.
        if isinstance(error.client_exc, HoldfastError):
            raise error.client_exc from error.client_exc.__cause__
        raise


def unwrap(error: RayTaskError) -> BaseException:
    """The error that an actor raised, without Ray's wrapping, when it is one of ours."""
    return error.cause if isinstance(error.cause, HoldfastError | ValueError) else error


def _statuses(status_filter: Any) -> frozenset[WorkflowStatus]:
    if status_filter is None:
        return _EVERY_STATUS
    if isinstance(status_filter, str):
        status_filter = (status_filter,)
    if not isinstance(status_filter, Collection):
        raise TypeError(f"status_filter must be a status or a set of them, not {status_filter!r}")
    for status in status_filter:
        if not isinstance(status, str):
            raise TypeError(f"status_filter holds {status!r}, which is not a status")
    return frozenset(WorkflowStatus(status) for status in status_filter)
