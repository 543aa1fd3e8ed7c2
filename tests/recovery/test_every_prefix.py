"""A machine may die after any commit: from every prefix of its log another one comes to the same result.

Commits are atomic, so the prefixes of the log of commits are all the states that a store can be found in.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryPolicy
from holdfast.storage.memory import MemoryStore
from tests.recovery.small_machine import Case, Died, Machine, Moment

START_UNIX_S = 1_700_000_000.0


def node(function: str, *inputs: int, task_id: str = "", **options: Any) -> NodeSpec:
    return NodeSpec(task_id=task_id or function, function=function, inputs=inputs, options=TaskOptions(**options))


def wait(*inputs: int, num_returns: int = 1, timeout_s: float | None = None) -> NodeSpec:
    return NodeSpec(task_id="wait", kind=NodeKind.WAIT, inputs=inputs, num_returns=num_returns, duration_s=timeout_s)


def sleep(seconds: float, *inputs: int) -> NodeSpec:
    return NodeSpec(task_id="sleep", kind=NodeKind.SLEEP, duration_s=seconds, inputs=inputs)


def event(key: str | None, **about: Any) -> NodeSpec:
    """Reads a stream; without a key a listener is polled."""
    stream = None if key is None else ("http", key)
    return NodeSpec(task_id="event", kind=NodeKind.EVENT, stream=stream, **about)


def graph(*nodes: NodeSpec) -> Graph:
    """The last node is the sink."""
    return Graph(nodes=nodes, sink=len(nodes) - 1)


def stumble(*_: Any) -> None:
    raise ValueError("on purpose")


def countdown(name: str, **options: Any) -> dict[str, Any]:
    """A function that continues as itself, three times."""
    calls = {
        left: (lambda left=left: graph(node(f"{name}_{left - 1}", task_id=name, **options)) if left else "landed")
        for left in range(4)
    }
    return {f"{name}_{left}": function for left, function in calls.items()}


def gather(split: tuple[list[int], list[int]]) -> Any:
    ready, remaining = split
    if not remaining:
        return sum(ready)
    # The values so far travel in the name: a graph's arguments are opaque to the engine.
    return graph(wait(*remaining), node(f"gather+{sum(ready)}", 0))


class Functions(dict[str, Any]):
    """One for each name, those with a number in them too."""

    def __missing__(self, name: str) -> Any:
        carried = int(name.rpartition("+")[2])

        def gather_more(split: tuple[list[int], list[int]]) -> Any:
            ready, remaining = split
            total = carried + sum(ready)
            return graph(wait(*remaining), node(f"gather+{total}", 0)) if remaining else total

        return gather_more


FUNCTIONS = Functions(
    {
        "one": lambda: 1,
        "two": lambda: 2,
        "three": lambda: 3,
        "add": lambda *terms: sum(terms),
        "tell": lambda *given: repr(given),
        "stumble": stumble,
        "gather": gather,
        "into_failure": lambda: graph(node("one"), node("stumble", 0)),
        "into_sum": lambda: graph(node("one"), node("two"), node("add", 0, 1)),
        "first_ready": lambda split: split[0][0],
        **countdown("down"),
        **countdown("down_in_place", in_place=True),
    }
)


def case(*nodes: NodeSpec, **about: Any) -> Case:
    return Case(graphs={"w": graph(*nodes)}, functions=FUNCTIONS, **about)


RETRY = RetryPolicy(max_attempts=-1, initial_s=2.0, jitter=0.0)

CASES: dict[str, tuple[Case, dict[str, Any]]] = {
    "static": (
        case(node("one"), node("add", 0, 0), node("add", 0, 1), node("add", 1, 2)),
        {"w": 5},
    ),
    "continuation": (case(node("down_3", task_id="down"), node("tell", 0)), {"w": "('landed',)"}),
    "continuation_in_place": (
        case(node("down_in_place_3", task_id="down_in_place"), node("tell", 0)),
        {"w": "('landed',)"},
    ),
    "continuation_into_a_graph": (case(node("into_sum"), node("into_sum"), node("add", 0, 1)), {"w": 6}),
    "catch": (
        case(node("stumble", catch_exceptions=True), node("one", catch_exceptions=True), node("tell", 0, 1)),
        {"w": "((None, ValueError('on purpose')), (1, None))"},
    ),
    "catch_below_a_continuation": (
        case(node("into_failure", catch_exceptions=True), node("tell", 0)),
        {"w": "((None, ValueError('on purpose')),)"},
    ),
    "wait": (
        case(node("one"), node("two"), node("three"), wait(0, 1, 2), node("gather", 3)),
        {"w": 6},
    ),
    "wait_with_a_time_limit": (
        case(node("one"), sleep(100.0), wait(0, 1, num_returns=2, timeout_s=5.0), node("first_ready", 2)),
        {"w": 1},
    ),
    "sleep": (case(node("one"), sleep(10.0, 0), node("tell", 0, 1)), {"w": "(1, None)"}),
    "event_that_comes_early": (
        case(node("one"), event("k"), node("tell", 0, 1), events=[("w", "k", "news")], at_once=1),
        {"w": "(1, 'news')"},
    ),
    "event_that_comes_late": (
        case(
            event("k"),
            event("k"),
            node("tell", 0, 1),
            events=[("w", "other", 0), ("w", "k", "first"), ("w", "k", "second")],
        ),
        {"w": "('first', 'second')"},
    ),
    "event_to_acknowledge": (
        case(event("k", acknowledge=True), node("tell", 0), events=[("w", "k", "news")]),
        {"w": "('news',)"},
    ),
    "listener": (case(event(None, acknowledge=True), node("tell", 0)), {"w": "('heard by event',)"}),
    "not_logged": (
        case(
            node("one", checkpoint=False), node("two"), node("add", 0, 1), unlogged=frozenset({"one"})
        ),
        {"w": 3},
    ),
    "queue": (
        Case(
            graphs={name: graph(node("one"), node("add", 0)) for name in ("w", "x", "y")},
            functions=FUNCTIONS,
            limits={"max_running": 1},
        ),
        {"w": 1, "x": 1, "y": 1},
    ),
    "all_together": (
        case(
            node("into_sum"),
            sleep(3.0, 0),
            event("k"),
            node("stumble", 1, catch_exceptions=True),
            wait(0, 2, num_returns=1),
            node("first_ready", 4),
            node("tell", 2, 3, 5),
            events=[("w", "k", "news")],
        ),
        {"w": "('news', (None, ValueError('on purpose')), 3)"},
    ),
}  # fmt: skip


def replayed(moments: list[Moment]) -> MemoryStore:
    kv = MemoryStore()
    for moment in moments:
        kv.apply(moment.writes)
    return kv


def undisturbed(each: Case) -> list[Moment]:
    machine = Machine(each, MemoryStore(), now_unix_s=START_UNIX_S, answered=0)
    machine.run(new_cluster=False)
    return machine.log


def again(each: Case, log: list[Moment], dies_after: int | None = None) -> Machine:
    """A machine that finds the store as this log left it. Who had no answer before the last commit asks again."""
    last = log[-1] if log else Moment((), START_UNIX_S, 0)
    return Machine(each, replayed(log), now_unix_s=last.now_unix_s + 1, answered=last.answered, dies_after=dies_after)


@pytest.mark.parametrize("new_cluster", [False, True], ids=["new executor", "new cluster"])
@pytest.mark.parametrize("name", CASES)
def test_every_prefix_of_the_log_leads_to_the_same_result(name: str, new_cluster: bool) -> None:
    each, result = CASES[name]
    log = undisturbed(each)
    assert len(log) >= 4
    for length in range(len(log) + 1):
        machine = again(each, log[:length])
        machine.run(new_cluster=new_cluster)
        assert str(machine.outputs()) == str(result), f"after {length} commits"


@pytest.mark.parametrize("name", CASES)
def test_a_second_death_at_any_commit_of_the_recovery_changes_nothing(name: str) -> None:
    each, result = CASES[name]
    log = undisturbed(each)
    deaths = 0
    for length in range(len(log) + 1):
        dies_after = 1
        while True:
            machine = again(each, log[:length], dies_after)
            # In turn, so that both kinds of recovery meet every prefix.
            try:
                machine.run(new_cluster=bool((length + dies_after) % 2))
            except Died:
                deaths += 1
            else:
                break
            last = again(each, log[:length] + machine.log)
            last.run(new_cluster=bool(dies_after % 3))
            assert str(last.outputs()) == str(result), f"after {length} and {dies_after} commits"
            dies_after += 1
    assert deaths > len(log)


def test_a_prefix_that_lacks_a_commit_in_its_middle_is_noticed() -> None:
    """What is shown above could be shown of a log whose commits do not matter; they do."""
    each, result = CASES["continuation"]
    log = undisturbed(each)
    wrong = 0
    for missing in range(len(log)):
        machine = again(each, log[:missing] + log[missing + 1 :])
        try:
            machine.run(new_cluster=False)
            wrong += str(machine.outputs()) != str(result)
        except Exception:
            wrong += 1
    assert wrong > 0
