"""The row of a workflow that has just been submitted."""

from __future__ import annotations

from holdfast.actors import names
from holdfast.actors.operations import Submit
from holdfast.engine.queueing import Admission
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.storage.workflow_row import WorkflowRow


def new_row(submit: Submit, executor: str, admission: Admission, now_unix_s: float) -> WorkflowRow:
    """The row of a workflow; its number is given by the store.

    Args:
        submit: What was asked for.
        executor: Who is to drive it, unless it asks for one of its own.
        admission: Whether it starts now or waits for its turn.
        now_unix_s: The time.
    """
    admitted = admission is Admission.ADMITTED
    return WorkflowRow(
        seq=0,
        workflow_id=submit.workflow_id,
        status=next_status(WorkflowStatus.NONE, StatusSignal.ADMITTED if admitted else StatusSignal.QUEUED),
        executor=names.dedicated_executor_name(submit.nonce, 1) if submit.dedicated else executor,
        user_metadata=submit.user_metadata,
        submitted_unix_s=now_unix_s,
        started_unix_s=now_unix_s if admitted else None,
        nonce=submit.nonce,
        environment=submit.environment,
        dedicated=submit.dedicated,
        schedule=submit.schedule,
    )
