"""Workflows that a call of a virtual actor goes on with: submitted, followed to their end, their value brought home.

All of it may be done again after a crash: the submission carries the same mark,
and the value is copied before the call that it ends is committed.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.error_values import dump_error, load_error
from holdfast.actors.operations import Accepted, Elsewhere
from holdfast.actors.requests import SubmitRequest
from holdfast.actors.storage_access import StorageAccess, object_keys
from holdfast.actors.task_runner import load_value
from holdfast.actors.user_code import described
from holdfast.actors.values import dump
from holdfast.engine.errors import (
    StorageError,
    WorkflowCancellationError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
)
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value
from holdfast.engine.virtual_actor_errors import IdTakenError
from holdfast.engine.virtual_actor_signals import StartSubWorkflow, SubWorkflowEnded
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring
from holdfast.storage.retention import OF_ACTOR
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")

_LOOK_AGAIN_S = 0.5


class SubWorkflows:
    """Follows them.

    Args:
        folder: The storage folder.
        storage: The same, as this process sees it.
        environment: The runtime environment of this process: they run in it.
        executors: Names of the pool.
    """

    def __init__(
        self, folder: StorageFolder, storage: StorageAccess, environment: bytes, executors: tuple[str, ...]
    ) -> None:
        self._folder, self._storage, self._environment, self._executors = folder, storage, environment, executors

    async def follow(
        self, row: ActorRow, command: StartSubWorkflow, is_over: Callable[[], bool]
    ) -> SubWorkflowEnded | None:
        """Submit a workflow, unless that is done already, and wait until it has ended.

        Args:
            row: The actor.
            command: What to submit.
            is_over: Says whether the call was ended by somebody: then its workflow is cancelled.

        Returns:
            How it ended; None when the call was over before.
        """
        sub = command.sub
        request = SubmitRequest(
            workflow_id=sub.workflow_id,
            nonce=sub.nonce,
            graph=sub.request.graph,
            code={},
            user_metadata={**sub.request.user_metadata, OF_ACTOR: row.actor_id},
            environment=self._environment,
        )
        submitted = resumed = False
        while True:
            with self._folder.kv.read() as txn:
                found = store.find(txn, sub.workflow_id)
                output = (
                    store.read_output(txn, found.seq, found.output, found.output_origin)
                    if found is not None and found.status is WorkflowStatus.SUCCESSFUL and found.output is not None
                    else None
                )
            try:
                if is_over():
                    # It may have been submitted after somebody has ended the call.
                    await self.end(sub.workflow_id, row.actor_id)
                    return None
                if found is not None and found.nonce != sub.nonce:
                    if found.user_metadata.get(OF_ACTOR) != row.actor_id or found.status.active:
                        return self._failed(sub.workflow_id, IdTakenError(sub.workflow_id, "workflow"))
                    # Of an actor of this id that was deleted.
                    await self._ask(sub.workflow_id, "delete", sub.workflow_id, uuid.uuid4().hex)
                elif found is None:
                    if submitted:
                        # It was deleted, by somebody, before it could be read.
                        return self._failed(sub.workflow_id, WorkflowNotFoundError(sub.workflow_id))
                    outcome = await self._ask(sub.workflow_id, "submit", request)
                    if isinstance(outcome, BaseException):
                        return self._failed(sub.workflow_id, outcome)
                    submitted = isinstance(outcome, Accepted)
                elif found.status.active:
                    await self._wait(found)
                elif output is not None:
                    return await asyncio.to_thread(self._brought, found, output, row.nonce)
                elif found.status is WorkflowStatus.RESUMABLE or (command.resumes and not resumed):
                    resumed = True
                    await self._ask(sub.workflow_id, "resume", sub.workflow_id, uuid.uuid4().hex)
                else:
                    return await asyncio.to_thread(self._ended_badly, found)
            except (RayError, StorageError) as error:
                # An executor that is starting again, a full disk: the store says how far it came.
                log.info("a workflow of a virtual actor is looked at again workflow_id=%s: %s", sub.workflow_id, error)
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def end(self, workflow_id: str, actor_id: str) -> None:
        """Cancel the workflow of a call that is over, unless it has ended. Another call's workflow stays as it is."""
        while True:
            with self._folder.kv.read() as txn:
                found = store.find(txn, workflow_id)
            if found is None or found.user_metadata.get(OF_ACTOR) != actor_id:
                return
            if not found.status.active and found.status is not WorkflowStatus.RESUMABLE:
                return
            try:
                await self._ask(workflow_id, "cancel", workflow_id, uuid.uuid4().hex)
                return
            except RayError as error:
                log.info("actor.workflow_cancelled_again workflow_id=%s error=%s", workflow_id, error)
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _ask(self, workflow_id: str, method: str, *arguments: Any) -> Any:
        name = names.executor_for(workflow_id, self._executors)
        while True:
            try:
                executor = ray.get_actor(name, namespace=names.NAMESPACE)
            except ValueError:
                await asyncio.sleep(_LOOK_AGAIN_S)
                name = names.executor_for(workflow_id, self._executors)
                continue
            outcome = await getattr(executor, method).remote(*arguments)
            if not isinstance(outcome, Elsewhere):
                return outcome
            name = outcome.executor

    async def _wait(self, found: WorkflowRow) -> None:
        try:
            executor = ray.get_actor(found.executor, namespace=names.NAMESPACE)
        except ValueError:
            await asyncio.sleep(_LOOK_AGAIN_S)
            return
        await executor.wait_for_answer.remote(found.workflow_id, None)

    def _brought(self, found: WorkflowRow, value: Value, group: str) -> SubWorkflowEnded:
        try:
            return SubWorkflowEnded(workflow_id=found.workflow_id, value=self._bring(found, value, group))
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's value may refuse to be loaded with any error
            return self._failed(found.workflow_id, error)

    def _bring(self, found: WorkflowRow, value: Value, group: str) -> Payload | Blob | Referring | None:
        """A value in a form that outlives the workflow: its large parts copied to the actor's."""
        base = value.base
        if not value.caught and not value.wraps and (base is None or isinstance(base, Payload)):
            return base
        loaded = load_value(self._storage, found.workflow_id, found.nonce, value, for_user=True)
        if loaded is None:
            return None
        objects: dict[str, Payload] = {}
        payload = dump(loaded, objects=objects, where=f"the output of workflow {found.workflow_id!r}")
        stored = self._storage.store_value(payload, group, durable=True)
        if not objects:
            return stored
        self._storage.store_objects(objects, group)
        return Referring(stored, object_keys(objects))

    def _ended_badly(self, found: WorkflowRow) -> SubWorkflowEnded:
        if found.status is WorkflowStatus.CANCELED:
            return self._failed(found.workflow_id, WorkflowCancellationError(found.workflow_id))
        cause = load_error(found.error) if isinstance(found.error, Payload) else found.error
        detail = f"Task {found.failed_task_id!r} failed." if found.failed_task_id else str(found.error)
        return self._failed(found.workflow_id, WorkflowExecutionError(found.workflow_id, detail, cause))

    def _failed(self, workflow_id: str, error: BaseException) -> SubWorkflowEnded:
        return SubWorkflowEnded(workflow_id=workflow_id, error=dump_error(error, ""), said=described(error))
