"""Every (status, signal) pair, written out once more and by hand."""

from __future__ import annotations

from itertools import product

import pytest

from holdfast.engine.transitions import IllegalTransitionError, StatusSignal, WorkflowStatus, next_status

SIGNALS = (
    StatusSignal.ADMITTED,
    StatusSignal.QUEUED,
    StatusSignal.OUTPUT_SAVED,
    StatusSignal.TASK_FAILED,
    StatusSignal.CANCEL_REQUESTED,
    StatusSignal.CLUSTER_LOST,
)

# One row per status, one column per signal in the order above; "-" is no transition.
EXPECTED = {
    "NONE": "RUNNING PENDING - - - -",
    "PENDING": "RUNNING - - - CANCELED PENDING",
    "RUNNING": "- - SUCCESSFUL FAILED CANCELED RESUMABLE",
    "RESUMABLE": "RUNNING PENDING - - CANCELED RESUMABLE",
    "FAILED": "RUNNING PENDING - - CANCELED FAILED",
    "CANCELED": "- - - - CANCELED CANCELED",
    "SUCCESSFUL": "- - - - SUCCESSFUL SUCCESSFUL",
}


@pytest.mark.parametrize(("status", "signal"), list(product(WorkflowStatus, StatusSignal)), ids=str)
def test_every_pair_of_status_and_signal(status: WorkflowStatus, signal: StatusSignal) -> None:
    expected = EXPECTED[status.value].split()[SIGNALS.index(signal)]
    if expected == "-":
        with pytest.raises(IllegalTransitionError, match=f"{status.value} on {signal.value}"):
            next_status(status, signal)
    else:
        assert next_status(status, signal) is WorkflowStatus(expected)


def test_a_status_equals_its_plain_string_and_reads_as_it() -> None:
    assert WorkflowStatus.RUNNING == "RUNNING"
    assert f"{WorkflowStatus.RUNNING}" == "RUNNING"


@pytest.mark.parametrize("status", WorkflowStatus)
def test_a_status_is_active_or_ended_or_owed_nothing(status: WorkflowStatus) -> None:
    assert not (status.active and status.ended)
    assert status.active == (status.value in {"RUNNING", "PENDING"})
    assert status.ended == (status.value in {"SUCCESSFUL", "FAILED", "CANCELED"})
