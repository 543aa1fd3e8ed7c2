"""What is refused before it could hang: empty, cyclic, or with an input that is not there."""

from __future__ import annotations

import pytest

from holdfast.engine.errors import InvalidGraphError
from holdfast.engine.graph import Graph, NodeSpec


def graph(*inputs: tuple[int, ...], sink: int | None = None) -> Graph:
    nodes = tuple(NodeSpec(task_id=f"t{at}", inputs=taken) for at, taken in enumerate(inputs))
    return Graph(nodes=nodes, sink=len(nodes) - 1 if sink is None else sink)


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(InvalidGraphError, match="no node"):
        graph().check()


@pytest.mark.parametrize("sink", [-1, 2])
def test_a_sink_that_is_not_there_is_refused(sink: int) -> None:
    with pytest.raises(InvalidGraphError, match=f"sink {sink} "):
        graph((), (0,), sink=sink).check()


@pytest.mark.parametrize("inputs", [((0,),), ((1,), (0,)), ((), (0, 3), (1,), (2,))])
def test_a_circle_is_refused_and_a_task_in_it_named(inputs: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InvalidGraphError, match="cyclic: task 't"):
        graph(*inputs).check()


def test_an_input_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidGraphError, match="'t1' takes input 7"):
        graph((), (7,)).check()


def test_inputs_from_before_must_be_known() -> None:
    graph((-4,)).check(known={3})
    with pytest.raises(InvalidGraphError, match="'t0' takes input -4"):
        graph((-4,)).check(known={2, 4})


def test_inputs_may_point_forwards_and_come_twice() -> None:
    graph((1, 1), (2,), (), sink=0).check()


def test_a_long_chain_is_checked_without_recursion() -> None:
    graph((), *((at,) for at in range(50_000))).check()
