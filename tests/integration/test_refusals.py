"""Bad input gets a typed error that names the value and the fix, and changes nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.dag import InputNode

from holdfast import workflow
from holdfast.actors.reply_signals import signal_of_loss
from holdfast.engine.signals import TaskLost
from holdfast.workflow.exceptions import (
    InvalidGraphError,
    InvalidWorkflowIdError,
    ResultNotLoadableError,
    ResultNotStoredError,
    StorageCorruptError,
    WorkerLostError,
    WorkflowEndedError,
    WorkflowExecutionError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
    WorkflowTaskNotRecoverableError,
)
from tests.ids import without_address
from tests.integration.leftovers import contents, nothing_left, until


@ray.remote
def give(value: Any = None) -> Any:
    return value


@ray.remote
def take(*values: Any) -> int:
    return len(values)


@workflow.step
def step_take(*values: Any) -> int:
    return len(values)


@ray.remote
class Counter:
    def count(self) -> int:
        return 1


@pytest.fixture(scope="module")
def actor(platform: Path) -> Any:
    return Counter.remote()


@pytest.fixture(autouse=True)
def platform_goes_on(platform: Path) -> Any:
    """Whatever was refused: the next workflow runs."""
    yield
    assert workflow.run(give.bind(41)) == 41


def refused_with(cause: type[BaseException], call: Callable[[], Any]) -> BaseException:
    """The cause that a run fails with."""
    with pytest.raises(WorkflowExecutionError) as failed:
        call()
    assert isinstance(failed.value.__cause__, cause)
    return failed.value.__cause__


# -- what cannot be stored ---------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[Callable[[Any], tuple[Any, ...]], str]] = {
    "top level": (lambda value: (value,), "[0][0]"),
    "nested": (lambda value: ({"deep": [1, value]},), "[0][0]['deep'][1]"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("generation", ["dag", "step"])
def test_an_actor_handle_as_argument_is_refused_at_the_call(
    platform: Path, actor: Any, place: str, generation: str
) -> None:
    arguments, path = PLACES[place]
    bind = take.bind if generation == "dag" else step_take.step
    with nothing_left(platform), pytest.raises(TypeError, match="an actor handle cannot be stored") as refused:
        workflow.run(bind(*arguments(actor)), workflow_id="refused")
    assert isinstance(refused.value, ResultNotStoredError)
    assert "Counter" in str(refused.value)
    assert path in str(refused.value)
    assert "ray.get_actor" in str(refused.value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("generation", ["dag", "step"])
def test_an_argument_that_cannot_be_pickled_is_refused_at_the_call(platform: Path, place: str, generation: str) -> None:
    arguments, path = PLACES[place]
    bind = take.bind if generation == "dag" else step_take.step
    with nothing_left(platform), pytest.raises(ResultNotStoredError, match="cannot be pickled") as refused:
        workflow.run_async(bind(*arguments(threading.Lock())), workflow_id="refused")
    assert "'lock'" in str(refused.value)
    assert path in str(refused.value)


def test_an_input_that_cannot_be_pickled_is_refused_at_the_call(platform: Path) -> None:
    with InputNode() as node:
        dag = take.bind(node)
    with nothing_left(platform), pytest.raises(ResultNotStoredError, match="the input of the workflow"):
        workflow.run(dag, threading.Lock())


@ray.remote
def return_actor(nested: bool) -> Any:
    actor = Counter.remote()
    return {"deep": [actor]} if nested else actor


@ray.remote
def return_lock() -> Any:
    return [threading.Lock()]


@pytest.mark.parametrize("nested", [False, True])
def test_an_actor_handle_as_result_fails_the_task_and_says_so(wid: str, nested: bool) -> None:
    cause = refused_with(TypeError, lambda: workflow.run(return_actor.bind(nested), workflow_id=wid))
    assert isinstance(cause, ResultNotStoredError)
    assert "actor handle cannot be stored" in str(cause)
    assert "return_actor" in str(cause)
    assert workflow.get_status(wid) == "FAILED"


def test_a_result_that_cannot_be_pickled_fails_the_task_and_names_it(wid: str) -> None:
    cause = refused_with(ResultNotStoredError, lambda: workflow.run(return_lock.bind(), workflow_id=wid))
    assert "'lock' at [0] of the result of task" in str(cause)
    assert "return_lock" in str(cause)


def test_the_users_error_is_the_cause_also_behind_a_reference(wid: str) -> None:
    refused_with(ResultNotStoredError, lambda: ray.get(workflow.run_async(return_lock.bind(), workflow_id=wid)))


@ray.remote
def continue_with_lock() -> Any:
    return workflow.continuation(take.bind(threading.Lock()))


def test_a_continuation_with_an_argument_that_cannot_be_pickled_fails_the_task(wid: str) -> None:
    cause = refused_with(ResultNotStoredError, lambda: workflow.run(continue_with_lock.bind(), workflow_id=wid))
    assert "'lock'" in str(cause)


# -- what cannot be loaded ---------------------------------------------------------------------------------------------


def never() -> None:
    raise RuntimeError("I cannot come back")


class Unloadable:
    def __init__(self, size: int) -> None:
        self.content = bytes(size)

    def __setstate__(self, state: Any) -> None:
        never()


@ray.remote
def make_unloadable(size: int) -> Unloadable:
    return Unloadable(size)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_result_that_the_driver_cannot_unpickle_is_a_clear_error_there_and_stays_stored(wid: str, size: int) -> None:
    for ask in (
        lambda: workflow.run(make_unloadable.bind(size), workflow_id=wid),
        lambda: workflow.get_output(wid),
        lambda: workflow.resume(wid),
    ):
        with pytest.raises(ResultNotLoadableError, match=f"(?s){wid}.*RuntimeError: I cannot come back"):
            ask()
    with pytest.raises(ray.exceptions.RaySystemError, match="I cannot come back"):
        ray.get(workflow.get_output_async(wid))
    assert workflow.get_status(wid) == "SUCCESSFUL"


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_result_that_a_task_cannot_unpickle_fails_that_task_and_names_it(wid: str, size: int) -> None:
    cause = refused_with(
        WorkflowTaskNotRecoverableError,
        lambda: workflow.run(take.bind(make_unloadable.bind(size)), workflow_id=wid),
    )
    assert "take" in str(cause)
    assert "RuntimeError: I cannot come back" in str(cause)
    assert workflow.get_status(wid) == "FAILED"


@ray.remote
def array() -> Any:
    return np.ones(100_000)


@ray.remote
def wait_for(path: str, value: Any) -> Any:
    Path(path + ".waits").touch()
    until(Path(path).exists)
    return value


def spoil(blob: Path, how: str) -> None:
    raw = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(raw[: len(raw) // 2] if how == "truncated" else b"x" * len(raw))


@pytest.mark.parametrize("how", ["truncated", "garbage"])
def test_a_corrupt_blob_fails_the_task_that_reads_it_and_names_the_file(
    platform: Path, tmp_path: Path, wid: str, how: str
) -> None:
    before = set(platform.glob("blobs/*/[0-9a-f]*"))
    gate = tmp_path / "gate"
    running = workflow.run_async(take.bind(array.bind(), wait_for.bind(str(gate), 1)), workflow_id=wid)
    (blob,) = until(lambda: set(platform.glob("blobs/*/[0-9a-f]*")) - before)
    until(lambda: "end_time" in workflow.get_metadata(wid, f"{__name__}.array")["stats"])
    spoil(blob, how)
    gate.touch()
    cause = refused_with(StorageCorruptError, lambda: ray.get(running))
    assert blob.name in str(cause)


def test_a_corrupt_output_is_a_clear_error_for_the_driver(platform: Path, wid: str) -> None:
    before = set(platform.glob("blobs/*/[0-9a-f]*"))
    workflow.run(array.bind(), workflow_id=wid)
    (blob,) = set(platform.glob("blobs/*/[0-9a-f]*")) - before
    spoil(blob, "truncated")
    for ask in (lambda: workflow.run(array.bind(), workflow_id=wid), lambda: workflow.get_output(wid)):
        with pytest.raises(StorageCorruptError, match=blob.name):
            ask()
    assert workflow.get_status(wid) == "SUCCESSFUL"


# -- graphs ------------------------------------------------------------------------------------------------------------


def cyclic() -> Any:
    inputs: list[Any] = []
    node = take.bind(inputs)
    inputs.append(give.bind(node))
    return node


def cyclic_to_itself() -> Any:
    inputs: dict[str, Any] = {}
    node = step_take.step(inputs)
    inputs["self"] = node
    return node


@pytest.mark.parametrize("graph", [cyclic, cyclic_to_itself])
def test_a_cyclic_graph_is_refused_and_a_task_of_the_circle_named(platform: Path, graph: Callable[[], Any]) -> None:
    with nothing_left(platform), pytest.raises(InvalidGraphError, match=r"cyclic: task '.*take' .*; break the circle"):
        workflow.run(graph(), workflow_id="refused")


@ray.remote
def continue_in_a_circle() -> Any:
    return workflow.continuation(cyclic())


def test_a_cyclic_continuation_fails_the_task(wid: str) -> None:
    refused_with(InvalidGraphError, lambda: workflow.run(continue_in_a_circle.bind(), workflow_id=wid))


def test_waiting_for_no_task_is_refused() -> None:
    with pytest.raises(InvalidGraphError, match="an empty list; give it at least one task"):
        workflow.wait([])


@pytest.mark.parametrize("value", [3, "text", None, give, [give.bind()]], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("call", ["run", "run_async", "create", "continuation"])
def test_what_is_not_a_node_is_refused_by_its_type(platform: Path, call: str, value: Any) -> None:
    with nothing_left(platform), pytest.raises(TypeError, match=f"made of nodes.*type '{type(value).__name__}'"):
        getattr(workflow, call)(value)


@pytest.mark.parametrize("call", ["run", "run_async", "create", "continuation"])
def test_an_actor_in_place_of_a_node_is_refused(platform: Path, call: str) -> None:
    with nothing_left(platform), pytest.raises(TypeError, match="Ray actor cannot be part of a workflow"):
        getattr(workflow, call)(Counter.bind())


def test_a_call_of_an_actor_among_the_inputs_is_refused(platform: Path) -> None:
    with nothing_left(platform), pytest.raises(TypeError, match="Ray actor cannot be part of a workflow"):
        workflow.run(take.bind(Counter.bind().count.bind()))


@pytest.mark.parametrize("metadata", [["list"], {"key": object()}, {1: 2}], ids=without_address)
def test_metadata_that_is_not_json_is_refused(platform: Path, metadata: Any) -> None:
    with nothing_left(platform), pytest.raises(ValueError, match="metadata must be"):
        workflow.run(give.bind(), metadata=metadata)


# -- ids ---------------------------------------------------------------------------------------------------------------

BAD_IDS = {
    "empty": ("", "is empty"),
    "1,025 bytes": ("x" * 1025, "has 1,025 bytes"),
    "1,026 bytes in 513 characters": ("é" * 513, "has 1,026 bytes"),
    "a number": (7, "is not a string but of type int"),
    "bytes": (b"id", "is not a string but of type bytes"),
    "half a surrogate pair": ("a\ud800", "is not valid text"),
}
ID_CALLS: dict[str, Callable[[Any], Any]] = {
    "run": lambda wid: workflow.run(give.bind(1), workflow_id=wid),
    "run_async": lambda wid: workflow.run_async(give.bind(1), workflow_id=wid),
    "create": lambda wid: workflow.create(give.bind(1)).run(workflow_id=wid),
    "step": lambda wid: step_take.step().run(workflow_id=wid),
    "resume": workflow.resume,
    "resume_async": workflow.resume_async,
    "get_output": workflow.get_output,
    "get_output_async": workflow.get_output_async,
    "get_status": workflow.get_status,
    "get_metadata": workflow.get_metadata,
    "cancel": workflow.cancel,
    "delete": workflow.delete,
    "send_event": lambda wid: workflow.send_event(wid, "key"),
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_an_id_that_cannot_be_used_is_refused_by_every_call(platform: Path, kind: str) -> None:
    bad, problem = BAD_IDS[kind]
    with nothing_left(platform):
        for call in ID_CALLS.values():
            with pytest.raises(InvalidWorkflowIdError, match=problem) as refused:
                call(bad)
            assert isinstance(refused.value, ValueError)
            assert repr(bad)[:40] in str(refused.value)
            assert "at most 1,024 bytes" in str(refused.value)


@pytest.mark.parametrize(
    "odd",
    ["../../etc/x", "/", "a/b\0c", "🦀", "é" * 512, "x" * 1024, " ", "a\nb", "None"],
    ids=lambda odd: ascii(odd)[:12],
)
def test_an_id_that_is_only_odd_works_everywhere(platform: Path, odd: str) -> None:
    assert workflow.run(give.bind(np.arange(20_000)), workflow_id=odd).sum() == 199_990_000
    assert (odd, "SUCCESSFUL") in workflow.list_all()
    assert workflow.get_output(odd).size == 20_000
    assert workflow.get_metadata(odd)["status"] == workflow.get_status(odd) == "SUCCESSFUL"
    assert not list(platform.parent.glob("etc*"))
    workflow.delete(odd)
    with pytest.raises(WorkflowNotFoundError):
        workflow.get_status(odd)


UNKNOWN: dict[str, tuple[type[Exception], str]] = {
    "resume": (WorkflowNotResumableError, "it does not exist"),
    "resume_async": (WorkflowNotResumableError, "it does not exist"),
    "get_output": (ValueError, "No such workflow_id"),
    "get_status": (WorkflowNotFoundError, "list_all"),
    "get_metadata": (ValueError, "No such workflow_id"),
    "cancel": (WorkflowNotFoundError, "list_all"),
    "delete": (WorkflowNotFoundError, "list_all"),
    "send_event": (WorkflowNotFoundError, "list_all"),
}


@pytest.mark.parametrize("call", UNKNOWN)
@pytest.mark.parametrize("kind", ["unknown", "deleted"])
def test_an_id_that_is_not_there_is_named_and_nothing_made_for_it(
    platform: Path, wid: str, kind: str, call: str
) -> None:
    if kind == "deleted":
        workflow.run(give.bind(1), workflow_id=wid)
        workflow.delete(wid)
    error, said = UNKNOWN[call]
    with nothing_left(platform), pytest.raises(error, match=said) as refused:
        ID_CALLS[call](wid)
    assert wid in str(refused.value)


def test_a_deleted_id_runs_afresh(wid: str) -> None:
    assert workflow.run(give.bind(1), workflow_id=wid) == 1
    workflow.delete(wid)
    assert workflow.run(give.bind(2), workflow_id=wid) == 2


def test_an_unknown_task_id_is_named(wid: str) -> None:
    workflow.run(give.bind(1), workflow_id=wid)
    for ask in (workflow.get_output, workflow.get_metadata):
        with pytest.raises(ValueError, match=f"No such task_id 'nobody' in workflow '{wid}'"):
            ask(wid, task_id="nobody")


def test_a_running_id_refuses_what_would_disturb_it(platform: Path, tmp_path: Path, wid: str) -> None:
    gate = tmp_path / "gate"
    running = workflow.run_async(wait_for.bind(str(gate), 7), workflow_id=wid)
    until(Path(f"{gate}.waits").exists)
    # Large, so that something was written before the id was looked at.
    large = give.bind(np.ones(50_000))
    with nothing_left(platform):
        for call in ("run", "run_async"):
            with pytest.raises(RuntimeError, match=f"(?s){wid}.*already running.*get_output"):
                getattr(workflow, call)(large, workflow_id=wid)
        for call in ("resume", "resume_async"):
            with pytest.raises(RuntimeError, match=f"{wid}.*already running"):
                ID_CALLS[call](wid)
        with pytest.raises(WorkflowStillActiveError, match=f"{wid}.*still active.*workflow.cancel"):
            workflow.delete(wid)
        assert workflow.get_status(wid) == workflow.get_metadata(wid)["status"] == "RUNNING"
    assert workflow.send_event(wid, "key") is True
    gate.touch()
    assert ray.get(running) == 7
    assert workflow.run(large, workflow_id=wid) == 7
    workflow.delete(wid)


def test_an_id_that_has_succeeded_runs_nothing_and_keeps_no_file_of_the_second_graph(platform: Path, wid: str) -> None:
    workflow.run(give.bind(1), workflow_id=wid)
    with nothing_left(platform):
        assert workflow.run(take.bind(np.ones(50_000)), workflow_id=wid) == 1


def test_an_event_for_a_workflow_that_is_over_is_refused(platform: Path, wid: str) -> None:
    workflow.run(give.bind(1), workflow_id=wid)
    with nothing_left(platform), pytest.raises(WorkflowEndedError, match=f"{wid}.*SUCCESSFUL"):
        workflow.send_event(wid, "key", "payload")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((1, None), TypeError, "key of an event must be a string, not 1"),
        (("a\ud800", None), ValueError, "not valid text"),
        (("key", threading.Lock()), TypeError, "the payload of event 'key'"),
    ],
    ids=["key", "surrogate", "payload"],
)
def test_an_event_that_cannot_be_stored_is_refused(
    platform: Path, tmp_path: Path, wid: str, arguments: Any, error: type[Exception], said: str
) -> None:
    gate = tmp_path / "gate"
    running = workflow.run_async(wait_for.bind(str(gate), 7), workflow_id=wid)
    until(Path(f"{gate}.waits").exists)
    with nothing_left(platform), pytest.raises(error, match=said):
        workflow.send_event(wid, *arguments)
    gate.touch()
    assert ray.get(running) == 7


# -- what Ray refuses --------------------------------------------------------------------------------------------------


def test_an_option_that_ray_refuses_fails_the_workflow_with_rays_reason(wid: str) -> None:
    cause = refused_with(ValueError, lambda: step_take.options(num_cpus=-1).step().run(workflow_id=wid))
    assert "num_cpus cannot be negative" in str(cause)
    assert workflow.get_status(wid) == "FAILED"


def test_an_environment_that_cannot_be_built_fails_the_workflow_with_the_reason(wid: str) -> None:
    lost = give.options(runtime_env={"working_dir": "file:///no/such/package.zip"}, max_retries=0).bind()
    cause = refused_with(ray.exceptions.RuntimeEnvSetupError, lambda: workflow.run(lost, workflow_id=wid))
    assert "package.zip" in str(cause)
    assert workflow.get_status(wid) == "FAILED"


def test_resources_that_no_node_has_leave_the_workflow_running_until_it_is_cancelled(wid: str) -> None:
    waiting = workflow.run_async(give.options(resources={"unobtainium": 1}).bind(), workflow_id=wid)
    assert ray.wait([waiting], timeout=0.5) == ([], [waiting])
    assert workflow.get_status(wid) == "RUNNING"
    workflow.cancel(wid)
    with pytest.raises(workflow.WorkflowCancellationError, match=wid):
        ray.get(waiting)
    assert workflow.get_status(wid) == "CANCELED"


@ray.remote
def ask_for_too_much(once: str) -> str:
    if not Path(once).exists():
        Path(once).touch()
        bytearray(1 << 60)
    return "modest"


def test_a_task_that_runs_out_of_memory_says_so_and_resume_runs_it_again(tmp_path: Path, wid: str) -> None:
    once = str(tmp_path / "once")
    refused_with(MemoryError, lambda: workflow.run(ask_for_too_much.bind(once), workflow_id=wid))
    assert workflow.resume(wid) == "modest"


def test_a_worker_that_ray_ended_for_its_memory_is_told_with_that_reason() -> None:
    lost = signal_of_loss(3, "greedy", 1, ray.exceptions.OutOfMemoryError("the node runs low on memory"))
    assert isinstance(lost, TaskLost)
    assert str(lost.error) == ("the worker that ran task 'greedy' died: OutOfMemoryError: the node runs low on memory")


@ray.remote(max_retries=0)
def kill_itself(once: str) -> str:
    if not Path(once).exists():
        Path(once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def test_a_lost_worker_is_told_by_the_id_of_its_task_and_resume_runs_it_again(tmp_path: Path, wid: str) -> None:
    once = str(tmp_path / "once")
    cause = refused_with(WorkerLostError, lambda: workflow.run(kill_itself.bind(once), workflow_id=wid))
    assert "kill_itself" in str(cause)
    assert workflow.resume(wid) == "survived"


def test_what_a_test_calls_nothing_is_not_nothing(platform: Path) -> None:
    before = contents(platform)
    workflow.run(give.bind(np.ones(50_000)))
    after = contents(platform)
    assert {part for part in before if before[part] != after[part]} == {"rows", "blobs", "workflows"}
