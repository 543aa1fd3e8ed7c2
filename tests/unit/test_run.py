"""A run, by behaviour: graphs, continuations, errors, retries, and signals that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engine.commands import Complete, StartTask, StopTask
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.records import GraphLogged, TaskContinuing, TaskFailed, TaskFinished, TimerCleared, TimerSet
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.signals import CancelRequested, TaskLost, TaskRaised, TaskReturned, TimerDue
from holdfast.engine.transitions import WorkflowStatus
from tests.unit.run_driver import Driver, WorkerDied, call, graph, plain, sleep


def add(*values: int) -> int:
    return sum(values)


def broken(*values: object) -> None:
    raise ValueError("broken")


def one() -> int:
    return 1


FUNCTIONS: dict[str, Any] = {"add": add, "one": one, "broken": broken, "see": lambda *values: list(values)}


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_a_chain_runs_in_order_and_gives_the_last_value() -> None:
    driver = Driver(graph(call("one"), call("add", 0, 0), call("add", 1, 1)), FUNCTIONS)
    assert driver.finish() == 4
    assert driver.calls == ["one", "add", "add"]


def test_a_fan_out_starts_at_once_and_is_gathered_once() -> None:
    driver = Driver(graph(*(call("one") for _ in range(100)), call("add", *range(100))), FUNCTIONS)
    assert len(driver.kept(StartTask)) == 100
    assert driver.finish() == 100
    assert driver.run.live_tasks == 0


def test_a_node_used_twice_runs_once() -> None:
    driver = Driver(graph(call("one"), call("add", 0, 0), call("add", 0, 1)), FUNCTIONS)
    assert driver.finish() == 3
    assert driver.calls.count("one") == 1


def test_inputs_may_come_later_in_the_graph_than_who_takes_them() -> None:
    driver = Driver(Graph(nodes=(call("add", 1), call("one")), sink=0), FUNCTIONS)
    assert driver.finish() == 1


def test_nothing_is_started_twice_and_only_when_its_inputs_are_there() -> None:
    driver = Driver(graph(call("one"), call("one"), call("add", 0, 1)), FUNCTIONS)
    driver.step()
    assert [command.task for command in driver.kept(StartTask)] == [1]
    driver.step()
    assert [command.task for command in driver.kept(StartTask)] == [2]


# -- continuations -----------------------------------------------------------------------------------------------------


def countdown(left: int) -> Graph:
    return graph(call("down", task_id=f"n{left}"))


def down_from(depth: int) -> dict[str, Any]:
    left = [depth]

    def down() -> Any:
        left[0] -= 1
        return countdown(left[0]) if left[0] > 0 else "ground"

    return {"down": down}


def test_a_continuation_gives_its_value_to_the_task_that_returned_it() -> None:
    functions = FUNCTIONS | {"more": lambda: graph(call("one"), call("add", 0, 0))}
    driver = Driver(graph(call("more"), call("add", 0)), functions)
    assert driver.finish() == 2
    finished = [record.task_id for record in driver.records if isinstance(record, TaskFinished)]
    assert finished == ["one", "add_1", "more", "add"]


def test_a_10_000_deep_continuation_keeps_a_constant_number_of_tasks() -> None:
    driver = Driver(graph(call("down")), down_from(10_000))
    most = 0
    while driver.step():
        most = max(most, driver.run.live_tasks)
    assert driver.finish() == "ground"
    assert most <= 3
    assert sum(isinstance(record, TaskContinuing) for record in driver.records) == 9_999


def test_a_10_000_deep_continuation_goes_on_after_a_crash_without_its_links() -> None:
    driver = Driver(graph(call("down")), down_from(10_000))
    for _ in range(9_000):
        driver.step()
    driver.crash()
    assert driver.run.live_tasks <= 3
    assert driver.finish() == "ground"
    assert len(driver.calls) == 10_000


def test_a_task_that_continues_with_a_circle_fails_with_the_reason() -> None:
    functions = FUNCTIONS | {"more": lambda: graph(call("add", 0))}
    driver = Driver(graph(call("more", catch_exceptions=True)), functions)
    _, error = driver.finish()
    assert "cyclic" in str(error)


def test_children_start_only_when_the_parent_has_returned() -> None:
    functions = FUNCTIONS | {"more": lambda: graph(call("one"))}
    driver = Driver(graph(call("more")), functions)
    assert driver.next_task().node.function == "more"
    assert not driver.kept(StartTask)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_that_nobody_catches_ends_the_workflow_and_stops_the_rest() -> None:
    driver = Driver(graph(call("one"), call("broken"), call("add", 0, 1)), FUNCTIONS)
    slow = driver.next_task()
    driver.step()
    ended = driver.ended
    assert ended is not None
    assert (ended.status, ended.error, ended.failed_task_id) == (WorkflowStatus.FAILED, "broken", "broken")
    assert StopTask(task=slow.task, attempt=slow.attempt) in driver.commands
    assert Complete(status=WorkflowStatus.FAILED) in driver.commands


def test_catch_exceptions_gives_a_pair_either_way() -> None:
    nodes = (call("one", catch_exceptions=True), call("broken", catch_exceptions=True), call("see", 0, 1))
    assert Driver(graph(*nodes), FUNCTIONS).finish() == [(1, None), (None, "broken")]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_an_error_far_below_is_caught_once_by_who_catches(depth: int) -> None:
    left = [depth]

    def deeper() -> Graph:
        left[0] -= 1
        return graph(call("deeper")) if left[0] > 0 else graph(call("broken"), call("add", 0))

    driver = Driver(graph(call("deeper", catch_exceptions=True)), FUNCTIONS | {"deeper": deeper})
    assert driver.finish() == (None, "broken")


def test_nested_catches_each_put_a_pair_around() -> None:
    functions = FUNCTIONS | {
        "outer": lambda: graph(call("inner", catch_exceptions=True)),
        "inner": lambda: graph(call("broken")),
        "fine": lambda: graph(call("inner_fine", catch_exceptions=True)),
        "inner_fine": lambda: graph(call("one")),
    }
    nodes = (call("outer", catch_exceptions=True), call("fine", catch_exceptions=True), call("see", 0, 1))
    assert Driver(graph(*nodes), functions).finish() == [((None, "broken"), None), ((1, None), None)]


def test_a_caught_error_ends_what_else_runs_below_and_nothing_outside() -> None:
    functions = FUNCTIONS | {"more": lambda: graph(call("one"), call("broken"), call("add", 0, 1))}
    driver = Driver(graph(call("one"), call("more", catch_exceptions=True), call("see", 0, 1)), functions)
    outside = driver.next_task()
    driver.step()
    inside = driver.next_task()
    driver.step()
    assert [command.task for command in driver.commands if isinstance(command, StopTask)] == [inside.task]
    driver.apply(driver.perform(outside))
    assert driver.finish() == [1, (None, "broken")]


def test_a_catching_link_in_a_chain_is_found_again_after_a_crash() -> None:
    functions = FUNCTIONS | {
        "first": lambda: graph(call("second", catch_exceptions=True)),
        "second": lambda: graph(call("one")),
    }
    driver = Driver(graph(call("first")), functions)
    driver.step()
    driver.step()
    driver.crash()
    assert driver.finish() == (1, None)


def test_a_lost_worker_is_not_caught() -> None:
    def dies() -> None:
        raise WorkerDied

    node = call("dies", catch_exceptions=True, budget=RetryBudget(deaths=0))
    driver = Driver(graph(node), {"dies": dies})
    driver.go_on()
    assert driver.ended is not None
    assert driver.ended.status is WorkflowStatus.FAILED


# -- retries -----------------------------------------------------------------------------------------------------------


def test_a_task_is_tried_again_as_often_as_its_budget_says() -> None:
    node = call("broken", budget=RetryBudget(errors=2, shared=False))
    driver = Driver(graph(node), FUNCTIONS)
    driver.go_on()
    assert driver.calls == ["broken"] * 3
    assert any(isinstance(record, TaskFailed) for record in driver.records)


def test_an_error_of_a_type_that_is_not_retried_fails_at_once() -> None:
    driver = Driver(graph(call("broken", budget=RetryBudget(errors=5, shared=False))), FUNCTIONS)
    task = driver.next_task()
    driver.apply(TaskRaised(task=task.task, attempt=task.attempt, error="no", retryable=False))
    assert driver.ended is not None


def test_back_off_waits_durably_and_counts_on_after_a_crash() -> None:
    policy = RetryPolicy(max_attempts=3, initial_s=10, factor=2, jitter=0)
    driver = Driver(graph(call("broken", retry=policy)), FUNCTIONS)
    driver.go_on()
    assert driver.run.idle
    assert driver.run.waits_for()
    driver.turn_clock(9.9)
    assert driver.calls == ["broken"]
    driver.crash()
    driver.turn_clock(0.1)
    driver.go_on()
    assert driver.calls == ["broken"] * 2
    driver.turn_clock(19.9)
    driver.go_on()
    assert driver.calls == ["broken"] * 2
    driver.turn_clock(0.1)
    driver.go_on()
    assert driver.calls == ["broken"] * 3
    assert driver.ended is not None


def test_who_resumes_a_workflow_that_used_its_retries_up_begins_to_count_anew() -> None:
    policy = RetryPolicy(max_attempts=2, initial_s=1, jitter=0)
    driver = Driver(graph(call("broken", retry=policy)), FUNCTIONS)
    for _ in range(2):
        driver.go_on()
        driver.turn_clock(60)
    assert driver.ended is not None
    driver.crash()
    driver.go_on()
    driver.turn_clock(60)
    driver.go_on()
    assert driver.calls == ["broken"] * 4


# -- signals that do not fit -------------------------------------------------------------------------------------------


def test_repeated_and_stale_signals_change_nothing() -> None:
    driver = Driver(graph(call("one", budget=RetryBudget(deaths=1)), call("add", 0)), FUNCTIONS)
    first = driver.next_task()
    lost = TaskLost(task=first.task, attempt=first.attempt, error="gone")
    driver.apply(lost)
    second = driver.next_task()
    assert second.attempt != first.attempt
    for stale in (lost, TaskReturned(task=first.task, attempt=first.attempt, value=99)):
        step = driver.apply(stale)
        assert (step.records, step.commands) == ([], [])
    fits = TaskReturned(task=second.task, attempt=second.attempt, value=5)
    assert driver.apply(fits).records
    again = driver.apply(fits)
    assert (again.records, again.commands) == ([], [])
    assert driver.finish() == 5


def test_signals_for_tasks_that_never_were_change_nothing() -> None:
    driver = Driver(graph(call("one")), FUNCTIONS)
    for signal in (TaskReturned(task=77, attempt=1, value=1), TimerDue(task=77, due_unix_s=0.0)):
        step = driver.apply(signal)
        assert (step.records, step.commands) == ([], [])


def test_a_cancelled_workflow_stays_cancelled() -> None:
    driver = Driver(graph(call("one"), sleep(5), call("see", 0, 1)), FUNCTIONS)
    task = driver.next_task()
    driver.apply(CancelRequested())
    assert driver.run.status is WorkflowStatus.CANCELED
    assert StopTask(task=task.task, attempt=task.attempt) in driver.commands
    assert [record.task for record in driver.records if isinstance(record, TimerCleared)] == [1]
    for signal in (driver.perform(task), CancelRequested(), TimerDue(task=1, due_unix_s=driver.now)):
        step = driver.apply(signal)
        assert (step.records, step.commands) == ([], [])
    assert driver.run.status is WorkflowStatus.CANCELED


# -- checkpoint=False --------------------------------------------------------------------------------------------------


def test_what_is_not_stored_is_computed_again_only_when_somebody_needs_it() -> None:
    nodes = (call("one", checkpoint=False), call("add", 0), call("one", checkpoint=False), call("see", 1, 2))
    driver = Driver(graph(*nodes), FUNCTIONS)
    for _ in range(3):
        driver.step()
    assert driver.calls == ["one", "one", "add"]
    driver.crash()
    assert [command.task for command in driver.kept(StartTask)] == [2]
    assert driver.finish() == [1, 1]


def test_nothing_below_an_unlogged_task_is_logged() -> None:
    functions = FUNCTIONS | {"more": lambda: graph(call("one"), call("add", 0))}
    driver = Driver(graph(call("more", checkpoint=False), call("see", 0)), functions)
    assert not driver.run.idle
    assert driver.finish() == [1]
    assert sum(isinstance(record, GraphLogged) for record in driver.records) == 1
    assert [record.task for record in driver.records if isinstance(record, TaskFinished)] == [1]


def test_a_task_in_back_off_waits_for_inputs_that_are_computed_again() -> None:
    policy = RetryPolicy(max_attempts=5, initial_s=10, jitter=0)
    tries = [0]

    def second_time(value: int) -> int:
        tries[0] += 1
        if tries[0] == 1:
            raise ValueError
        return value

    nodes = (call("one", checkpoint=False), call("second_time", 0, retry=policy))
    driver = Driver(graph(*nodes), FUNCTIONS | {"second_time": second_time})
    driver.go_on()
    driver.crash()
    driver.turn_clock(10)
    assert driver.calls == ["one", "second_time"]
    assert driver.finish() == 1


# -- in place ----------------------------------------------------------------------------------------------------------


def test_an_in_place_task_runs_where_its_last_input_was_made() -> None:
    driver = Driver(graph(call("one"), call("add", 0, in_place=True), call("add", 1)), FUNCTIONS)
    first = driver.next_task()
    assert first.hold
    driver.apply(driver.perform(first))
    second = driver.next_task()
    assert (second.place, second.hold) == ("worker", False)
    driver.apply(driver.perform(second))
    assert driver.next_task().place is None


def test_a_value_of_a_lost_worker_is_made_again_by_the_task_that_returned_it() -> None:
    tries = [0]

    def local() -> int:
        tries[0] += 1
        if tries[0] == 1:
            raise WorkerDied
        return 7

    functions = FUNCTIONS | {
        "more": lambda: graph(call("local", in_place=True, process_local=True), call("add", 0, in_place=True)),
        "local": local,
    }
    driver = Driver(graph(call("more", budget=RetryBudget(deaths=1)), call("see", 0)), functions)
    assert driver.finish() == [7]
    assert driver.calls == ["more", "local", "more", "local", "add", "see"]
    finished = [record.task_id for record in driver.records if isinstance(record, TaskFinished)]
    assert finished == ["more", "see"]


def test_a_run_with_values_in_a_worker_is_not_put_away() -> None:
    functions = FUNCTIONS | {
        "more": lambda: graph(call("one", in_place=True, process_local=True), sleep(5), call("see", 0, 1)),
    }
    driver = Driver(graph(call("more")), functions)
    driver.go_on()
    assert not driver.run.idle
    driver.turn_clock(5)
    assert driver.finish() == [1, None]
    assert [record.due_unix_s for record in driver.records if isinstance(record, TimerSet)] == [1_005.0]


def test_a_worker_that_dies_after_its_value_was_needed_restarts_nothing() -> None:
    """Two tasks of a lost worker report: the first restarts the task above, the second is stale."""
    functions = FUNCTIONS | {
        "more": lambda: graph(
            call("one", in_place=True, process_local=True),
            call("one", in_place=True, process_local=True),
            call("see", 0, 1),
        ),
    }
    driver = Driver(graph(call("more", budget=RetryBudget(deaths=1))), functions)
    driver.step()
    first, second = driver.next_task(), driver.next_task()
    for task in (first, second):
        driver.apply(TaskLost(task=task.task, attempt=task.attempt, error="gone"))
    assert driver.finish() == [1, 1]
    assert driver.calls.count("more") == 2


def test_what_a_task_is_given_is_what_was_logged() -> None:
    driver = Driver(graph(call("one"), call("see", 0)), FUNCTIONS)
    driver.step()
    assert [plain(value) for value in driver.next_task().values] == [1]


def test_a_task_left_over_from_a_wait_in_a_lost_worker_is_tried_again_by_itself() -> None:
    """The task above has its value already: it is not run again for what nobody waits for."""
    functions = FUNCTIONS | {
        "more": lambda: graph(
            call("one", in_place=True, process_local=True),
            call("one", budget=RetryBudget(deaths=1)),
            NodeSpec(task_id="wait", kind=NodeKind.WAIT, inputs=(0, 1)),
        ),
    }
    driver = Driver(graph(call("more"), sleep(5), call("see", 0, 1)), functions)
    driver.step()
    left_over = next(command for command in driver.kept(StartTask) if command.task == 4)
    driver.commands.remove(left_over)
    driver.go_on()
    driver.apply(TaskLost(task=4, attempt=1, error="gone"))
    assert [command.task for command in driver.kept(StartTask)] == [4]
    driver.turn_clock(5)
    assert driver.finish() == [([1], [4]), None]
