"""`run`, `run_async`, `resume`, `create` of the DAG API, and what the driver's log says of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import ray
from ray.dag import InputNode

from holdfast import workflow
from tests.ids import without_address
from tests.integration.traces import mark, marks, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def trace(path, value):
    mark(path, str(value))
    return value


@ray.remote
def gated(gate, value=None):
    wait_for_file(gate)
    return value


@ray.remote
def needs_file(path, traces=None):
    if traces is not None:
        mark(traces)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return "found"


@ray.remote
def needs_file_then(path, before):
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return f"found after {before}"


def after_a_trace(traces, gate):
    """Fails after another task has succeeded, until there is a gate."""
    return needs_file_then.bind(gate, trace.bind(traces, "x"))


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_gives_the_value_of_the_graph() -> None:
    assert workflow.run(add.bind(add.bind(1, 2), b=add.bind(3))) == 6


def test_the_same_id_after_success_gives_the_stored_value_and_runs_nothing(wid, tmp_path) -> None:
    path = tmp_path / "traces"
    assert workflow.run(trace.bind(path, "one"), workflow_id=wid) == "one"
    assert workflow.run(trace.bind(path, "one"), workflow_id=wid) == "one"
    assert workflow.run(trace.bind(path, "another graph"), workflow_id=wid) == "one"
    assert ray.get(workflow.run_async(trace.bind(path, "another graph"), workflow_id=wid)) == "one"
    assert marks(path) == ["one"]


def test_a_failed_id_is_resumed_by_run_and_what_succeeded_does_not_run_again(wid, tmp_path) -> None:
    first, gate = tmp_path / "first", tmp_path / "gate"
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(after_a_trace(first, gate), workflow_id=wid)
    assert isinstance(failure.value.__cause__, FileNotFoundError)
    assert workflow.get_status(wid) == "FAILED"
    gate.touch()
    assert workflow.run(add.bind("another", " graph"), workflow_id=wid) == "found after x"
    assert marks(first) == ["x"]


def test_a_failed_id_is_resumed_by_run_async(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(workflow.WorkflowExecutionError):
        ray.get(workflow.run_async(needs_file.bind(gate), workflow_id=wid))
    gate.touch()
    assert ray.get(workflow.run_async(needs_file.bind(gate), workflow_id=wid)) == "found"


def test_a_running_id_is_refused_at_the_call(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    ref = workflow.run_async(gated.bind(gate, 1), workflow_id=wid)
    with pytest.raises(RuntimeError, match=wid):
        workflow.run(add.bind(1, 2), workflow_id=wid)
    with pytest.raises(RuntimeError, match=wid):
        workflow.run_async(add.bind(1, 2), workflow_id=wid)
    with pytest.raises(RuntimeError, match=wid):
        workflow.resume(wid)
    with pytest.raises(RuntimeError, match=wid):
        workflow.resume_async(wid)
    gate.touch()
    assert ray.get(ref) == 1


@pytest.mark.parametrize("not_a_dag", [1, "text", None, [1], lambda: 1, add], ids=without_address)
def test_what_is_not_a_dag_is_a_type_error(wid, not_a_dag) -> None:
    for call in (workflow.run, workflow.run_async, workflow.create, workflow.continuation):
        with pytest.raises(TypeError):
            call(not_a_dag)


def test_a_ref_of_a_running_plain_task_is_not_a_dag() -> None:
    with pytest.raises(TypeError):
        workflow.run(add.remote(1, 2))


def test_a_wrong_arity_or_keyword_is_a_type_error_at_the_call(wid) -> None:
    @ray.remote
    def two(a, b):
        return a, b

    for dag in (
        add.bind(two.bind(1, 2), b=add.bind(two.bind(1, 2), 2)),
        two.bind(1, 2),
    ):
        assert workflow.create(dag)
    with pytest.raises(TypeError):
        workflow.run_async(two.bind(1), workflow_id=wid)
    with pytest.raises(TypeError):
        workflow.run_async(two.bind(1, 2, 3), workflow_id=wid)
    with pytest.raises(TypeError):
        workflow.run_async(add.bind(two.bind(1, c=2)), workflow_id=wid)
    with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
        workflow.get_status(wid)


def test_input_nodes_take_arguments_by_index_key_and_attribute() -> None:
    class Point:
        x = 5

    @ray.remote
    def join(*parts):
        return parts

    with InputNode() as given:
        by_index = join.bind(given[0], given[1])
        by_key = join.bind(given["a"], given.b, given[0])
        whole = join.bind(given, given)
        attribute = join.bind(given.x)
    assert workflow.run(by_index, 1, 2) == (1, 2)
    assert workflow.run(by_key, 0, a=1, b=2) == (1, 2, 0)
    assert workflow.run(whole, "v") == ("v", "v")
    assert workflow.run(attribute, Point()) == (5,)
    assert ray.get(workflow.run_async(by_key, 0, a=1, b=2)) == (1, 2, 0)


def test_an_input_that_was_not_given_is_refused_at_the_call() -> None:
    with InputNode() as given:
        dag = add.bind(given[0], given["b"])
    with pytest.raises(TypeError):
        workflow.run_async(dag, 1)


def test_a_workflow_runs_off_the_main_thread() -> None:
    results = []
    threads = [threading.Thread(target=lambda n=n: results.append(workflow.run(add.bind(n, 1)))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 2, 3, 4]


def test_a_workflow_runs_from_inside_a_plain_task_and_an_actor() -> None:
    @ray.remote(num_cpus=0)
    def task():
        return workflow.run(add.bind(1, 2))

    @ray.remote(num_cpus=0)
    class Actor:
        def sync(self):
            return workflow.run(add.bind(3, 4))

        def ref(self):
            return ray.get(workflow.run_async(add.bind(4, 4)))

    @ray.remote(num_cpus=0)
    class AsyncActor:
        async def awaits(self):
            return await workflow.run_async(add.bind(5, 6))

        async def blocks(self):
            return workflow.run(add.bind(6, 6))

    actor, async_actor = Actor.remote(), AsyncActor.remote()
    calls = [task.remote(), actor.sync.remote(), actor.ref.remote()]
    calls += [async_actor.awaits.remote(), async_actor.blocks.remote()]
    assert ray.get(calls, timeout=60) == [3, 7, 8, 11, 12]
    for handle in (actor, async_actor):
        ray.kill(handle)


def test_a_workflow_runs_from_inside_a_workflow_task(wid) -> None:
    @ray.remote(num_cpus=0)
    def outer(inner):
        return workflow.run(add.bind(1, 1), workflow_id=inner) + 1

    assert workflow.run(outer.bind(f"{wid}-inner"), workflow_id=wid) == 3
    assert workflow.get_output(f"{wid}-inner") == 2


def test_ids_metadata_and_options_that_cannot_be_are_refused_at_the_call() -> None:
    for bad in ("", 5, b"x", "x" * 10_240):
        with pytest.raises(ValueError, match="workflow_id"):
            workflow.run(add.bind(1), workflow_id=bad)
    for bad in ("text", [1], {"k": object()}, {1: 2}):
        with pytest.raises(ValueError, match="metadata"):
            workflow.run(add.bind(1), metadata=bad)
        with pytest.raises(ValueError, match="metadata"):
            workflow.options(metadata=bad)
    with pytest.raises(ValueError, match="unknown"):
        workflow.options(no_such_option=1)
    with pytest.raises(ValueError, match="max_retries"):
        workflow.options(max_retries=-2)


ODD_IDS = ["../../etc/passwd", "a/b", "a b\n\t", "ü-漢字", "x" * 1024, ".", "%00", "a\x00b"]


@pytest.mark.parametrize("odd", ODD_IDS, ids=repr)
def test_an_id_is_a_key_and_not_a_path(odd) -> None:
    assert workflow.run(add.bind(1, 2), workflow_id=odd) == 3
    assert workflow.get_status(odd) == "SUCCESSFUL"
    assert workflow.get_output(odd) == 3
    assert odd in dict(workflow.list_all())
    workflow.delete(odd)


# -- refs --------------------------------------------------------------------------------------------------------------


def test_run_async_gives_a_real_ray_ref(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    ref = workflow.run_async(gated.bind(gate, "done"), workflow_id=wid)
    assert isinstance(ref, ray.ObjectRef)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.2)
    assert ray.wait([ref], timeout=0.1) == ([], [ref])
    gate.touch()
    assert ray.wait([ref], timeout=30) == ([ref], [])
    assert ray.get(ref, timeout=1) == "done"
    # One level: the value itself, also as an argument of a plain Ray task.
    assert ray.get(add.remote(ref, "!")) == "done!"


def test_run_async_returns_before_the_work_is_done(tmp_path) -> None:
    gate = tmp_path / "gate"
    ref = workflow.run_async(gated.bind(gate, 1))
    assert not gate.exists()
    gate.touch()
    assert ray.get(ref) == 1


def test_a_failure_is_raised_by_run_and_by_the_ref() -> None:
    @ray.remote
    def fails():
        raise KeyError("lost")

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(fails.bind())
    assert isinstance(failure.value.__cause__, KeyError)
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        ray.get(workflow.run_async(fails.bind()))
    assert isinstance(failure.value.__cause__, KeyError)


def test_of_several_that_run_one_id_at_once_one_is_accepted(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    accepted, refused = [], []

    def submit() -> None:
        try:
            accepted.append(workflow.run_async(gated.bind(gate, "one"), workflow_id=wid))
        except RuntimeError as error:
            refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(accepted), len(refused)) == (1, 7)
    gate.touch()
    assert ray.get(accepted) == ["one"]


# -- resume ------------------------------------------------------------------------------------------------------------


def test_resume_runs_what_is_left(wid, tmp_path) -> None:
    first, gate = tmp_path / "first", tmp_path / "gate"
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(after_a_trace(first, gate), workflow_id=wid)
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.resume(wid)
    assert isinstance(failure.value.__cause__, FileNotFoundError)
    gate.touch()
    assert workflow.resume(wid) == "found after x"
    assert workflow.resume(wid) == "found after x"
    assert ray.get(workflow.resume_async(wid)) == "found after x"
    assert marks(first) == ["x"]


def test_resume_of_an_unknown_id_is_refused_and_leaves_no_trace(wid) -> None:
    for resume in (workflow.resume, workflow.resume_async):
        with pytest.raises(workflow.exceptions.WorkflowNotResumableError) as refusal:
            resume(wid)
        assert isinstance(refusal.value, ValueError)
    assert wid not in dict(workflow.list_all())


def test_resume_of_a_cancelled_workflow_is_refused(wid, tmp_path) -> None:
    workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=wid)
    workflow.cancel(wid)
    for resume in (workflow.resume, workflow.resume_async):
        with pytest.raises(workflow.exceptions.WorkflowNotResumableError):
            resume(wid)
    with pytest.raises(workflow.exceptions.WorkflowNotResumableError):
        workflow.run(add.bind(1, 2), workflow_id=wid)
    assert workflow.get_status(wid) == "CANCELED"


# -- create ------------------------------------------------------------------------------------------------------------


def test_create_gives_a_workflow_to_run_later(wid) -> None:
    with InputNode() as given:
        dag = add.bind(given[0], given.b)
    made = workflow.create(dag, 1, b=2)
    assert isinstance(made, workflow.Workflow)
    assert made.step_id.endswith("add")
    assert made.run(workflow_id=wid, metadata={"k": 1}) == 3
    assert workflow.get_metadata(wid)["user_metadata"] == {"k": 1}
    assert ray.get(made.run_async()) == 3
    assert workflow.create(add.options(**workflow.options(task_id="given")).bind(1)).step_id == "given"


def test_function_nodes_have_run_and_an_actor_keeps_its_own(wid) -> None:
    assert add.bind(1, 2).run(workflow_id=wid) == 3
    assert ray.get(add.bind(1, 2).run_async()) == 3

    @ray.remote(num_cpus=0)
    class Actor:
        def run(self, value):
            return ("own", value)

    actor = Actor.remote()
    assert ray.get(actor.run.remote(1)) == ("own", 1)
    # A method bound into a graph is an actor's node: no `run` of ours is on it, and it is no task.
    bound = actor.run.bind(1)
    assert not hasattr(type(bound), "run")
    with pytest.raises(TypeError, match="actor"):
        workflow.run(bound)
    ray.kill(actor)


# -- the driver's log --------------------------------------------------------------------------------------------------

SCRIPT = """
import ray
from holdfast import workflow

ray.init(address="local", num_cpus=1, include_dashboard=False)
workflow.init({storage!r})

@ray.remote
def first(): return 1

@ray.remote
def last(x): return x + 1

print("VALUE", workflow.run(last.bind(first.bind()), workflow_id="logged"))
import sys, time
deadline = time.time() + 15
while not open({output!r}).read().count("SUCCESSFUL") >= 2 and time.time() < deadline:
    time.sleep(0.05)
"""


def test_the_driver_sees_the_jobs_and_tasks_in_its_log(tmp_path) -> None:
    output = tmp_path / "output"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(storage=str(tmp_path / "storage"), output=str(output)))
    with output.open("w") as file:
        done = subprocess.run([sys.executable, script], stdout=file, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = output.read_text()
    assert done.returncode == 0, text
    assert "VALUE 2" in text
    assert 'Workflow job created. [id="logged"' in text
    for task in ("__main__.first", "__main__.last"):
        assert f"Task status [RUNNING]\t[logged@{task}" in text
        assert f"Task status [SUCCESSFUL]\t[logged@{task}" in text
