"""What we read from inside Ray's nodes is still there, and what we change of Ray changes nothing else."""

from __future__ import annotations

import pickle
import threading

import pytest
import ray
from ray.dag import DAGInputData, InputNode

from holdfast.actors import ray_dag


@ray.remote
def add(a, b=0):
    return a + b


def test_a_later_node_has_a_higher_number_and_inner_ones_come_first() -> None:
    first = add.bind(1)
    outer = add.bind(add.bind(2), add.bind(3))
    inner_left, inner_right = outer.get_args()
    orders = [ray_dag.build_order(node) for node in (first, inner_left, inner_right, outer)]
    assert orders == sorted(orders)
    assert len(set(orders)) == 4
    assert orders[0] > 0


def test_input_nodes_are_numbered_too_although_they_answer_any_attribute() -> None:
    with InputNode() as given:
        field = given.amount
    assert 0 < ray_dag.build_order(given) < ray_dag.build_order(field)


def test_the_number_survives_pickling() -> None:
    node = add.bind(1)
    assert ray_dag.build_order(pickle.loads(ray.cloudpickle.dumps(node))) == ray_dag.build_order(node)


def test_what_bind_was_given_can_be_read_back() -> None:
    node = add.options(num_cpus=0.5).bind(1, b=2)
    assert ray_dag.bound_arguments(node) == ((1,), {"b": 2})
    assert ray_dag.bound_options(node)["num_cpus"] == 0.5
    assert ray_dag.function_of(node)(1, 2) == 3


def test_nodes_of_one_function_share_their_options_dict() -> None:
    many = add.options(num_cpus=0.5)
    assert ray_dag.bound_options(many.bind(1)) is ray_dag.bound_options(many.bind(2))


def test_bind_takes_a_value_that_cannot_be_pickled_and_still_finds_nodes_beside_it() -> None:
    below = add.bind(1)
    lock = threading.Lock()
    node = add.bind([lock, below], b={"x": below})
    assert ray_dag.bound_arguments(node)[0][0][0] is lock
    assert below in node._upstream_nodes


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((5,), {}, 5),
        (([1, 2],), {}, [1, 2]),
    ],
)
def test_a_single_argument_is_the_input_itself(args, kwargs, expected) -> None:
    with InputNode() as given:
        assert ray_dag.resolve_input(given, args, kwargs) == expected


def test_several_arguments_are_taken_by_index_and_name() -> None:
    with InputNode() as given:
        assert ray_dag.resolve_input(given[1], (1, 2), {"x": 3}) == 2
        assert ray_dag.resolve_input(given["x"], (1, 2), {"x": 3}) == 3
        assert ray_dag.resolve_input(given.y, (1,), {"y": 4}) == 4
        assert isinstance(ray_dag.resolve_input(given, (1, 2), {}), DAGInputData)


def test_parts_of_a_single_argument_are_taken_as_python_does() -> None:
    class Order:
        amount = 7

    with InputNode() as given:
        assert ray_dag.resolve_input(given[0], ([8, 9],), {}) == 8
        assert ray_dag.resolve_input(given["k"], ({"k": 6},), {}) == 6
        assert ray_dag.resolve_input(given.amount, (Order(),), {}) == 7


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((Ellipsis,), {}), ((1,), {"other": 1})])
def test_an_input_that_was_not_given_is_named(args, kwargs) -> None:
    with InputNode() as given:
        node = given["missing"]
    with pytest.raises(TypeError, match="missing"):
        ray_dag.resolve_input(node, args, kwargs)


def test_no_input_at_all_is_refused() -> None:
    with InputNode() as given, pytest.raises(TypeError, match="none was given"):
        ray_dag.resolve_input(given, (), {})
