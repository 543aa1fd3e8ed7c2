"""Failures, retries, `catch_exceptions` and `checkpoint=False` in the DAG API."""

from __future__ import annotations

import os
import traceback

import pytest
import ray

from holdfast import workflow
from holdfast.engine import errors
from tests.integration.traces import mark, marks

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def fail_until(path, times, kind=ValueError):
    """Fails until it has left so many traces."""
    mark(path)
    if len(marks(path)) <= times:
        raise kind("not yet")
    return "done"


@ray.remote
def die_until(path, times):
    mark(path)
    if len(marks(path)) <= times:
        os._exit(1)
    return "done"


@ray.remote
def alternate(path, deaths, raises):
    """Dies a number of times, then raises a number of times, then succeeds."""
    mark(path)
    runs = len(marks(path))
    if runs <= deaths:
        os._exit(1)
    if runs <= deaths + raises:
        raise ValueError("not yet")
    return "done"


@ray.remote
def boom(text="boom"):
    raise ValueError(text)


def with_options(function, **options):
    return function.options(**workflow.options(**options))


# -- retries -----------------------------------------------------------------------------------------------------------


def test_an_exception_is_not_retried_unless_asked_for(wid, tmp_path) -> None:
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(fail_until.bind(tmp_path / "traces", 1))
    assert len(marks(tmp_path / "traces")) == 1


def test_exceptions_are_retried_with_retry_exceptions(tmp_path) -> None:
    by_ray = fail_until.options(max_retries=2, retry_exceptions=True)
    assert workflow.run(by_ray.bind(tmp_path / "ray", 2)) == "done"
    by_option = with_options(fail_until, max_retries=2, retry_exceptions=True)
    assert workflow.run(by_option.bind(tmp_path / "option", 2)) == "done"
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(by_ray.bind(tmp_path / "too often", 3))
    assert isinstance(failure.value.__cause__, ValueError)
    assert len(marks(tmp_path / "too often")) == 3


def test_the_default_is_three_retries(tmp_path) -> None:
    assert workflow.run(fail_until.options(retry_exceptions=True).bind(tmp_path / "traces", 3)) == "done"
    assert len(marks(tmp_path / "traces")) == 4


def test_only_the_listed_types_are_retried(tmp_path) -> None:
    listed = with_options(fail_until, max_retries=5, retry_exceptions=[KeyError, OSError])
    assert workflow.run(listed.bind(tmp_path / "listed", 1, FileNotFoundError)) == "done"
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(listed.bind(tmp_path / "other", 1, ValueError))
    assert len(marks(tmp_path / "other")) == 1


def test_a_type_of_the_users_own_is_retried(tmp_path) -> None:
    class OwnError(Exception):
        pass

    @ray.remote(max_retries=1, retry_exceptions=[OwnError])
    def own():
        mark(tmp_path / "traces")
        if len(marks(tmp_path / "traces")) == 1:
            raise OwnError
        return "done"

    assert workflow.run(own.bind()) == "done"


def test_minus_one_retries_without_limit(tmp_path) -> None:
    endless = with_options(fail_until, max_retries=-1, retry_exceptions=True)
    assert workflow.run(endless.bind(tmp_path / "traces", 12)) == "done"


def test_max_retries_below_minus_one_is_refused() -> None:
    with pytest.raises(ValueError, match="-2"):
        workflow.options(max_retries=-2)
    with pytest.raises(ValueError, match="max_retries"):
        workflow.run(add.options(max_retries=-2).bind(1))


def test_deaths_of_workers_are_counted_and_retried(tmp_path) -> None:
    assert workflow.run(die_until.options(max_retries=1).bind(tmp_path / "traces", 1)) == "done"
    assert len(marks(tmp_path / "traces")) == 2


def test_deaths_and_exceptions_draw_on_one_counter(tmp_path) -> None:
    both = alternate.options(max_retries=2, retry_exceptions=True)
    assert workflow.run(both.bind(tmp_path / "enough", 1, 1)) == "done"
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(both.bind(tmp_path / "too few", 1, 2))
    assert len(marks(tmp_path / "too few")) == 3


def test_a_worker_killed_without_retries_fails_the_workflow_and_a_resume_succeeds(wid, tmp_path) -> None:
    path = tmp_path / "traces"
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(with_options(die_until, max_retries=0, task_id="mortal").bind(path, 1), workflow_id=wid)
    assert workflow.get_status(wid) == "FAILED"
    cause = failure.value.__cause__
    assert isinstance(cause, errors.WorkerLostError)
    assert "'mortal'" in str(cause)
    assert workflow.resume(wid) == "done"
    assert len(marks(path)) == 2


# -- how a failure reads -----------------------------------------------------------------------------------------------


def test_the_error_shows_the_users_error_and_where_it_was_raised(wid) -> None:
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(with_options(boom, task_id="the-task").bind("the text"), workflow_id=wid)
    error = failure.value
    assert type(error.__cause__) is ValueError
    assert str(error.__cause__) == "the text"
    assert wid in str(error)
    assert "the-task" in str(error)
    shown = "".join(traceback.format_exception(error))
    # The line of the user's code, from the process that ran it.
    assert "raise ValueError(text)" in shown
    assert "in boom" in shown


def test_the_error_of_a_ref_shows_the_same(wid) -> None:
    ref = workflow.run_async(boom.bind("the text"), workflow_id=wid)
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        ray.get(ref)
    assert type(failure.value.__cause__) is ValueError
    assert wid in str(failure.value)
    shown = "".join(traceback.format_exception(failure.value))
    assert "raise ValueError(text)" in shown
    # How errors travel is of no interest to who reads one.
    assert "Sealed" not in shown


def test_the_cause_of_the_users_error_is_kept() -> None:
    @ray.remote
    def chained():
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(chained.bind())
    assert type(failure.value.__cause__) is RuntimeError
    assert type(failure.value.__cause__.__cause__) is KeyError


def test_an_error_that_cannot_be_pickled_is_described() -> None:
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__("only one")

    @ray.remote
    def odd():
        raise Odd(1, 2)

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(odd.bind())
    assert isinstance(failure.value.__cause__, errors.TaskError)
    assert "only one" in str(failure.value.__cause__)
    assert "Odd" in str(failure.value.__cause__)


def test_the_error_of_a_task_deep_below_is_the_cause() -> None:
    @ray.remote
    def deeper(n):
        return workflow.continuation(deeper.bind(n - 1) if n else add.bind(boom.bind("deep")))

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(deeper.bind(3))
    assert str(failure.value.__cause__) == "deep"


def test_an_execution_error_crosses_a_task_with_its_cause() -> None:
    @ray.remote(num_cpus=0)
    def plain():
        try:
            workflow.run(boom.bind("inner"))
        except workflow.WorkflowExecutionError as error:
            return error

    error = ray.get(plain.remote())
    assert type(error) is workflow.WorkflowExecutionError
    assert type(error.__cause__) is ValueError


# -- catch_exceptions --------------------------------------------------------------------------------------------------


def test_a_caught_error_is_a_value(wid) -> None:
    value, error = workflow.run(with_options(boom, catch_exceptions=True).bind("caught"), workflow_id=wid)
    assert value is None
    assert type(error) is ValueError
    assert str(error) == "caught"
    assert workflow.get_status(wid) == "SUCCESSFUL"
    assert workflow.run(with_options(add, catch_exceptions=True).bind(1, 2)) == (3, None)


def test_a_caught_error_is_an_input_of_another_task() -> None:
    @ray.remote
    def recover(result):
        value, error = result
        return value if error is None else f"recovered from {error}"

    caught = with_options(boom, catch_exceptions=True)
    assert workflow.run(recover.bind(caught.bind("x"))) == "recovered from x"
    assert workflow.run(recover.bind(with_options(add, catch_exceptions=True).bind(1))) == 1


def test_retries_come_before_the_catch(tmp_path) -> None:
    both = with_options(fail_until, catch_exceptions=True, max_retries=2, retry_exceptions=True)
    assert workflow.run(both.bind(tmp_path / "enough", 2)) == ("done", None)
    value, error = workflow.run(both.bind(tmp_path / "too few", 3))
    assert (value, type(error)) == (None, ValueError)


@ray.remote
def goes_on(n, node):
    return goes_on.bind(n - 1, node) if n else node


@ray.remote
def continue_to(kind):
    match kind:
        case "a value":
            return workflow.continuation(add.bind(1, 1))
        case "an error":
            return workflow.continuation(boom.bind("below"))
        case "an error further below":
            return workflow.continuation(continue_to.bind("an error"))
        case "an error of an input":
            return workflow.continuation(add.bind(boom.bind("below"), 1))
        case "an error of an input of an input":
            return workflow.continuation(add.bind(1, continue_to.bind("an error of an input")))
    return None


@pytest.mark.parametrize(
    "kind",
    ["an error", "an error further below", "an error of an input", "an error of an input of an input"],
)
def test_errors_anywhere_below_a_catching_task_are_caught_by_it_once(kind) -> None:
    value, error = workflow.run(with_options(continue_to, catch_exceptions=True).bind(kind))
    assert value is None
    assert (type(error), str(error)) == (ValueError, "below")


def test_a_catching_task_that_continues_wraps_its_value_once() -> None:
    assert workflow.run(with_options(continue_to, catch_exceptions=True).bind("a value")) == (2, None)


def test_each_of_several_catching_tasks_in_a_chain_wraps_once() -> None:
    @ray.remote
    def outer(kind):
        return workflow.continuation(with_options(continue_to, catch_exceptions=True).bind(kind))

    caught = with_options(outer, catch_exceptions=True)
    assert workflow.run(caught.bind("a value")) == ((2, None), None)
    (value, error), none = workflow.run(caught.bind("an error"))
    assert (value, str(error), none) == (None, "below", None)


def test_an_uncaught_branch_fails_the_workflow_though_another_is_caught() -> None:
    dag = add.bind(with_options(boom, catch_exceptions=True).bind("caught"), boom.bind("not caught"))
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(dag)
    assert str(failure.value.__cause__) == "not caught"


def test_the_error_of_an_input_is_not_caught_by_the_task_that_takes_it() -> None:
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(with_options(add, catch_exceptions=True).bind(boom.bind("of an input")))
    assert str(failure.value.__cause__) == "of an input"


def test_the_death_of_a_worker_is_not_caught(wid, tmp_path) -> None:
    mortal = with_options(die_until, catch_exceptions=True, max_retries=0)
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(mortal.bind(tmp_path / "traces", 1), workflow_id=wid)
    assert workflow.get_status(wid) == "FAILED"
    assert workflow.resume(wid) == ("done", None)


# -- retry=, timeout_s= ------------------------------------------------------------------------------------------------


def test_retry_with_back_off(tmp_path) -> None:
    patient = with_options(fail_until, retry=workflow.Retry(max_attempts=3, initial_s=0.05, factor=1.0, jitter=0.0))
    assert workflow.run(patient.bind(tmp_path / "enough", 2)) == "done"
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(patient.bind(tmp_path / "too few", 3))
    assert len(marks(tmp_path / "too few")) == 3


def test_a_non_retryable_error_is_final(tmp_path) -> None:
    policy = workflow.Retry(max_attempts=5, initial_s=0.01, non_retryable=(KeyError,))
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(with_options(fail_until, retry=policy).bind(tmp_path / "traces", 1, KeyError))
    assert len(marks(tmp_path / "traces")) == 1


def test_an_attempt_ends_at_its_time_limit(tmp_path) -> None:
    @ray.remote(max_retries=0)
    def hangs():
        mark(tmp_path / "traces")
        while True:
            pass

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(with_options(hangs, timeout_s=0.3, task_id="slow").bind())
    assert isinstance(failure.value.__cause__, TimeoutError)
    assert "'slow'" in str(failure.value.__cause__)
    assert len(marks(tmp_path / "traces")) == 1


# -- checkpoint=False --------------------------------------------------------------------------------------------------


@ray.remote
def trace(path, value, *_):
    mark(path, str(value))
    return value


@ray.remote
def needs_file(path, *values):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return values


def test_what_was_not_checkpointed_is_computed_again_on_resume_if_needed(wid, tmp_path) -> None:
    gate, traces = tmp_path / "gate", tmp_path / "traces"
    kept = trace.bind(traces, "kept")
    volatile = with_options(trace, checkpoint=False)
    needed = volatile.bind(traces, "needed", kept)
    not_needed = trace.bind(traces, "after", volatile.bind(traces, "not needed"))
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(gate, needed, not_needed), workflow_id=wid)
    assert sorted(marks(traces)) == ["after", "kept", "needed", "not needed"]
    gate.touch()
    assert workflow.resume(wid) == ("needed", "after")
    assert sorted(marks(traces)) == ["after", "kept", "needed", "needed", "not needed"]


def test_checkpoint_false_is_inherited_by_the_tasks_below(wid, tmp_path) -> None:
    gate, traces = tmp_path / "gate", tmp_path / "traces"

    @ray.remote
    def parent():
        mark(traces, "parent")
        return workflow.continuation(trace.bind(traces, "child"))

    volatile = with_options(parent, checkpoint=False).bind()
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(gate, volatile), workflow_id=wid)
    gate.touch()
    assert workflow.resume(wid) == ("child",)
    assert marks(traces) == ["parent", "child"] * 2


def test_a_whole_workflow_without_checkpoints_gives_its_value(wid) -> None:
    volatile = with_options(add, checkpoint=False)
    assert workflow.run(volatile.bind(volatile.bind(1, 2), 3), workflow_id=wid) == 6
    assert workflow.get_status(wid) == "SUCCESSFUL"
