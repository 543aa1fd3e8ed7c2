"""The row of a workflow, and what can be read of one of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.graph import NodeSpec, TaskIndex
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRow:
    """One workflow as the store knows it.

    Attributes:
        seq: Number in order of submission.
        workflow_id, status: As the user sees them.
        executor: Name of the executor that drives it, or drove it last.
        user_metadata: The user's own, JSON.
        submitted_unix_s: When it was first accepted.
        started_unix_s, ended_unix_s: Last start and end; None when there was none, or it has been taken up again.
        nonce: Mark of the submission, so that one that is sent again is known.
        resumed_by: Mark of the last request that resumed it, for the same reason; empty for none.
        environment: Hash of the runtime environment in the code store; empty for none.
        dedicated: Whether it was submitted to run in an executor of its own.
        schedule: Name of the schedule that it is a run of; empty for none.
        queue_number: Its place in the queue, while PENDING.
        events_from: Number of the last event of all outside sources when it was submitted: it reads those after it.
        output: The value; None unless SUCCESSFUL.
        error, failed_task_id: What ended it and where; None and empty unless FAILED.
    """

    seq: int
    workflow_id: str
    status: WorkflowStatus
    executor: str
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    submitted_unix_s: float = 0.0
    started_unix_s: float | None = None
    ended_unix_s: float | None = None
    nonce: str = ""
    resumed_by: str = ""
    environment: str = ""
    dedicated: bool = False
    schedule: str = ""
    queue_number: int | None = None
    events_from: int = 0
    output: Value | None = None
    output_origin: TaskIndex | None = None
    error: Any = None
    failed_task_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as the store knows it.

    Attributes:
        index, node: The task, and what it was asked to do.
        state: "finished", "continuing", "failed", or "" when nothing is logged of its execution.
        value: Its value, once finished.
        error: Its error, once failed.
        started_unix_s, ended_unix_s: Of its own execution; None when not known yet.
    """

    index: TaskIndex
    node: NodeSpec
    state: str = ""
    value: Value | None = None
    error: Any = None
    started_unix_s: float | None = None
    ended_unix_s: float | None = None
