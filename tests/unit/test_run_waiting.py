"""A run that waits: for tasks, for times, for events."""

from __future__ import annotations

from typing import Any

from holdfast.engine.commands import AcknowledgeEvent, StartListener, StopListener
from holdfast.engine.graph import TaskOptions
from holdfast.engine.records import EventTaken, TaskFinished, TaskWaiting
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.retrying import LISTENED_WELL_S
from holdfast.engine.signals import (
    CancelRequested,
    EventAcknowledged,
    EventPolled,
    Subscribed,
    TaskLost,
    TaskRaised,
    TimerDue,
)
from tests.unit.run_driver import STREAM, Driver, WorkerDied, call, event, graph, sleep, wait

FUNCTIONS: dict[str, Any] = {"a": lambda: "a", "b": lambda: "b", "c": lambda: "c", "see": lambda *values: list(values)}


# -- wait --------------------------------------------------------------------------------------------------------------


def test_a_wait_splits_when_enough_is_ready_in_the_order_of_its_inputs() -> None:
    nodes = (call("a"), call("b"), call("c"), wait(0, 1, 2, num_returns=2), call("see", 3))
    driver = Driver(graph(*nodes), FUNCTIONS)
    a, b, c = (driver.next_task() for _ in range(3))
    driver.apply(driver.perform(c))
    driver.apply(driver.perform(a))
    late = driver.perform(b)
    assert driver.finish() == [(["a", "c"], [1])]
    assert driver.apply(late).records == []


def test_a_sleep_whose_length_an_older_version_lost_goes_on_for_ever() -> None:
    """Infinity was stored as null."""
    driver = Driver(graph(sleep(None), call("see", 0)), FUNCTIONS)  # type: ignore[arg-type]
    driver.go_on()
    for _ in range(2):
        driver.turn_clock(1e9)
        driver.go_on()
        assert driver.calls == []
        driver.crash()


def test_a_split_is_the_same_for_every_reader_and_after_a_crash() -> None:
    nodes = (call("a"), call("b"), wait(0, 1), call("see", 2), call("see", 2), call("see", 3, 4))
    driver = Driver(graph(*nodes), FUNCTIONS)
    driver.next_task()
    driver.step()
    driver.crash()
    driver.apply(driver.perform(driver.next_task()))
    assert driver.finish() == [[(["b"], [0])], [(["b"], [0])]]


def test_what_remains_can_be_passed_on_and_waited_for_again_after_a_crash_too() -> None:
    def rest(split: tuple[list[str], list[int]]) -> Any:
        ready, remaining = split
        return ready if not remaining else graph(wait(*(-at - 1 for at in remaining)), call("rest", 0))

    nodes = (call("a"), call("b"), call("c"), wait(0, 1, 2), call("rest", 3))
    driver = Driver(graph(*nodes), FUNCTIONS | {"rest": rest})
    slow = {driver.next_task().node.function: None for _ in range(2)}
    driver.go_on()
    driver.crash()
    assert set(slow) == {"a", "b"}
    assert driver.finish() == ["b"]
    assert sorted(driver.calls) == ["a", "b", "c", "rest", "rest", "rest"]


def test_what_remains_of_a_wait_in_a_task_that_caught_nothing_is_found_after_a_crash() -> None:
    def rest(caught: tuple[tuple[list[str], list[int]], None]) -> Any:
        return graph(wait(*(-at - 1 for at in caught[0][1])), call("see", 0))

    functions = FUNCTIONS | {"more": lambda: graph(call("a"), call("b"), wait(0, 1)), "rest": rest}
    driver = Driver(graph(call("more", catch_exceptions=True), call("rest", 0)), functions)
    driver.step()
    driver.next_task()
    driver.step()
    driver.crash()
    assert driver.finish() == [(["a"], [])]


def test_a_wait_gives_up_at_its_time_limit_which_survives_a_crash() -> None:
    driver = Driver(graph(call("a"), wait(0, timeout_s=5), call("see", 1)), FUNCTIONS)
    driver.next_task()
    driver.turn_clock(4)
    driver.crash()
    driver.next_task()
    driver.turn_clock(0.9)
    assert not driver.commands
    driver.turn_clock(0.1)
    assert driver.finish() == [([], [0])]


def test_a_wait_for_what_is_not_stored_keeps_the_values_of_its_split() -> None:
    nodes = (call("a", checkpoint=False), call("b", checkpoint=False), wait(0, 1), call("see", 2))
    driver = Driver(graph(*nodes), FUNCTIONS)
    driver.step()
    logged = [record.task for record in driver.records if isinstance(record, TaskFinished)]
    assert logged == [0, 2]
    driver.crash()
    assert driver.finish() == [(["a"], [1])]


def test_a_split_of_tasks_that_are_not_logged_is_not_logged_and_decided_again() -> None:
    functions = FUNCTIONS | {
        "more": lambda: graph(call("less", checkpoint=False)),
        "less": lambda: graph(call("a"), call("b"), wait(0, 1)),
    }
    driver = Driver(graph(call("more"), call("see", 0)), functions)
    for _ in range(3):
        driver.step()
    assert not any(isinstance(record, TaskFinished) for record in driver.records)
    driver.crash()
    assert driver.finish()[0][0] == ["a"]
    assert driver.calls.count("more") == 1
    assert driver.calls.count("less") == 2


# -- sleep -------------------------------------------------------------------------------------------------------------


def test_a_sleep_ends_at_its_logged_deadline_and_not_before() -> None:
    driver = Driver(graph(sleep(10), call("see", 0)), FUNCTIONS)
    assert driver.run.idle
    driver.turn_clock(6)
    driver.crash()
    driver.apply(TimerDue(task=0, due_unix_s=driver.now))
    assert not driver.commands
    driver.turn_clock(4)
    assert driver.finish() == [None]
    finished = next(record for record in driver.records if isinstance(record, TaskFinished))
    assert (finished.started_unix_s, finished.ended_unix_s) == (1_000.0, 1_010.0)


# -- events ------------------------------------------------------------------------------------------------------------


def test_an_event_that_comes_before_its_waiter_waits_for_it() -> None:
    driver = Driver(graph(call("a"), event(0), call("see", 1)), FUNCTIONS)
    driver.send("early")
    assert driver.finish() == ["early"]


def test_an_event_wakes_its_waiter_which_waits_without_being_held() -> None:
    driver = Driver(graph(event(), call("see", 0)), FUNCTIONS)
    assert driver.run.idle
    assert driver.run.waits_for() == ["event: for a time, a stream, or other tasks"]
    driver.crash()
    driver.send("late")
    assert driver.finish() == ["late"]


def test_events_are_taken_in_order_and_once_however_often_they_are_told() -> None:
    driver = Driver(graph(event(), event(), event(), call("see", 0, 1, 2)), FUNCTIONS)
    for value in "xyz":
        driver.apply(driver.send(value))
    assert driver.finish() == ["x", "y", "z"]
    assert [record.number for record in driver.records if isinstance(record, EventTaken)] == [1, 2, 3]


def test_thousands_of_events_that_have_arrived_are_taken_in_one_step_without_recursion() -> None:
    total = 5_000
    nodes = [call("a"), event(0), *(event(at) for at in range(1, total))]
    driver = Driver(graph(*nodes, call("see", total)), FUNCTIONS)
    for number in range(total):
        driver.send(number)
    assert driver.finish() == [total - 1]


def test_an_event_an_unlogged_task_took_stays_in_the_inbox_until_nobody_needs_it() -> None:
    driver = Driver(graph(event(options=TaskOptions(checkpoint=False)), call("a"), call("see", 0, 1)), FUNCTIONS)
    driver.send("x")
    assert not any(isinstance(record, EventTaken) for record in driver.records)
    driver.crash()
    assert driver.finish() == ["x", "a"]
    assert sum(isinstance(record, EventTaken) for record in driver.records) == 1


def test_an_event_that_a_task_of_a_lost_worker_took_is_taken_again() -> None:
    tries = [0]

    def local() -> str:
        tries[0] += 1
        if tries[0] == 1:
            raise WorkerDied
        return "local"

    functions = FUNCTIONS | {
        "more": lambda: graph(event(), call("local", in_place=True, process_local=True), call("see", 0, 1)),
        "local": local,
    }
    driver = Driver(graph(call("more", budget=RetryBudget(deaths=1))), functions)
    driver.send("x")
    assert driver.finish() == ["x", "local"]
    assert sum(isinstance(record, EventTaken) for record in driver.records) == 1


def test_an_event_is_acknowledged_when_it_is_durable_and_again_after_a_crash() -> None:
    driver = Driver(graph(event(acknowledge=True), call("see", 0)), FUNCTIONS)
    driver.send("x")
    taken = next(at for at, record in enumerate(driver.records) if isinstance(record, EventTaken))
    kept = driver.records[taken + 1]
    assert isinstance(kept, TaskWaiting)
    assert kept.event is not None
    assert len(driver.kept(AcknowledgeEvent)) == 1
    assert not driver.run.idle
    driver.crash()
    (again,) = driver.kept(AcknowledgeEvent)
    assert again.event.base == "x"
    driver.apply(EventAcknowledged(task=again.task, attempt=again.attempt))
    assert driver.finish() == ["x"]


def test_an_event_is_kept_while_the_listener_backs_off_from_acknowledging_it() -> None:
    policy = RetryPolicy(max_attempts=3, initial_s=10, jitter=0)
    driver = Driver(graph(event(acknowledge=True, options=TaskOptions(retry=policy)), call("see", 0)), FUNCTIONS)
    driver.send("x")
    (asked,) = driver.kept(AcknowledgeEvent)
    driver.apply(TaskRaised(task=asked.task, attempt=asked.attempt, error="not now"))
    driver.crash()
    assert not driver.kept(AcknowledgeEvent)
    driver.turn_clock(10)
    (again,) = driver.kept(AcknowledgeEvent)
    driver.apply(EventAcknowledged(task=again.task, attempt=again.attempt))
    assert driver.finish() == ["x"]


def test_a_polled_listener_is_asked_again_after_a_crash_and_heard_once() -> None:
    driver = Driver(graph(event(stream=None), call("see", 0)), FUNCTIONS)
    assert len(driver.kept(StartListener)) == 1
    assert not driver.run.idle
    driver.crash()
    (asked,) = driver.kept(StartListener)
    for value in ("first", "second"):
        driver.apply(EventPolled(task=asked.task, attempt=asked.attempt, value=value))
    assert driver.finish() == ["first"]


def test_a_listener_may_subscribe_to_a_stream_or_to_a_time() -> None:
    driver = Driver(graph(event(stream=None), event(stream=None), call("see", 0, 1)), FUNCTIONS)
    first, second = driver.kept(StartListener)
    driver.apply(Subscribed(task=first.task, attempt=first.attempt, stream=STREAM))
    driver.apply(Subscribed(task=second.task, attempt=second.attempt, due_unix_s=driver.now + 3))
    assert driver.run.idle
    driver.crash()
    driver.send("x")
    driver.turn_clock(3)
    assert driver.finish() == ["x", None]


def test_polls_that_fail_are_counted_over_crashes() -> None:
    options = TaskOptions(budget=RetryBudget(errors=2, shared=False))
    driver = Driver(graph(event(stream=None, options=options)), FUNCTIONS)
    for _ in range(3):
        assert driver.ended is None
        driver.crash()
        (asked,) = driver.kept(StartListener)
        driver.apply(TaskRaised(task=asked.task, attempt=asked.attempt, error="deaf"))
    assert driver.ended is not None


def test_a_listener_that_raises_is_asked_again_after_a_back_off_that_survives_a_crash() -> None:
    policy = RetryPolicy(max_attempts=2, initial_s=10, jitter=0)
    driver = Driver(graph(event(stream=None, options=TaskOptions(retry=policy))))
    (asked,) = driver.kept(StartListener)
    driver.apply(TaskRaised(task=asked.task, attempt=asked.attempt, error="deaf"))
    assert driver.run.idle
    driver.crash()
    driver.turn_clock(9)
    assert not driver.kept(StartListener)
    driver.turn_clock(1)
    (asked,) = driver.kept(StartListener)
    driver.apply(TaskRaised(task=asked.task, attempt=asked.attempt, error="deaf"))
    assert driver.ended is not None
    assert driver.ended.error == "deaf"


def test_it_is_said_how_many_processes_a_listener_has_ended_and_an_error_is_none() -> None:
    policy = RetryPolicy(max_attempts=9, initial_s=0, jitter=0)
    options = TaskOptions(retry=policy)
    driver = Driver(graph(event(stream=None, acknowledge=True, options=options), call("see", 0)), FUNCTIONS)
    for deaths, failure in enumerate((TaskLost, TaskLost, TaskRaised)):
        (asked,) = driver.kept(StartListener)
        assert asked.deaths == deaths
        driver.commands.clear()
        driver.apply(failure(task=asked.task, attempt=asked.attempt, error="gone"))
    driver.crash()
    (asked,) = driver.kept(StartListener)
    assert asked.deaths == 2
    driver.apply(EventPolled(task=asked.task, attempt=asked.attempt, value="x"))
    (told,) = driver.kept(AcknowledgeEvent)
    assert told.deaths == 0
    driver.apply(TaskLost(task=told.task, attempt=told.attempt, error="gone"))
    driver.crash()
    assert [command.deaths for command in driver.kept(AcknowledgeEvent)] == [1]


def test_errors_of_a_listener_that_then_polled_well_for_long_count_no_more_but_deaths_do() -> None:
    policy = RetryPolicy(max_attempts=3, initial_s=0, jitter=0)
    driver = Driver(graph(event(stream=None, options=TaskOptions(retry=policy))))

    def fails(failure: type[TaskRaised] | type[TaskLost], after_s: float) -> None:
        (asked,) = driver.kept(StartListener)
        driver.commands.clear()
        times = {"started_unix_s": driver.now, "ended_unix_s": driver.now + after_s}
        driver.apply(failure(task=asked.task, attempt=asked.attempt, error="deaf", **times))

    for _ in range(5):
        fails(TaskRaised, LISTENED_WELL_S)
    fails(TaskLost, LISTENED_WELL_S)
    assert driver.ended is None
    fails(TaskRaised, LISTENED_WELL_S)
    assert driver.ended is None
    fails(TaskLost, LISTENED_WELL_S)
    assert driver.ended is not None


def test_cancel_stops_listeners() -> None:
    driver = Driver(graph(event(stream=None)), FUNCTIONS)
    driver.apply(CancelRequested())
    assert len(driver.kept(StopListener)) == 1
