"""Every error says what went wrong and what to do, and is the same on the other side of a process border."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import ray.cloudpickle

from holdfast.engine import errors
from holdfast.engine.transitions import IllegalTransitionError, StatusSignal, WorkflowStatus
from holdfast.workflow import exceptions

# Arguments of each class, and what its message has to name.
_STORAGE = (("file:///srv/hf", "it is broken", "Mend it."), ("file:///srv/hf", "it is broken", "Mend it."))
EXAMPLES: dict[type[BaseException], tuple[tuple[Any, ...], tuple[str, ...]]] = {
    errors.HoldfastError: (("what happened",), ("what happened",)),
    errors.WorkflowError: (("what happened",), ("what happened",)),
    errors.WorkflowExecutionError: (
        ("order-7", "Task 'charge' failed.", ValueError("no money")),
        ("order-7", "Task 'charge' failed.", "workflow.resume('order-7')"),
    ),
    errors.OutputNotAvailableError: (
        ("order-7", "Task 'charge' failed.", ValueError("no money")),
        ("order-7", "Task 'charge' failed."),
    ),
    errors.WorkflowCancellationError: (("order-7",), ("order-7", "cancelled", "Delete it")),
    errors.WorkflowNotFoundError: (("order-7", "/srv/hf"), ("order-7", "/srv/hf", "workflow.list_all()")),
    errors.WorkflowNotResumableError: (("order-7", "it was cancelled"), ("order-7", "it was cancelled")),
    errors.WorkflowTaskNotRecoverableError: (("charge", "its code is gone"), ("charge", "its code is gone")),
    errors.WorkflowStillActiveError: (("DELETE", "order-7"), ("DELETE", "order-7", "workflow.cancel('order-7')")),
    errors.WorkflowEventHandleError: (("order-7", "the listener refused it"), ("order-7", "the listener refused it")),
    errors.ExecutorReplacedError: (("holdfast-executor-0",), ("holdfast-executor-0", "must end")),
    errors.WorkflowEndedError: (("order-7", "SUCCESSFUL"), ("order-7", "SUCCESSFUL")),
    errors.WorkflowDefectError: (
        ("order-7", "KeyError: 3"),
        ("order-7", "KeyError: 3", "workflow.resume('order-7')"),
    ),
    errors.ExecutorNotFoundError: (
        ("order-7", "holdfast-executor-of-7", 120.4),
        ("order-7", "holdfast-executor-of-7", "120 s", "workflow.platform_status()"),
    ),
    errors.InvalidGraphError: (
        ("the graph is cyclic", "break the circle"),
        ("the graph is cyclic", "break the circle"),
    ),
    errors.InvalidWorkflowIdError: (("''", "is empty"), ("''", "is empty", "1,024 bytes")),
    errors.StaleLeaseError: (("order-7", 3, 4), ("order-7", "3", "4")),
    errors.PlacementLostError: (("resources", "node 'n'"), ("'resources'", "node 'n'", "label_selector")),
    errors.TaskTimeoutError: (("charge", 2.5), ("charge", "timeout_s=2.5")),
    errors.ScheduleNotFoundError: (("nightly", "/store"), ("nightly", "/store", "list_schedules")),
    errors.ScheduleExistsError: (("nightly", "another cron"), ("nightly", "another cron", "replace=True")),
    errors.ExtraNotInstalledError: (("Events over HTTP", "serve", "no module"), ("serve", "pip install", "no module")),
    errors.EventTimeoutError: (("paid", 2.5), ("paid", "timeout_s=2.5")),
    errors.WorkerLostError: (("charge", "out of memory"), ("charge", "out of memory")),
    errors.ResultNotStoredError: (
        ("a lock in the result", "Return a name."),
        ("a lock in the result", "Return a name."),
    ),
    errors.ResultNotLoadableError: (
        ("the value of workflow 'order-7'", "ImportError: no shop"),
        ("order-7", "ImportError: no shop", "__setstate__"),
    ),
    errors.TaskError: (("shop.Broke", "no money", "Traceback ..."), ("shop.Broke", "no money", "args")),
    errors.UserCodeExitError: (
        ("SystemExit", "no config file", SystemExit("no config file")),
        ("SystemExit", "no config file", "raise an Exception"),
    ),
    errors.StepNotPicklableError: (("charge",), ("charge", ".step(")),
    errors.InvalidNumberError: (
        ("timeout_s", "a number of seconds above 0", "nan"),
        ("timeout_s must be a number of seconds above 0, not nan",),
    ),
    errors.NotANumberError: (
        ("timeout_s", "a number of seconds above 0", "Decimal('1')"),
        ("timeout_s must be a number of seconds above 0, not Decimal('1')", "float(...)"),
    ),
    errors.MetadataTooLargeError: (("metadata", 70_000, 65_536), ("metadata", "70,000", "65,536", "elsewhere")),
    errors.NotJsonError: (("metadata['a']", "is nan"), ("metadata['a'] is nan",)),
    errors.SecretMissingError: (("the file /run/p", "it is empty"), ("the file /run/p", "it is empty")),
    errors.KafkaNotReachedError: (
        ("default", "a:9092", "it refuses the user 'shop'", "Check the password."),
        ("'default'", "a:9092", "it refuses the user 'shop'", "Check the password."),
    ),
    errors.DeadLetterNotFoundError: ((7,), ("7", "workflow.dead_letters()")),
    errors.DeadLetterNotReplayableError: ((7, "it is not JSON", "Give one."), ("7", "it is not JSON", "Give one.")),
    errors.StorageError: _STORAGE,
    errors.StorageNotWritableError: _STORAGE,
    errors.StorageFullError: _STORAGE,
    errors.StorageFormatError: _STORAGE,
    errors.StorageCorruptError: _STORAGE,
    errors.StorageLockedError: _STORAGE,
    errors.StorageMissingError: _STORAGE,
}
ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]


def test_every_error_of_the_engine_has_an_example_here() -> None:
    assert set(ALL) == set(EXAMPLES)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_message_names_the_values_and_the_fix(kind: type[BaseException]) -> None:
    arguments, named = EXAMPLES[kind]
    message = str(kind(*arguments))
    assert [text for text in named if text not in message] == []


@pytest.mark.parametrize("pickler", [pickle, ray.cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_pickling_keeps_the_type_the_message_and_the_attributes(kind: type[BaseException], pickler: Any) -> None:
    error = kind(*EXAMPLES[kind][0])
    again = pickler.loads(pickler.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert {name: repr(value) for name, value in vars(again).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }
    assert repr(again.__cause__) == repr(error.__cause__)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_can_be_caught_as_one_of_holdfast(kind: type[BaseException]) -> None:
    assert issubclass(kind, errors.HoldfastError)


# These end an executor's process, or a run within one, and never come to a user.
INSIDE = (errors.StaleLeaseError, errors.ExecutorReplacedError)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in INSIDE], ids=lambda k: k.__name__)
def test_users_find_every_error_they_can_meet_in_exceptions(kind: type[BaseException]) -> None:
    assert getattr(exceptions, kind.__name__) is kind
    assert kind.__name__ in exceptions.__all__


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.WorkflowNotResumableError, ValueError),
        (errors.OutputNotAvailableError, ValueError),
        (errors.InvalidGraphError, ValueError),
        (errors.InvalidWorkflowIdError, ValueError),
        (errors.StepNotPicklableError, ValueError),
        (errors.ResultNotStoredError, TypeError),
        (errors.TaskTimeoutError, TimeoutError),
        (errors.StorageMissingError, KeyError),
    ],
)
def test_errors_are_what_code_written_for_the_original_catches(kind: type, also: type) -> None:
    assert issubclass(kind, also)


def test_the_cause_of_an_execution_error_survives_a_raise_from_nothing_and_pickling() -> None:
    cause = ValueError("no money")
    with pytest.raises(errors.WorkflowExecutionError) as raised:
        raise errors.WorkflowExecutionError("order-7", "", cause)
    assert raised.value.__cause__ is cause
    again = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(again.__cause__, ValueError)
    assert again.__cause__.args == ("no money",)


def test_an_error_that_ray_derives_from_ours_has_the_users_error_as_its_cause() -> None:
    ours = errors.WorkflowExecutionError("order-7", "", ValueError("no money"))
    derived = ray.exceptions.RayTaskError("output", "traceback", ours).as_instanceof_cause()
    assert isinstance(derived, errors.WorkflowExecutionError)
    assert isinstance(derived.__cause__, ValueError)


def test_a_status_change_that_cannot_be_names_both_sides() -> None:
    error = IllegalTransitionError(WorkflowStatus.SUCCESSFUL, StatusSignal.QUEUED)
    assert str(pickle.loads(pickle.dumps(error))) == "no transition from SUCCESSFUL on QUEUED"
