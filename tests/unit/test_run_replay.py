"""The replay law: every prefix of a run's log loads, and goes on to the same result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.engine.commands import StartTask
from holdfast.engine.graph import Graph, TaskOptions
from holdfast.engine.records import EventTaken, TaskContinuing, TaskFinished, WorkflowEnded
from tests.unit.run_driver import Driver, call, event, graph, sleep, wait


def _down(left: int) -> Any:
    return "ground" if left == 0 else graph(call(f"number{left - 1}"), call("down", 0))


FUNCTIONS: dict[str, Any] = {
    "a": lambda: 1,
    "add": lambda *values: sum(values),
    "see": lambda *values: list(values),
    "broken": lambda *values: 1 / 0,
    "down": _down,
    "more": lambda: graph(call("a"), call("add", 0, 0)),
    "deep": lambda: graph(call("middle", catch_exceptions=True)),
    "middle": lambda: graph(call("more"), call("broken", 0)),
    "all": lambda split: graph(wait(*(-at - 1 for at in split[1]), num_returns=len(split[1])), call("see", 0)),
} | {f"number{number}": (lambda number=number: number) for number in range(20)}

WORKFLOWS: dict[str, Callable[[], Graph]] = {
    "chain": lambda: graph(call("a"), call("add", 0, 0), call("add", 1, 1)),
    "fan-out": lambda: graph(*(call("a") for _ in range(6)), call("add", *range(6))),
    "recursion": lambda: graph(call("number12"), call("down", 0), call("see", 1)),
    "caught far below": lambda: graph(call("deep", catch_exceptions=True), call("see", 0)),
    "unlogged": lambda: graph(call("more", checkpoint=False), call("add", 0, checkpoint=False), call("see", 0, 1)),
    "wait and pass on": lambda: graph(call("a"), call("more"), call("a"), wait(0, 1, 2), call("all", 3)),
    "sleep": lambda: graph(sleep(5), call("more"), call("see", 0, 1)),
    "events": lambda: graph(event(), event(0), call("see", 0, 1)),
    "event not logged": lambda: graph(event(options=TaskOptions(checkpoint=False)), call("more"), call("see", 0, 1)),
}


def drive(driver: Driver) -> Any:
    while driver.ended is None:
        driver.go_on()
        if driver.ended is None:
            assert driver.run.waits_for()
            driver.turn_clock(5)
    return driver.finish()


def submit(name: str) -> Driver:
    driver = Driver(WORKFLOWS[name](), FUNCTIONS)
    if "event" in name:
        driver.send("x")
        driver.send("y")
    return driver


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_prefix_of_the_log_goes_on_to_the_same_result(name: str) -> None:
    whole = submit(name)
    expected = drive(whole)
    boundaries = steps_of(name)
    assert boundaries
    for length in boundaries:
        again = submit(name)
        drive(again)
        before = Counter(
            record.task for record in again.records[:length] if isinstance(record, TaskFinished | TaskContinuing)
        )
        again.calls.clear()
        again.now = 1_000.0
        again.crash(length)
        started = {command.task for command in again.commands if isinstance(command, StartTask)}
        assert not started & set(before), f"a logged task runs again after {length} records"
        assert drive(again) == expected, f"after {length} of {len(whole.records)} records"
        taken = [record.number for record in again.records if isinstance(record, EventTaken)]
        assert len(taken) == len(set(taken))


def steps_of(name: str) -> list[int]:
    """After how many records each transaction ended, but for the last."""
    driver = submit(name)
    boundaries = [len(driver.records)]
    while driver.ended is None:
        if not driver.step():
            driver.turn_clock(5)
        boundaries.append(len(driver.records))
    assert isinstance(driver.records[-1], WorkflowEnded)
    return sorted(set(boundaries[:-1]))
