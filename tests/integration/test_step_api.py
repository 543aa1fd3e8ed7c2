"""The step API from decoration to result, on a real platform."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks

pytestmark = pytest.mark.usefixtures("platform")


@workflow.step
def add(a, b=0):
    return a + b


@workflow.step
def give(value):
    return value


@workflow.step
def note(file, word, *_):
    mark(file, word)
    return word


def test_a_step_runs_with_run_and_run_async(wid: str) -> None:
    assert add.step(1, b=2).run() == 3
    assert ray.get(add.step(add.step(1, 2), 3).run_async(workflow_id=wid)) == 6
    assert workflow.get_output(wid) == 6
    assert workflow.run(add.step(1)) == 1
    assert ray.get(workflow.run_async(add.step(2))) == 2


def test_a_second_run_of_an_id_gives_the_stored_value(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "notes"
    assert note.step(str(file), "first").run(wid, metadata={"k": 1}) == "first"
    assert note.step(str(file), "second").run(wid) == "first"
    assert marks(file) == ["first"]
    assert workflow.get_metadata(wid)["user_metadata"] == {"k": 1}


def test_workflows_nested_in_containers_arrive_as_values() -> None:
    one = give.step(1)
    nested = {"a": [one, (give.step(2), {"b": [[give.step(3)]]})], "again": one}
    assert give.step(nested).run() == {"a": [1, (2, {"b": [[3]]})], "again": 1}
    assert add.step([give.step(1)], b=[give.step(2)]).run() == [1, 2]


def test_a_step_used_twice_runs_once_and_both_uses_see_one_object(tmp_path: Path) -> None:
    @workflow.step
    def same(a, b):
        return a is b[0]

    file = tmp_path / "notes"
    once = note.step(str(file), "ran")

    @workflow.step
    def box(_):
        return [1]

    boxed = box.step(once)
    assert same.step(boxed, [boxed]).run() is True
    assert marks(file) == ["ran"]


def test_options_reach_ray_and_the_workflow(wid: str) -> None:
    @workflow.step
    def cpus():
        context = ray.get_runtime_context()
        return context.get_assigned_resources().get("CPU"), workflow.workflow_context.get_current_task_id()

    changed = cpus.options(num_cpus=0.5, name="half", metadata={"why": "test"})
    assert changed.step().run(wid) == (0.5, "half")
    assert workflow.get_metadata(wid, "half")["user_metadata"] == {"why": "test"}
    assert workflow.get_output(wid, name="half") == (0.5, "half")
    # The step it was made from keeps its own.
    assert cpus.step().run()[0] == 1.0


def test_a_partial_is_a_step() -> None:
    assert workflow.step(functools.partial(lambda a, b, c: (a, b, c), 1, c=3)).step(2).run() == (1, 2, 3)


def test_misuse_is_refused_before_anything_runs() -> None:
    with pytest.raises(TypeError, match=r"\.step\("):
        add(1)
    with pytest.raises(TypeError, match="add"):
        add.step(1, 2, 3)


def test_a_step_workflow_in_the_object_store_or_a_plain_task_is_refused() -> None:
    @ray.remote
    def plain(x):
        return x

    planned = add.step(1)
    for attempt in (lambda: ray.put(planned), lambda: ray.put([planned]), lambda: plain.remote(planned)):
        with pytest.raises(ValueError, match="cannot be pickled"):
            attempt()
    assert planned.run() == 1


def test_a_step_workflow_hidden_in_a_result_is_refused(wid: str) -> None:
    @workflow.step(max_retries=5)
    def hides():
        return [add.step(1)]

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        hides.step().run(wid)
    assert isinstance(caught.value.__cause__, ValueError)
    assert "cannot be pickled" in str(caught.value.__cause__)


def test_ids_are_numbered_in_the_order_of_building(wid: str) -> None:
    first, second, third = (add.options(name="n").step(i) for i in range(3))
    # Built in one order, used in another.
    give.options(name="end").step([third, first, second]).run(wid)
    assert [workflow.get_output(wid, task_id=name) for name in ("n", "n_1", "n_2")] == [0, 1, 2]
    assert workflow.get_output(wid, task_id="end") == [2, 0, 1]


def test_the_default_id_names_module_and_function() -> None:
    @workflow.step
    def inner():
        return workflow.workflow_context.get_current_task_id()

    expected = f"{__name__}.test_the_default_id_names_module_and_function.locals.inner"
    assert inner.step().step_id == expected
    assert inner.step().run() == expected


def test_both_generations_take_each_other() -> None:
    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote
    def deref(refs):
        return ray.get(refs) if isinstance(refs[0], ray.ObjectRef) else refs

    assert add.step(double.bind(3), b=add.step(1)).run() == 7
    assert workflow.run(double.bind(add.step(double.bind(2), 1))) == 10
    # Each container follows the rule of the step or node that holds it.
    assert give.step([double.bind(1), add.step(1)]).run() == [2, 1]
    assert workflow.run(deref.bind([double.bind(1)])) == [2]
    assert workflow.run(deref.bind([add.step(5)])) == [5]


def test_a_step_continues_with_a_step_a_node_or_a_continuation(wid: str) -> None:
    @ray.remote
    def double(x):
        return 2 * x

    @workflow.step
    def go_on(how):
        if how == "step":
            return add.step(1, 1)
        return double.bind(2) if how == "node" else workflow.continuation(double.bind(3))

    assert go_on.options(name="first").step("step").run(wid) == 2
    assert workflow.get_output(wid, task_id="first") == 2
    assert go_on.step("node").run() == 4
    assert go_on.step("continuation").run() == 6


def test_a_step_may_refer_to_itself() -> None:
    @workflow.step
    def factorial(n, product=1):
        return product if n == 1 else factorial.step(n - 1, product * n)

    assert factorial.step(10).run() == 3628800


@pytest.mark.parametrize("retries", [0, 3])
def test_max_retries_counts_exceptions(tmp_path: Path, retries: int) -> None:
    file = tmp_path / "notes"

    @workflow.step(max_retries=retries)
    def fails():
        mark(file)
        raise ValueError("boom")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        fails.step().run()
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(marks(file)) == retries + 1


def test_an_exception_that_passes_with_retries_is_not_seen(tmp_path: Path) -> None:
    file = tmp_path / "notes"

    @workflow.step
    def fails_twice():
        mark(file)
        if len(marks(file)) < 3:
            raise ValueError("boom")
        return "ok"

    assert fails_twice.options(max_retries=2).step().run() == "ok"
    assert len(marks(file)) == 3


def test_exceptions_are_caught_once_also_when_the_step_continues() -> None:
    @workflow.step
    def fails():
        raise ValueError("boom")

    @workflow.step
    def continues(target):
        return add.step(1) if target == "ok" else add.step(fails.step(), 1) if target == "input" else fails.step()

    caught = continues.options(catch_exceptions=True)
    assert add.options(catch_exceptions=True).step(1).run() == (1, None)
    assert caught.step("ok").run() == (1, None)
    for target in ("below", "input"):
        value, error = caught.step(target).run()
        assert value is None
        assert isinstance(error, ValueError)
    # The consumer of one that catches sees the pair.
    assert give.step([caught.step("ok")]).run() == [(1, None)]


def test_an_error_below_is_caught_by_the_nearest_step_that_catches() -> None:
    @workflow.step
    def fails():
        raise ValueError("boom")

    @workflow.step(catch_exceptions=True)
    def inner():
        return fails.step()

    @workflow.step(catch_exceptions=True)
    def outer():
        return inner.step()

    (pair, error) = outer.step().run()
    assert error is None
    assert pair[0] is None
    assert isinstance(pair[1], ValueError)


def test_a_deep_chain_of_steps_is_one_value() -> None:
    chain = give.step(0)
    for _ in range(100):
        chain = add.step(chain, 1)
    assert chain.run() == 100
