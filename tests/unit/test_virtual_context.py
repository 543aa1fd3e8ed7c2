"""What a method that is run again asks for again, and when it is said to wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast import workflow
from holdfast.actors.virtual.context import CallContext, current_call, request_nonce, running_call, waiting

CALL = CallContext(actor_id="cart", number=4, name="add_1", host="a host", chain=("cart",), mark="abc-0")


def asked(context: CallContext, *requests: str) -> list[str]:
    with running_call(replace(context, requests={})):
        return [request_nonce(request) for request in requests]


def test_a_method_that_is_run_again_asks_under_the_same_marks() -> None:
    first = asked(CALL, "one", "one", "other")
    assert asked(CALL, "one", "one", "other") == first
    assert len(set(first)) == 3


@pytest.mark.parametrize("change", [{"mark": "abc-1"}, {"actor_id": "basket"}], ids=str)
def test_another_attempt_or_actor_asks_under_others(change: dict[str, Any]) -> None:
    assert set(asked(replace(CALL, **change), "one")).isdisjoint(asked(CALL, "one"))


def test_who_is_not_run_again_asks_under_random_marks() -> None:
    assert asked(replace(CALL, mark=""), "one") != asked(replace(CALL, mark=""), "one")
    assert request_nonce("one") != request_nonce("one")


def test_the_first_request_makes_a_call_durable_and_the_others_do_not() -> None:
    kept: list[str] = []
    context = replace(CALL, requests={}, keep=lambda: kept.append("kept"))
    with running_call(context):
        assert kept == []
        request_nonce("one")
        request_nonce("two")
    assert kept == ["kept"]


def test_one_that_waits_says_so_and_goes_on_also_after_an_error() -> None:
    said: list[bool] = []

    def wait_in_vain() -> None:
        with running_call(replace(CALL, rest=said.append)), waiting():
            assert said == [True]
            raise KeyError

    with pytest.raises(KeyError):
        wait_in_vain()
    assert said == [True, False]
    with waiting():
        pass
    assert said == [True, False]


def test_the_user_is_told_where_his_code_runs() -> None:
    with running_call(CALL):
        assert workflow.workflow_context.get_current_workflow_id() == "cart"
        assert workflow.workflow_context.get_current_task_id() == "add_1"
        assert current_call() is CALL
    assert current_call() is None
