"""How options are given, how they ride through Ray, what they come to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import ray

from holdfast.actors.task_options import (
    Retry,
    WorkflowOptions,
    carried_options,
    check_options,
    is_retryable,
    load_ray_options,
    max_calls,
    resolve,
)
from holdfast.engine.retry import RetryBudget, RetryPolicy
from tests.ids import without_address


def plain(x=1):
    return x


def options_of(node) -> dict:
    return carried_options(node.get_options())


def resolved(node):
    return resolve(options_of(node), node.get_options())


def test_options_ride_in_a_bound_node() -> None:
    node = ray.remote(plain).options(**WorkflowOptions(task_id="a", metadata={"k": 1})).bind()
    assert options_of(node) == {"task_id": "a", "metadata": {"k": 1}}


def test_ray_sees_no_label_of_ours() -> None:
    node = ray.remote(plain).options(**WorkflowOptions(task_id="a")).bind()
    assert node.get_options()["_labels"] == {}


@pytest.mark.parametrize("how", ["decorator", "keywords"])
def test_later_options_win_key_by_key(how: str) -> None:
    first = WorkflowOptions(task_id="first", checkpoint=False)
    function = first(ray.remote(plain)) if how == "decorator" else ray.remote(**first)(plain)
    node = function.options(**WorkflowOptions(task_id="second", timeout_s=5)).bind()
    assert options_of(node) == {"task_id": "second", "checkpoint": False, "timeout_s": 5}
    assert options_of(function.bind()) == {"task_id": "first", "checkpoint": False}


def test_decorators_may_be_stacked_over_ray_options() -> None:
    function = WorkflowOptions(metadata={"a": 1})(WorkflowOptions(name="n", metadata={})(ray.remote(num_cpus=2)(plain)))
    node = function.options(num_cpus=1).bind()
    assert options_of(node) == {"task_id": "n", "metadata": {"a": 1}}
    assert node.get_options()["num_cpus"] == 1


def test_a_decorator_does_not_reach_back_to_nodes_bound_before() -> None:
    function = ray.remote(num_cpus=1)(plain)
    before = function.bind()
    WorkflowOptions(task_id="late")(function)
    assert options_of(before) == {}


@pytest.mark.parametrize("users_first", [True, False])
def test_labels_of_the_user_survive_on_either_side(users_first: bool) -> None:
    ours = WorkflowOptions(task_id="a")
    if users_first:
        node = ray.remote(_labels={"team": "x"})(plain).options(**ours).bind()
    else:
        node = ray.remote(**ours)(plain).options(_labels={"team": "x"}).bind()
    assert options_of(node) == {"task_id": "a"}
    assert node.get_options()["_labels"] == {"team": "x"}
    assert load_ray_options(resolved(node).options.ray_options) == {"_labels": {"team": "x"}}


def test_options_survive_pickling_with_their_function() -> None:
    function = pickle.loads(ray.cloudpickle.dumps(ray.remote(**WorkflowOptions(task_id="a"))(plain)))
    assert options_of(function.options(**WorkflowOptions(checkpoint=False)).bind()) == {
        "task_id": "a",
        "checkpoint": False,
    }


def test_only_remote_functions_are_decorated() -> None:
    with pytest.raises(ValueError, match=r"above @ray\.remote"):
        WorkflowOptions(task_id="a")(plain)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retries": 1}, r"'retries'.*task_id, name, metadata"),
        ({"metadata": [1]}, "metadata must be a dict"),
        ({"metadata": {"x": object()}}, "metadata must be JSON"),
        ({"metadata": {1: 2}}, "metadata must be JSON"),
        ({"max_retries": -2}, "max_retries.*-2"),
        ({"max_retries": "3"}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"task_id": ""}, "task_id"),
        ({"name": 3}, "name"),
        ({"name": "a", "task_id": "b"}, "same option"),
        ({"catch_exceptions": 1}, "catch_exceptions"),
        ({"checkpoint": "no"}, "checkpoint"),
        ({"allow_inplace": 0}, "allow_inplace"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"retry_exceptions": ValueError}, "retry_exceptions"),
        ({"retry_exceptions": [3]}, "retry_exceptions"),
        ({"retry": 3}, "retry"),
    ],
    ids=without_address,
)
def test_what_is_wrong_is_refused_at_once_and_named(given, said) -> None:
    with pytest.raises(ValueError, match=said):
        WorkflowOptions(**given)


def test_metadata_is_a_snapshot() -> None:
    mine = {"k": [1]}
    options = check_options({"metadata": mine})
    mine["k"].append(2)
    assert options["metadata"] == {"k": [1]}


@pytest.mark.parametrize(
    ("ours", "rays", "expected"),
    [
        ({}, {}, RetryBudget(deaths=3, errors=0)),
        ({}, {"max_retries": 5}, RetryBudget(deaths=5, errors=0)),
        ({"max_retries": 2}, {"max_retries": 5}, RetryBudget(deaths=2, errors=0)),
        ({"max_retries": 0}, {"max_retries": 5}, RetryBudget(deaths=0, errors=0)),
        ({"max_retries": 2, "retry_exceptions": True}, {}, RetryBudget(deaths=2, errors=2)),
        ({}, {"retry_exceptions": [ValueError]}, RetryBudget(deaths=3, errors=3)),
        ({"retry_exceptions": False}, {"retry_exceptions": True}, RetryBudget(deaths=3, errors=0)),
        ({"max_retries": -1, "retry_exceptions": True}, {}, RetryBudget(deaths=-1, errors=-1)),
        ({"max_retries": None}, {"max_retries": 4}, RetryBudget(deaths=4, errors=0)),
    ],
    ids=without_address,
)
def test_the_dag_api_has_one_counter(ours, rays, expected) -> None:
    assert resolve(check_options(ours), rays).options.budget == expected


@pytest.mark.parametrize(("retries", "errors"), [(None, 0), (4, 4), (-1, -1)])
def test_the_step_api_counts_exceptions_apart(retries, errors) -> None:
    budget = resolve(check_options({"max_retries": retries}), {}, step_api=True).options.budget
    assert budget == RetryBudget(deaths=3, errors=errors, shared=False)


def test_exception_types_are_filtered() -> None:
    options = resolve({"retry_exceptions": [OSError], "retry": Retry(non_retryable=(FileNotFoundError,))}, {}).options
    assert options.retry == RetryPolicy()
    assert is_retryable(options.exception_filter, PermissionError())
    assert not is_retryable(options.exception_filter, FileNotFoundError())
    assert not is_retryable(options.exception_filter, ValueError())


def test_no_filter_lets_everything_through() -> None:
    assert resolve({"retry_exceptions": True}, {}).options.exception_filter == b""
    assert is_retryable(b"", ValueError())


@pytest.mark.parametrize(
    "bad", [{"max_attempts": 0}, {"factor": 0.5}, {"initial_s": -1}, {"jitter": 2}, {"non_retryable": ("x",)}], ids=str
)
def test_a_retry_that_makes_no_sense_is_refused(bad) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Retry(**bad)


def test_only_rays_own_options_go_on_to_ray() -> None:
    function = ray.remote(num_cpus=0.5, max_retries=2, memory=1000, num_returns=1)(plain)
    node = function.options(name="shown", **WorkflowOptions(task_id="t")).bind()
    assert load_ray_options(resolved(node).options.ray_options) == {"num_cpus": 0.5, "memory": 1000}
    assert resolved(ray.remote(plain).bind()).options.ray_options == b""


@pytest.mark.parametrize(
    ("ray_options", "limit"),
    [({}, 0), ({"max_calls": 3}, 3), ({"max_calls": 0}, 0), ({"num_gpus": 1}, 1), ({"num_gpus": 1, "max_calls": 0}, 0)],
    ids=str,
)
def test_how_often_a_worker_may_run_a_function_goes_on_to_ray(ray_options: dict[str, Any], limit: int) -> None:
    function = ray.remote(num_cpus=1, **ray_options)(plain)
    named = function.options(**WorkflowOptions(task_id="t"))
    for node in (function.bind(), function.options(num_cpus=2).bind(), named.bind()):
        assert max_calls(resolved(node).options.ray_options) == limit
    assert resolved(named.bind()).task_id == "t"


def test_several_returns_are_refused() -> None:
    with pytest.raises(ValueError, match="num_returns=2"):
        resolved(ray.remote(num_returns=2)(plain).bind())


def test_all_plain_options_reach_the_engine() -> None:
    got = resolve(
        check_options(
            {
                "name": "n",
                "metadata": {"a": 1},
                "catch_exceptions": True,
                "checkpoint": False,
                "allow_inplace": True,
                "timeout_s": 2,
            }
        ),
        {},
    )
    options = got.options
    assert (got.task_id, options.metadata, options.timeout_s) == ("n", {"a": 1}, 2.0)
    assert (options.catch_exceptions, options.checkpoint, options.in_place) == (True, False, True)


def test_a_function_with_workflow_options_still_runs_as_a_plain_ray_task(local_ray) -> None:
    function = ray.remote(**WorkflowOptions(task_id="a", metadata={"k": 1}))(plain)
    assert ray.get(function.remote(2)) == 2
    assert ray.get(function.options(**WorkflowOptions(checkpoint=False)).remote(3)) == 3
