"""Where the running code stands."""

from __future__ import annotations

from holdfast.actors.task_context import current_task

__all__ = ["get_current_task_id", "get_current_workflow_id"]


def get_current_workflow_id() -> str | None:
    """The id of the workflow whose task runs this code; None outside of one."""
    task = current_task()
    return None if task is None else task.workflow_id


def get_current_task_id() -> str | None:
    """The id of the task that runs this code; None outside of one."""
    task = current_task()
    return None if task is None else task.task_id
