"""Tasks that return more work, in the DAG API."""

from __future__ import annotations

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b):
    return a + b


@ray.remote
def fib(n):
    return n if n < 2 else workflow.continuation(add.bind(fib.bind(n - 1), fib.bind(n - 2)))


@ray.remote
def count_down(n, traces=None):
    if traces:
        mark(traces)
    return workflow.continuation(count_down.bind(n - 1, traces)) if n else "landed"


def test_a_continuation_takes_the_place_of_its_task() -> None:
    assert workflow.run(fib.bind(7)) == 13


def test_a_task_that_continued_is_an_input_with_the_final_value() -> None:
    assert workflow.run(add.bind(fib.bind(5), fib.bind(4))) == 8


def test_a_thousand_in_a_row(tmp_path) -> None:
    assert workflow.run(count_down.bind(1000, tmp_path / "traces")) == "landed"
    assert len(marks(tmp_path / "traces")) == 1001


def test_a_thousand_in_a_row_in_place() -> None:
    @ray.remote
    def inside(n):
        next_one = inside.options(**workflow.options(allow_inplace=True))
        return workflow.continuation(next_one.bind(n - 1)) if n else "landed"

    assert workflow.run(inside.bind(1000)) == "landed"


def test_a_static_chain_of_a_thousand() -> None:
    node = add.bind(0, 0)
    for _ in range(1000):
        node = add.bind(node, 1)
    assert workflow.run(node) == 1000


def test_a_bare_node_returned_is_a_continuation() -> None:
    @ray.remote
    def bare():
        return add.bind(add.bind(1, 1), 1)

    assert workflow.run(bare.bind()) == 3


def test_a_step_and_a_dag_mix_in_both_directions() -> None:
    @workflow.step
    def plus_one(x):
        return x + 1

    @workflow.step
    def step_to_dag(x):
        return add.bind(plus_one.step(x), 10)

    @ray.remote
    def dag_to_step(x):
        return step_to_dag.step(x)

    assert workflow.run(dag_to_step.bind(1)) == 12
    assert workflow.run(add.bind(plus_one.step(1), step_to_dag.step(5))) == 18
    assert workflow.run(plus_one.step(dag_to_step.bind(1))) == 13
    assert step_to_dag.step(1).run() == 12


def test_a_node_nested_in_a_result_is_not_run() -> None:
    @ray.remote
    def hides():
        return [add.bind(1, 2)]

    # A graph within a value is data, as any other; it is neither run nor lost.
    (node,) = workflow.run(hides.bind())
    assert workflow.run(node) == 3


def test_children_start_after_their_parent_has_returned(wid, tmp_path) -> None:
    @ray.remote
    def child():
        return "child"

    @ray.remote
    def parent():
        mark(tmp_path / "traces", "ending")
        return workflow.continuation(child.options(**workflow.options(task_id="child")).bind())

    assert workflow.run(parent.options(**workflow.options(task_id="parent")).bind(), workflow_id=wid) == "child"
    parents, children = (workflow.get_metadata(wid, task_id)["stats"] for task_id in ("parent", "child"))
    assert parents["start_time"] <= parents["end_time"] <= children["start_time"] <= children["end_time"]


def test_continuation_is_handed_back_inside_and_executed_outside() -> None:
    @ray.remote
    def inside():
        node = add.bind(1, 2)
        return workflow.continuation(node) if workflow.continuation(node) is node else "executed"

    assert workflow.run(inside.bind()) == 3
    assert workflow.continuation(add.bind(1, 2)) == 3

    @ray.remote(num_cpus=0)
    def plain():
        return workflow.continuation(add.bind(2, 2))

    # The same function works as a plain Ray task.
    assert ray.get(plain.remote()) == 4
    with pytest.raises(TypeError):
        workflow.continuation("no node")


def test_a_continuation_of_no_node_fails_the_task_with_a_type_error() -> None:
    @ray.remote
    def bad():
        return workflow.continuation(3)

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(bad.bind())
    assert isinstance(failure.value.__cause__, TypeError)


def test_a_bad_signature_in_a_continuation_fails_the_task() -> None:
    @ray.remote
    def bad():
        return add.bind(add.bind(1, 2), c=3)

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        workflow.run(bad.bind())
    assert isinstance(failure.value.__cause__, TypeError)


def test_a_continuation_takes_local_values_and_refs() -> None:
    @ray.remote
    def first():
        big = ray.put(list(range(1000)))
        return workflow.continuation(second.bind(big, [big], {"n": add.bind(1, 2)}))

    @ray.remote
    def second(values, refs, nodes):
        return len(values), len(ray.get(refs[0])), ray.get(nodes["n"])

    assert workflow.run(first.bind()) == (1000, 1000, 3)


def test_ids_in_continuations_are_made_unique(wid) -> None:
    named = count_down.options(**workflow.options(task_id="same"))

    @ray.remote
    def top(n):
        return named.bind(0) if n == 0 else top.options(**workflow.options(task_id="same")).bind(n - 1)

    assert workflow.run(top.options(**workflow.options(task_id="same")).bind(2), workflow_id=wid) == "landed"
    for task_id in ("same", "same_1", "same_2", "same_3"):
        assert workflow.get_output(wid, task_id=task_id) == "landed"
        assert workflow.get_metadata(wid, task_id)["task_id"] == task_id


def test_a_workflow_started_in_a_task_is_a_workflow_of_its_own(wid) -> None:
    @ray.remote(num_cpus=0)
    def starts():
        ref = workflow.run_async(fib.bind(5), workflow_id=f"{wid}-inner")
        return ray.get(ref)

    assert workflow.run(starts.bind(), workflow_id=wid) == 5
    assert workflow.get_status(f"{wid}-inner") == "SUCCESSFUL"


def test_the_context_tells_the_workflow_and_the_task(wid) -> None:
    @ray.remote
    def context():
        return (
            workflow.workflow_context.get_current_workflow_id(),
            workflow.workflow_context.get_current_task_id(),
        )

    @ray.remote
    def goes_on():
        return context.options(**workflow.options(task_id="below")).bind()

    assert workflow.run(goes_on.bind(), workflow_id=wid) == (wid, "below")
    assert workflow.workflow_context.get_current_workflow_id() is None
