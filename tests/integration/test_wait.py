"""`workflow.wait`: what it gives, that the split is logged, and that what remains can be waited for again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.ids import without_address
from tests.integration.traces import mark, marks, wait_for, wait_for_file, wait_until_begun

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote(num_cpus=0)
def give(value):
    return value


@ray.remote(num_cpus=0)
def after(gate, value):
    wait_for_file(gate)
    return value


@ray.remote(num_cpus=0)
def look(split):
    ready, remaining = split
    return ready, len(remaining)


@workflow.step
def give_step(value):
    return value


def test_ready_values_keep_the_order_of_the_list(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=0)
    def opens():
        mark(gate)
        return "b"

    # The first of the list is ready last.
    both = workflow.wait([after.bind(gate, "a"), opens.bind()], num_returns=2)
    assert workflow.run(look.bind(both)) == (["a", "b"], 0)


def test_it_goes_on_as_soon_as_enough_are_ready(tmp_path: Path, wid: str) -> None:
    gate = tmp_path / "gate"
    waiting = workflow.wait([after.bind(gate, 0), give.bind(1), give.bind(2)], num_returns=2)
    assert workflow.run(look.bind(waiting), workflow_id=wid) == ([1, 2], 1)
    mark(gate)


def test_nodes_of_both_generations_can_be_waited_for() -> None:
    waiting = workflow.wait([give.bind(1), give_step.step(2), workflow.sleep(0)], num_returns=3)
    assert workflow.run(look.bind(waiting)) == ([1, 2, None], 0)
    nested = workflow.wait([workflow.wait([give.bind(1)])])
    assert workflow.run(look.bind(nested)) == ([([1], [])], 0)


def test_a_wait_can_be_the_whole_workflow(tmp_path: Path, wid: str) -> None:
    gate = tmp_path / "gate"
    ready, remaining = workflow.run(workflow.wait([give.bind(7), after.bind(gate, 0)]), workflow_id=wid)
    mark(gate)
    assert ready == [7]
    assert len(remaining) == 1
    assert workflow.get_output(wid)[0] == [7]


def test_the_remaining_ones_are_passed_on_and_waited_for_again(tmp_path: Path) -> None:
    audit = tmp_path / "audit"

    @ray.remote(num_cpus=0)
    def noted(value):
        mark(audit, str(value))
        return value

    @ray.remote(num_cpus=0)
    def collect(split, found):
        ready, remaining = split
        found = found + ready
        if not remaining:
            return sorted(found)
        return workflow.continuation(collect.bind(workflow.wait(remaining, num_returns=1), found))

    waiting = workflow.wait([noted.bind(value) for value in range(5)])
    assert workflow.run(collect.bind(waiting, [])) == [0, 1, 2, 3, 4]
    assert sorted(marks(audit)) == ["0", "1", "2", "3", "4"]


def test_a_remaining_task_is_an_ordinary_argument(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=0)
    def use(split):
        (first,), (second,) = split
        mark(gate)
        return workflow.continuation(pair.bind(first, second))

    @ray.remote(num_cpus=0)
    def use_in_list(split):
        mark(gate)
        return pair_step.step([split[0], split[1]], "b")

    @ray.remote(num_cpus=0)
    def pass_back(split):
        mark(gate)
        return workflow.continuation(split[1][0])

    @ray.remote(num_cpus=0)
    def pair(a, b):
        return a, b

    @workflow.step
    def pair_step(a, b):
        return a, b

    for use_it, expected in ((use, (1, 2)), (use_in_list, ([[1], [2]], "b")), (pass_back, 2)):
        gate.unlink(missing_ok=True)
        waiting = workflow.wait([give.bind(1), after.bind(gate, 2)])
        assert workflow.run(use_it.bind(waiting)) == expected


def test_a_timeout_gives_what_is_there(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    began = time.time()
    none = workflow.wait([after.bind(gate, 0), workflow.sleep(600)], num_returns=2, timeout=0.3)
    assert workflow.run(look.bind(none)) == ([], 2)
    assert time.time() - began >= 0.3
    mark(gate)

    @ray.remote(num_cpus=0)
    def begun(_):
        return workflow.continuation(
            look.bind(workflow.wait([give.bind(1), workflow.sleep(600)], num_returns=2, timeout=3))
        )

    assert workflow.run(begun.bind(0)) == ([1], 1)


def test_a_timeout_that_is_not_needed_changes_nothing() -> None:
    assert workflow.run(look.bind(workflow.wait([give.bind(1)], timeout=600))) == ([1], 0)


@pytest.mark.parametrize(
    ("nodes", "options", "error"),
    [
        ([1], {}, TypeError),
        (["give"], {}, TypeError),
        (give, {}, TypeError),
        (None, {}, TypeError),
        ([], {}, ValueError),
        ([give.bind(1)], {"num_returns": 2}, ValueError),
        ([give.bind(1)], {"num_returns": 0}, ValueError),
        ([give.bind(1)], {"num_returns": 1.0}, TypeError),
        ([give.bind(1)], {"timeout": -1}, ValueError),
        ([give.bind(1)], {"timeout": "1"}, TypeError),
    ],
    ids=without_address,
)
def test_what_cannot_be_waited_for_is_refused_at_once(nodes, options, error) -> None:
    with pytest.raises(error):
        workflow.wait(nodes, **options)


def test_object_refs_and_twice_the_same_are_refused() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        workflow.wait([ray.put(1)])
    node = give.bind(1)
    with pytest.raises(ValueError, match="twice"):
        workflow.wait([node, node])


def test_a_failure_of_one_that_is_waited_for_fails_the_workflow() -> None:
    @ray.remote
    def fails():
        raise ValueError("boom")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(look.bind(workflow.wait([fails.bind(), workflow.sleep(600)])))
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_split_is_the_same_before_and_after_a_crash(tmp_path: Path, platform: Path, wid: str) -> None:
    gate, slow, seen, audit = (tmp_path / name for name in ("gate", "slow", "seen", "audit"))

    @ray.remote(num_cpus=0)
    def noted(value):
        mark(audit, str(value))
        return value

    @ray.remote(num_cpus=0)
    def reader(split):
        mark(seen, f"{split[0]} {len(split[1])}")
        wait_for_file(gate)
        return workflow.continuation(collect.bind(split[0], *split[1]))

    @ray.remote(num_cpus=0)
    def collect(first, *others):
        return [*first, *others]

    waiting = workflow.wait([after.bind(slow, "late"), noted.bind("early"), noted.bind("early too")], num_returns=2)
    reference = workflow.run_async(reader.bind(waiting), workflow_id=wid)
    wait_for(lambda: marks(seen), "the first reading of the split")
    workflow.shutdown()
    # Now all three would be ready at once.
    mark(slow)
    del reference
    workflow.init(str(platform))
    resumed = workflow.resume_async(wid)
    wait_for(lambda: len(marks(seen)) == 2, "the second reading of the split")
    mark(gate)
    assert ray.get(resumed) == ["early", "early too", "late"]
    assert marks(seen) == ["['early', 'early too'] 1"] * 2
    assert sorted(marks(audit)) == ["early", "early too"]


def test_the_time_limit_of_a_wait_survives_a_crash(platform: Path, wid: str) -> None:
    # Longer than a busy machine takes to go on after a restart.
    limit_s = 10.0
    began = time.time()
    workflow.run_async(look.bind(workflow.wait([workflow.sleep(600)], timeout=limit_s)), workflow_id=wid)
    wait_until_begun(wid, "workflow.wait")
    workflow.shutdown()
    workflow.init(str(platform))
    resumed = time.time()
    assert workflow.resume(wid) == ([], 1)
    ended = workflow.get_metadata(wid, "workflow.wait")["stats"]["end_time"]
    # Had the clock begun anew it would have been later than this, however long the restart took.
    assert began + limit_s <= ended < resumed + limit_s


def test_a_workflow_that_waits_can_be_cancelled(wid: str) -> None:
    reference = workflow.run_async(look.bind(workflow.wait([workflow.sleep(600)], timeout=500)), workflow_id=wid)
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference, timeout=30)
