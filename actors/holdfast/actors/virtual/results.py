"""What the methods of virtual actors leave behind: values, states, graphs and errors, in a form that can be stored.

What is large is durable when these functions return. Nothing here is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.actors.error_values import dump_error
from holdfast.actors.graph_builder import build, refuse_node
from holdfast.actors.nodes import StepNode, is_actor_node, is_task
from holdfast.actors.storage_access import StorageAccess, object_keys, portable
from holdfast.actors.task_options import is_retryable
from holdfast.actors.task_runner import settle_arguments
from holdfast.actors.user_code import described, runs_user_code, traceback_of
from holdfast.actors.values import dump
from holdfast.actors.virtual.carried_steps import carry_step
from holdfast.actors.virtual.definition import ActorDefinition, definition_of
from holdfast.actors.virtual.operations import ReminderChange, SetReminder
from holdfast.actors.virtual.requests import CONSTRUCTOR
from holdfast.actors.virtual.state import encode_state, state_of
from holdfast.actors.virtual.work import Continued, Raised, Returned, Work
from holdfast.engine.graph import Graph
from holdfast.engine.virtual_actor_signals import UNCHANGED, Unchanged
from holdfast.storage.actor_row import ActorState
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring


class Results:
    """Stores them.

    Args:
        storage: Where large values go.
        store_code: Makes code durable.
    """

    def __init__(self, storage: StorageAccess, store_code: Callable[[Mapping[str, bytes]], None]) -> None:
        self._storage, self._store_code = storage, store_code

    @runs_user_code
    def written(self, work: Work, instance: Any, result: Any, started: float) -> Returned | Continued:
        """What a method that may write has come to.

        Args:
            work: The method.
            instance: The object that it ran on.
            result: What it returned.
            started: When it began, in seconds since the epoch.
        """
        ended = time.time()
        cls: type = type(instance)
        definition = definition_of(cls)
        graph: Graph | None = None
        value: Payload | Blob | Referring | None = None
        if is_actor_node(result):
            refuse_node(result)
        if work.inside and isinstance(result, StepNode):
            # The task that asked for this returns it: it goes on there.
            value = portable(dump(result, objects={}, node_hook=carry_step, where=f"what {work.method!r} returned"))
        elif is_task(result) and work.method != CONSTRUCTOR:
            if work.inside:
                raise TypeError(
                    f"{work.method!r} runs as a step of its own actor and returned {result!r}: there it can go on with "
                    "steps only, f.step(...) or self.method.step(...)"
                )
            graph = self._store_graph(work, result)
        elif work.method != CONSTRUCTOR:
            value = self._store_value(work, result)
        state = self._store_state(work, definition, instance)
        reminders = tuple(self._store_reminder(work, change) for change in work.context.reminders)
        if graph is not None:
            return Continued(graph=graph, state=state, reminders=reminders, started_unix_s=started, ended_unix_s=ended)
        return Returned(value=value, state=state, reminders=reminders, started_unix_s=started, ended_unix_s=ended)

    @runs_user_code
    def read_only(self, work: Work, result: Any, started: float) -> Returned:
        """What a method that only reads has come to. Nothing is stored."""
        if is_task(result) or is_actor_node(result):
            raise TypeError(
                f"the read-only method {work.method!r} returned {result!r}: only a method that may write can go on "
                "with steps"
            )
        objects: dict[str, Payload] = {}
        payload = dump(result, objects=objects, where=f"the result of {work.method!r}")
        if objects:
            raise TypeError(
                f"the read-only method {work.method!r} returned an ObjectRef: what it stands for is stored by methods "
                "that may write. Return the value itself"
            )
        return Returned(value=portable(payload), state=UNCHANGED, started_unix_s=started, ended_unix_s=time.time())

    def raised(self, work: Work, error: BaseException, started: float) -> Raised:
        """What a method has come to that raised, or that could not be called, or left what cannot be stored."""
        return Raised(
            error=portable(dump_error(error, traceback_of(error))),
            said=described(error),
            retryable=is_retryable(work.exception_filter, error),
            started_unix_s=started,
            ended_unix_s=time.time(),
        )

    def _store_value(self, work: Work, value: Any) -> Payload | Blob | Referring | None:
        if value is None:
            return None
        objects: dict[str, Payload] = {}
        payload = dump(value, objects=objects, where=f"the result of {work.method!r}")
        base = self._storage.store_value(payload, work.group, durable=True)
        if not objects:
            return base
        self._storage.store_objects(objects, work.group)
        return Referring(base, object_keys(objects))

    @runs_user_code
    def _store_state(self, work: Work, definition: ActorDefinition, instance: Any) -> ActorState | Unchanged:
        objects: dict[str, Payload] = {}
        where = f"the state of virtual actor {work.context.actor_id!r}"
        payload, json = encode_state(state_of(definition, instance), objects=objects, where=where)
        version, before = definition.settings.version, work.state
        if (
            before is not None
            and isinstance(before.base, Payload)
            and not payload.buffers
            and (before.json, before.class_version) == (json, version)
            and before.base.inband == payload.inband
        ):
            return UNCHANGED
        self._storage.store_objects(objects, work.group)
        return ActorState(self._storage.store_value(payload, work.group, durable=True), json, version)

    def _store_reminder(self, work: Work, change: ReminderChange) -> ReminderChange:
        if not isinstance(change, SetReminder) or not isinstance(change.arguments, Payload):
            return change
        return replace(change, arguments=self._storage.store_value(change.arguments, work.group, durable=True))

    def _store_graph(self, work: Work, node: Any) -> Graph:
        draft = build(node)
        if draft.workflow_ids:
            raise ValueError(
                f"{work.method!r} returned a task of workflow {sorted(draft.workflow_ids)[0]!r}: a remaining task of "
                "workflow.wait can be used in its own workflow only"
            )
        self._store_code(draft.code)
        self._storage.store_objects(draft.objects, work.sub_group)
        return settle_arguments(
            draft.graph, lambda payload: self._storage.store_value(payload, work.sub_group, durable=True)
        )
