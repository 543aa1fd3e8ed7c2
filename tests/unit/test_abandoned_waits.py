"""What a wait left over, and nobody can read any more: it takes no event, and gives back the one that it took."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from holdfast.actors.nodes import TaskRefNode, take_pickled
from holdfast.engine.commands import AcknowledgeEvent, StartListener, StopListener
from holdfast.engine.graph import Graph
from holdfast.engine.records import EventGivenBack, Record, TaskFinished, TimerSet
from holdfast.engine.run import Run
from holdfast.engine.signals import EventPolled, Subscribed, TimerDue
from holdfast.engine.values import Split, Taken, Value
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Frame, open_frame, read_value, value_entry
from tests.unit.run_driver import STREAM, Driver, Naming, call, event, graph, image_of, sleep, wait

OTHER = ("http", "other")
OUTSIDE = ("kafka/default/orders", "all")


def refs(*remaining: int) -> tuple[int, ...]:
    """Inputs of a new graph: tasks that there are."""
    return tuple(-at - 1 for at in remaining)


def ask_afresh(_split: Any) -> Graph:
    """Drop what remains, and wait for the next event."""
    return graph(event(), call("see", 0))


FUNCTIONS: dict[str, Any] = {
    "a": lambda: "a",
    "b": lambda: "b",
    "see": lambda *values: list(values),
    "again": ask_afresh,
    "same": lambda *values: values[0],
}


def polls(times: int) -> Driver:
    """A loop that waits for half a second, and once more, and returns what came."""

    def poll(split: tuple[list[Any], list[int]], *seen: Any) -> Any:
        found = [*(seen[0] if seen else []), *split[0]]
        left.append(0)
        if len(left) > times:
            return found
        return graph(event(), wait(0, timeout_s=0.5), call("found"), call("poll", 1, 2), found=found)

    def graph(*nodes: Any, found: list[Any]) -> Graph:
        driver.functions["found"] = lambda: found
        return Graph(nodes=nodes, sink=len(nodes) - 1)

    left: list[int] = []
    driver = Driver(Graph(nodes=(event(), wait(0, timeout_s=0.5), call("poll", 1)), sink=2), {"poll": poll})
    return driver


@pytest.mark.parametrize("crashes", [False, True])
def test_a_loop_that_waits_with_a_time_limit_gets_every_event_in_order(crashes: bool) -> None:
    driver = polls(12)
    for at in range(8):
        driver.go_on()
        if at % 2 == 1:
            driver.send(at)
            driver.go_on()
        if crashes:
            driver.crash()
        driver.turn_clock(0.5)
    while driver.ended is None:
        driver.go_on()
        driver.turn_clock(0.5)
    assert driver.finish() == [1, 3, 5, 7]


def test_what_lost_a_wait_takes_no_event_once_it_is_dropped() -> None:
    driver = Driver(graph(event(stream=OTHER), event(), wait(0, 1), call("again", 2)), FUNCTIONS)
    driver.send("first", OTHER)
    driver.go_on()
    driver.send("second")
    assert driver.finish() == ["second"]


@pytest.mark.parametrize("crashes", [False, True])
def test_an_event_that_was_taken_meanwhile_goes_back_before_those_that_came_later(crashes: bool) -> None:
    def twice(_split: Any) -> Graph:
        return graph(event(), event(0), call("see", 0, 1))

    driver = Driver(graph(call("a"), event(), wait(0, 1), call("twice", 2)), FUNCTIONS | {"twice": twice})
    driver.step()
    reader = driver.next_task()
    driver.send("early")
    driver.send("late")
    assert any(isinstance(record, TaskFinished) and record.task == 1 for record in driver.records)
    driver.apply(driver.perform(reader))
    given_back = [record for record in driver.records if isinstance(record, EventGivenBack)]
    assert [(one.task, one.number, one.value) for one in given_back] == [(1, 1, "early")]
    if crashes:
        driver.crash()
    assert driver.finish() == ["early", "late"]


def test_both_of_two_events_that_were_there_are_read_one_after_the_other() -> None:
    nodes = (event(), event(), wait(0, 1), call("again", 2))
    driver = Driver(graph(call("a"), *(replace(node, inputs=(0,)) for node in nodes[:2]), wait(1, 2), call("again", 3)))
    driver.functions |= FUNCTIONS
    driver.send("one")
    driver.send("two")
    assert driver.finish() == ["two"]


def test_what_is_waited_for_again_or_returned_or_pickled_is_in_use() -> None:
    def wait_again(split: tuple[list[Any], list[int]]) -> Graph:
        return graph(wait(*refs(*split[1])), call("see", 0))

    def from_value(remaining: list[int]) -> Graph:
        return graph(wait(*refs(*remaining)), call("see", 0))

    start = (event(), wait(0, timeout_s=1))
    returned = FUNCTIONS | {"give": lambda split: Naming(split[1], names=tuple(split[1])), "use": from_value}
    pickled = FUNCTIONS | {"give": lambda split: Naming(7, kept=tuple(split[1])), "use": lambda _: from_value([0])}
    for functions, nodes in (
        (FUNCTIONS | {"use": wait_again}, (*start, call("use", 1))),
        (returned, (*start, call("give", 1), call("use", 2))),
        (pickled, (*start, call("give", 1), call("use", 2))),
    ):
        for crash_at in ("never", "early", "late"):
            driver = Driver(graph(*nodes), functions)
            driver.turn_clock(1)
            driver.step()
            if crash_at == "early":
                driver.crash()
            driver.go_on()
            if crash_at == "late":
                driver.crash()
            driver.send("yes")
            assert driver.finish() == [(["yes"], [])]


def test_what_was_returned_and_then_dropped_takes_no_event() -> None:
    functions = FUNCTIONS | {"give": lambda split: Naming(split[1], names=tuple(split[1]))}
    for crashes in (False, True):
        driver = Driver(graph(event(), wait(0, timeout_s=1), call("give", 1), call("again", 2)), functions)
        driver.turn_clock(1)
        driver.go_on()
        if crashes:
            driver.crash()
        driver.send("yes")
        assert driver.finish() == ["yes"]


def test_a_task_that_may_run_again_after_a_crash_may_still_use_what_remains() -> None:
    def use(_seven: Any) -> Graph:
        return graph(call("a"))

    runs = []

    def forgets_once(split: tuple[list[Any], list[int]]) -> Any:
        runs.append(0)
        return 7 if len(runs) == 1 else Naming(split[1], names=tuple(split[1]))

    nodes = (event(), wait(0, timeout_s=1), call("forgets", 1, checkpoint=False), call("use", 2))
    driver = Driver(graph(*nodes), FUNCTIONS | {"forgets": forgets_once, "use": use})
    driver.turn_clock(1)
    driver.step()
    # Its result is in no record: the reader's end has not been logged.
    driver.send("taken")
    assert any(isinstance(record, TaskFinished) and record.task == 0 for record in driver.records)
    assert not any(isinstance(record, EventGivenBack) for record in driver.records)
    driver.crash()
    driver.step()
    assert not any(isinstance(record, EventGivenBack) for record in driver.records)
    driver.step()
    assert any(isinstance(record, EventGivenBack) for record in driver.records)
    assert driver.finish() == "a"


def test_waits_below_what_is_dropped_are_withdrawn_too() -> None:
    def below() -> Graph:
        return graph(event(), call("same", 0))

    for node in (call("below"), call("below", catch_exceptions=True)):
        nodes = (call("a"), node, wait(0, 1), call("again", 2))
        driver = Driver(graph(*nodes), FUNCTIONS | {"below": below})
        first, second = driver.next_task(), driver.next_task()
        driver.apply(driver.perform(second))
        driver.apply(driver.perform(first))
        driver.go_on()
        driver.send("yes")
        assert driver.finish() == ["yes"]


def test_an_event_below_goes_back_when_what_takes_it_can_never_run() -> None:
    nodes = (call("a"), event(), event(stream=OTHER), call("see", 1, 2), wait(0, 3), call("again", 4))
    driver = Driver(graph(*nodes), FUNCTIONS)
    first = driver.next_task()
    driver.send("yes")
    driver.apply(driver.perform(first))
    assert driver.finish() == ["yes"]


def test_what_comes_to_wait_for_an_event_after_it_was_dropped_does_not_begin_to() -> None:
    nodes = (call("a"), call("below"), wait(0, 1), call("again", 2))
    driver = Driver(graph(*nodes), FUNCTIONS | {"below": lambda: graph(event(), call("same", 0))})
    first, slow = driver.next_task(), driver.next_task()
    driver.apply(driver.perform(first))
    driver.step()
    driver.apply(driver.perform(slow))
    driver.send("yes")
    assert driver.finish() == ["yes"]


def test_a_plain_task_that_is_dropped_runs_to_its_end() -> None:
    for crashes in (False, True):
        nodes = (call("a"), sleep(5), call("b", 1), wait(0, 2), call("later", 3))
        driver = Driver(graph(*nodes), FUNCTIONS | {"later": lambda _: graph(sleep(9), call("a", 0))})
        driver.functions["a"] = lambda *_: "a"
        driver.functions["b"] = lambda *_: "b"
        driver.go_on()
        if crashes:
            driver.crash()
        driver.turn_clock(5)
        driver.go_on()
        assert driver.calls.count("b") == 1
        driver.turn_clock(5)
        assert driver.finish() == "a"


def test_a_snapshot_says_which_dropped_tasks_go_on_and_which_events_were_read() -> None:
    nodes = (call("a"), sleep(5), call("b", 1), event(), call("see", 3), wait(0, 2, 4), call("later", 5))
    driver = Driver(graph(*nodes), FUNCTIONS | {"later": lambda _: graph(event(stream=OTHER))})
    driver.send("read")
    driver.functions["see"] = lambda _value: graph(sleep(9))
    driver.go_on()
    assert driver.run.idle
    snapshot = driver.run.snapshot(saves=-1000)
    assert snapshot is not None
    assert {1, 2, 4} <= set(snapshot.live)
    assert snapshot.unread == (2, 4)
    image = image_of(driver.records, driver.events)
    again, _ = Run.load("w", replace(image, snapshot=snapshot), driver.now)
    told, _ = Run.load("w", image, driver.now)
    assert again.live_tasks == told.live_tasks
    assert again.snapshot(saves=-1000) == told.snapshot(saves=-1000) == snapshot


def test_a_poll_that_is_dropped_is_cancelled_and_not_acknowledged() -> None:
    nodes = (call("a"), event(stream=None, acknowledge=True), wait(0, 1), call("again", 2))
    driver = Driver(graph(*nodes), FUNCTIONS)
    polling = driver.kept(StartListener)[0]
    driver.apply(driver.perform(driver.next_task()))
    step = driver.apply(driver.perform(driver.next_task()))
    assert StopListener(task=polling.task, attempt=polling.attempt) in step.commands
    driver.apply(EventPolled(task=polling.task, attempt=polling.attempt, value="late"))
    assert not driver.kept(AcknowledgeEvent)
    driver.send("yes")
    assert driver.finish() == ["yes"]


def test_an_event_that_was_not_acknowledged_yet_goes_back() -> None:
    nodes = (call("a"), event(acknowledge=True), wait(0, 1), call("again", 2))
    driver = Driver(graph(*nodes), FUNCTIONS)
    first = driver.next_task()
    driver.send("yes")
    assert driver.kept(AcknowledgeEvent)
    driver.apply(driver.perform(first))
    assert driver.finish() == ["yes"]


def test_events_of_a_scope_that_failed_go_back_when_nobody_has_read_them() -> None:
    def risky() -> Graph:
        return graph(event(), event(stream=OTHER, duration_s=1), call("see", 0, 1))

    for crashes in (False, True):
        driver = Driver(graph(call("risky", catch_exceptions=True), call("again", 0)), FUNCTIONS | {"risky": risky})
        driver.go_on()
        driver.send("yes")
        driver.turn_clock(1)
        if crashes:
            driver.crash()
        assert driver.finish() == ["yes"]


def test_an_event_that_a_task_was_given_does_not_go_back() -> None:
    def stuck(_value: Any) -> Graph:
        return graph(event(stream=OTHER))

    nodes = (call("a"), event(), call("stuck", 1), wait(0, 2), call("again", 3))
    driver = Driver(graph(*nodes), FUNCTIONS | {"stuck": stuck})
    first = driver.next_task()
    driver.send("read")
    driver.step()
    driver.apply(driver.perform(first))
    driver.go_on()
    driver.send("next")
    assert driver.finish() == ["next"]
    assert not any(isinstance(record, EventGivenBack) for record in driver.records)


def test_a_stream_of_an_outside_source_is_left_in_the_step_that_withdraws_its_wait() -> None:
    driver = Driver(graph(event(stream=OUTSIDE), wait(0, timeout_s=1), call("again", 1)), FUNCTIONS)
    driver.turn_clock(1)
    step = driver.apply(driver.perform(driver.next_task()))
    assert step.left == [OUTSIDE]
    assert not driver.run.awaits(OUTSIDE)


def test_a_stream_of_an_outside_source_is_left_when_the_time_limit_of_its_wait_is_over() -> None:
    node = event(stream=OUTSIDE, duration_s=1)
    driver = Driver(graph(node, call("a"), wait(0, 1, num_returns=1), call("see", 2)), FUNCTIONS)
    timer = next(record for record in driver.records if isinstance(record, TimerSet))
    driver.now = timer.due_unix_s
    assert driver.apply(TimerDue(task=timer.task, due_unix_s=timer.due_unix_s)).left == [OUTSIDE]


def test_a_listener_whose_stream_became_known_by_itself_leaves_it() -> None:
    driver = Driver(graph(call("a"), event(stream=None), wait(0, 1), call("again", 2)), FUNCTIONS)
    polling = driver.kept(StartListener)[0]
    driver.apply(Subscribed(task=polling.task, attempt=polling.attempt, stream=STREAM))
    driver.go_on()
    driver.send("yes")
    assert driver.finish() == ["yes"]


def old(records: list[Record]) -> list[Record]:
    """The records as a version wrote them that did not say which remaining tasks values name."""
    found: list[Record] = []
    for record in records:
        if not isinstance(record, TaskFinished):
            found.append(record)
            continue
        base = record.value.base
        base = replace(base, counted=False) if isinstance(base, Split) else base
        found.append(replace(record, value=replace(record.value, base=base, names=(), taken=None), kept=()))
    return found


def test_records_of_an_earlier_version_say_enough_for_a_loop_to_go_on() -> None:
    driver = polls(4)
    for _ in range(2):
        driver.go_on()
        driver.turn_clock(0.5)
    driver.go_on()
    driver.records = old(driver.records)
    driver.crash()
    driver.send("one")
    driver.go_on()
    driver.send("two")
    driver.go_on()
    for _ in range(2):
        driver.turn_clock(0.5)
        driver.go_on()
    assert driver.finish() == ["one", "two"]


def test_what_a_result_of_an_earlier_version_may_name_is_in_use() -> None:
    def use(remaining: list[int]) -> Graph:
        return graph(wait(*refs(*remaining)), call("see", 0))

    functions = FUNCTIONS | {"give": lambda split: split[1], "use": use}
    nodes = (event(), wait(0, timeout_s=1), call("give", 1), call("same", 2), sleep(5), call("use", 3, 4))
    functions["use"] = lambda remaining, _slept: use(remaining)
    driver = Driver(graph(*nodes), functions)
    driver.turn_clock(1)
    while driver.calls != ["give", "same"]:
        # As the earlier version did it: what remains stays, whoever has read the split.
        command = driver.next_task()
        signal = driver.perform(command)
        driver.apply(replace(signal, names=(0,)))  # type: ignore[call-arg]
    driver.records = old(driver.records)
    driver.crash()
    driver.turn_clock(5)
    driver.go_on()
    driver.send("yes")
    assert driver.finish() == [(["yes"], [])]


def test_rows_say_what_values_name_and_which_event_they_are() -> None:
    split = Split(ready=(), remaining=((1, "t"),))
    event_value = Value(Payload(b"v"), names=(2, 3), taken=Taken(STREAM, 7, 1))
    for value in (Value(split), event_value):
        frame = Frame()
        header, pieces = open_frame(frame.close({"value": value_entry(value, frame)}))
        again, _ = read_value(header["value"], pieces)
        assert (again.names, again.taken) == (value.names, value.taken)
        assert not isinstance(again.base, Split) or again.base == split
    # As an earlier version wrote it.
    before, _ = read_value({"base": {"ready": [], "remaining": [[1, "t"]]}}, ())
    assert before.base == replace(split, counted=False)


def test_a_remaining_task_that_is_pickled_is_noted_for_its_workflow() -> None:
    take_pickled("w")
    pickle.dumps([TaskRefNode("w", 3, "t"), TaskRefNode("w", 1, "u")])
    pickle.dumps(TaskRefNode("another", 9, "t"))
    assert take_pickled("w") == (1, 3)
    assert take_pickled("w") == ()
