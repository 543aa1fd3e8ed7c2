"""`@workflow.step` and the Workflows it makes."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import ray

from holdfast.actors import nodes
from holdfast.actors.code import CodeBook
from holdfast.actors.graph_builder import build
from holdfast.workflow.step_api import step


@step
def add(a, b=0):
    """Adds."""
    return a + b


@step(name="named", max_retries=2, catch_exceptions=True, num_cpus=0.5, metadata={"k": 1})
def named(x):
    return x


def test_a_step_binds_without_running() -> None:
    workflow = add.step(1, b=2)
    assert (workflow.args, workflow.kwargs) == ((1,), {"b": 2})
    assert workflow.step_id == f"{__name__}.add"
    assert add.__doc__ == "Adds."


def test_options_are_split_between_workflow_and_ray() -> None:
    workflow = named.step(1)
    assert workflow.step_id == "named"
    assert workflow.options == {"task_id": "named", "max_retries": 2, "catch_exceptions": True, "metadata": {"k": 1}}
    assert workflow.ray_options == {"num_cpus": 0.5}


def test_options_given_later_win_key_by_key_and_leave_the_step_as_it_was() -> None:
    later = named.options(name="other", num_gpus=0).step(1)
    assert later.step_id == "other"
    assert later.options["max_retries"] == 2
    assert later.ray_options == {"num_cpus": 0.5, "num_gpus": 0}
    assert named.step(1).step_id == "named"


def test_calling_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match=r"\.step\("):
        add(1)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1})])
def test_a_bad_signature_is_refused_at_step(args, kwargs) -> None:
    with pytest.raises(TypeError, match="add"):
        add.step(*args, **kwargs)


def test_a_partial_can_be_a_step() -> None:
    half = step(functools.partial(add._function, 10))
    assert half.step(b=1).step_id.endswith(".add")
    with pytest.raises(TypeError, match="too many"):
        half.step(1, 2)


@pytest.mark.parametrize("what", [int, 3, add], ids=str)
def test_only_functions_are_steps(what) -> None:
    with pytest.raises(TypeError):
        step(what)


@pytest.mark.parametrize("bad", [{"max_retries": -2}, {"metadata": []}, {"catch_exceptions": "yes"}], ids=str)
def test_bad_options_are_refused_at_decoration(bad) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        step(**bad)


@pytest.mark.parametrize("copying", [pickle.dumps, ray.cloudpickle.dumps, copy.deepcopy])
def test_a_workflow_cannot_be_pickled_or_copied_and_says_why(copying) -> None:
    with pytest.raises(ValueError, match=r"add.*cannot be pickled.*\.run\(\)"):
        copying([add.step(1)])


def test_a_step_itself_can_be_pickled() -> None:
    again = pickle.loads(ray.cloudpickle.dumps(named))
    assert again.step(1).step_id == "named"


def test_a_step_that_refers_to_itself_is_whole_after_decoding() -> None:
    @step
    def factorial(n, product=1):
        return product if n <= 1 else factorial.step(n - 1, n * product)

    def start(n):
        return factorial.step(n)

    start_again = CodeBook().decode(*CodeBook().encode(start))
    first = start_again(4)
    second = first.function(4)
    assert second.args == (3, 4)
    assert second.function is first.function is not factorial._function


def test_workflows_nested_anywhere_arrive_as_values() -> None:
    draft = build(add.step([add.step(1), {"k": (add.step(2),)}]))
    top = draft.graph.nodes[draft.graph.sink]
    assert top.inputs == (0, 1)
    assert b"input_value" in top.arguments.inband
    assert b"input_ref" not in top.arguments.inband


def test_run_goes_to_what_was_registered(monkeypatch) -> None:
    class Runner:
        def run(self, step, *, workflow_id, metadata):
            return ("ran", step.step_id, workflow_id, metadata)

        def run_async(self, step, *, workflow_id, metadata):
            return ("started", step.step_id, workflow_id, metadata)

    monkeypatch.setattr(nodes, "_runners", [])
    with pytest.raises(RuntimeError, match=r"import holdfast\.workflow"):
        add.step(1).run()
    nodes.register_step_runner(Runner())
    assert named.step(1).run("id", {"m": 1}) == ("ran", "named", "id", {"m": 1})
    assert named.step(1).run_async(workflow_id="id") == ("started", "named", "id", None)


def test_a_workflow_cannot_be_put_or_passed_to_a_plain_ray_task(local_ray) -> None:
    with pytest.raises(ValueError, match="cannot be pickled"):
        ray.put(add.step(1))
    with pytest.raises(ValueError, match="cannot be pickled"):
        ray.remote(add._function).remote(add.step(1))
