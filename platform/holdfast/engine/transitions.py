"""Workflow status and its transitions.

Everything that decides a workflow's status lives here, as one table and one
lookup. Nothing here reads storage, the clock or Ray, and no other module
compares a status to choose the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class WorkflowStatus(str, Enum):
    """Where a workflow stands. Equal to its plain string.

    NONE: no such workflow. PENDING: accepted, waiting for a free place.
    RUNNING: driven by an executor, or put away while it waits. RESUMABLE: the
    cluster that drove it is gone. SUCCESSFUL, FAILED, CANCELED: ended.
    """

    NONE = "NONE"
    RUNNING = "RUNNING"
    CANCELED = "CANCELED"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    RESUMABLE = "RESUMABLE"
    PENDING = "PENDING"

    def __str__(self) -> str:
        return self.value

    @property
    def active(self) -> bool:
        """Whether somebody owes this workflow progress (RUNNING or PENDING)."""
        return self in (WorkflowStatus.RUNNING, WorkflowStatus.PENDING)

    @property
    def ended(self) -> bool:
        """Whether nothing more happens unless somebody asks for it."""
        return self in (WorkflowStatus.SUCCESSFUL, WorkflowStatus.FAILED, WorkflowStatus.CANCELED)


class StatusSignal(str, Enum):
    """What can change a workflow's status."""

    ADMITTED = "ADMITTED"
    QUEUED = "QUEUED"
    OUTPUT_SAVED = "OUTPUT_SAVED"
    TASK_FAILED = "TASK_FAILED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    CLUSTER_LOST = "CLUSTER_LOST"


_S, _T = WorkflowStatus, StatusSignal

TRANSITIONS: Mapping[tuple[WorkflowStatus, StatusSignal], WorkflowStatus] = {
    (_S.NONE, _T.ADMITTED): _S.RUNNING,
    (_S.NONE, _T.QUEUED): _S.PENDING,
    (_S.PENDING, _T.ADMITTED): _S.RUNNING,
    (_S.PENDING, _T.CANCEL_REQUESTED): _S.CANCELED,
    # A queued workflow holds nothing that the cluster's loss could take away.
    (_S.PENDING, _T.CLUSTER_LOST): _S.PENDING,
    (_S.RUNNING, _T.OUTPUT_SAVED): _S.SUCCESSFUL,
    (_S.RUNNING, _T.TASK_FAILED): _S.FAILED,
    (_S.RUNNING, _T.CANCEL_REQUESTED): _S.CANCELED,
    (_S.RUNNING, _T.CLUSTER_LOST): _S.RESUMABLE,
    (_S.RESUMABLE, _T.ADMITTED): _S.RUNNING,
    (_S.RESUMABLE, _T.QUEUED): _S.PENDING,
    (_S.RESUMABLE, _T.CANCEL_REQUESTED): _S.CANCELED,
    (_S.RESUMABLE, _T.CLUSTER_LOST): _S.RESUMABLE,
    (_S.FAILED, _T.ADMITTED): _S.RUNNING,
    (_S.FAILED, _T.QUEUED): _S.PENDING,
    # Cancelling what has failed makes the refusal to resume it explicit.
    (_S.FAILED, _T.CANCEL_REQUESTED): _S.CANCELED,
    (_S.FAILED, _T.CLUSTER_LOST): _S.FAILED,
    (_S.CANCELED, _T.CANCEL_REQUESTED): _S.CANCELED,
    (_S.CANCELED, _T.CLUSTER_LOST): _S.CANCELED,
    (_S.SUCCESSFUL, _T.CLUSTER_LOST): _S.SUCCESSFUL,
    # A workflow that has already succeeded stays so: cancel came too late.
    (_S.SUCCESSFUL, _T.CANCEL_REQUESTED): _S.SUCCESSFUL,
}


class IllegalTransitionError(RuntimeError):
    """A status change that the table does not hold: a defect in Holdfast, never a user's."""

    def __init__(self, status: WorkflowStatus, signal: StatusSignal) -> None:
        super().__init__(status, signal)
        self.status, self.signal = status, signal

    def __str__(self) -> str:
        return f"no transition from {self.status.value} on {self.signal.value}"


def next_status(status: WorkflowStatus, signal: StatusSignal) -> WorkflowStatus:
    """Look the next status up.

    Raises:
        IllegalTransitionError: The table has no such row.
    """
    try:
        return TRANSITIONS[status, signal]
    except KeyError:
        raise IllegalTransitionError(status, signal) from None
