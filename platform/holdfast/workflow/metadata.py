"""What is told of a workflow and its tasks, in the form that users of the original know."""

from __future__ import annotations

from typing import Any

import ray

from holdfast.actors.client import Platform, fetch
from holdfast.actors.task_options import load_ray_options
from holdfast.engine.graph import NodeSpec
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage.workflow_row import TaskView, WorkflowRow
from holdfast.workflow.actor_administration import actor_metadata, call_metadata


def workflow_metadata(platform: Platform, workflow_id: str) -> dict[str, Any]:
    """About a workflow.

    Raises:
        ValueError: There is no such workflow.
    """
    row = _find_row(platform, workflow_id)
    if row is None:
        return _of_actor(actor_metadata(platform, workflow_id), workflow_id)
    return {
        "status": row.status,
        "user_metadata": dict(row.user_metadata),
        # A cancelled workflow came to no end: it was stopped.
        "stats": _stats(row.started_unix_s, None if row.status is WorkflowStatus.CANCELED else row.ended_unix_s),
    }


def task_metadata(platform: Platform, workflow_id: str, task_id: str) -> dict[str, Any]:
    """About one task of a workflow.

    Raises:
        ValueError: There is no such workflow or task.
    """
    row = _find_row(platform, workflow_id)
    if row is None:
        return _of_actor(call_metadata(platform, workflow_id, task_id), workflow_id)
    view: TaskView | None = ray.get(platform.management.task.remote(row.seq, task_id))
    if view is None:
        raise ValueError(f"No such task_id {task_id!r} in workflow {workflow_id!r}")
    started = view.started_unix_s
    if started is None and row.status.active:
        executor = platform.find_executor(row.executor)
        live = None if executor is None else ray.get(executor.live_task.remote(workflow_id, task_id))
        started = None if live is None else live[1]
    return {
        "task_id": task_id,
        "task_options": _options(view.node),
        "user_metadata": dict(view.node.options.metadata),
        "workflow_refs": ray.get(platform.management.task_ids.remote(row.seq, list(view.node.inputs))),
        "stats": _stats(started, view.ended_unix_s),
    }


def _find_row(platform: Platform, workflow_id: str) -> WorkflowRow | None:
    row: WorkflowRow | None = fetch(platform.management.workflow.remote(workflow_id))
    return row


def _of_actor(found: dict[str, Any] | None, workflow_id: str) -> dict[str, Any]:
    if found is None:
        raise ValueError(f"No such workflow_id {workflow_id!r}")
    return found


def _stats(started: float | None, ended: float | None) -> dict[str, float]:
    stats = {}
    if started:
        stats["start_time"] = started
    if ended:
        stats["end_time"] = ended
    return stats


def _options(node: NodeSpec) -> dict[str, Any]:
    options = node.options
    return {
        "task_type": node.kind.value.upper(),
        "max_retries": options.budget.deaths if options.budget.shared else options.budget.errors,
        "retry_exceptions": options.budget.errors != 0,
        "catch_exceptions": options.catch_exceptions,
        "checkpoint": options.checkpoint,
        "allow_inplace": options.in_place,
        "timeout_s": options.timeout_s,
        "ray_options": load_ray_options(options.ray_options),
    }
