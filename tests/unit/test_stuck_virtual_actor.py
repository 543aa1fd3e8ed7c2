"""A virtual actor that is stuck has a way out: a call can be ended wherever it has come to, and the actor reset."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engine.errors import WorkflowCancellationError
from holdfast.engine.graph import TaskOptions
from holdfast.engine.retry import RetryPolicy
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor import ActorStep
from holdfast.engine.virtual_actor_errors import (
    CallCancelledError,
    VirtualActorNotInitializedError,
    VirtualActorVersionError,
)
from holdfast.engine.virtual_actor_records import DEATHS_ALLOWED, Condition, RetryCleared, Standing
from holdfast.engine.virtual_actor_signals import (
    UNCHANGED,
    ActorReset,
    CallCancelled,
    HostDied,
    MethodReturned,
    RunMethod,
    StopMethod,
)
from tests.unit.test_virtual_actor import Actor, answers, runs


def number_of(actor: Actor, nonce: str) -> int:
    found = actor.machine.find(nonce)
    assert found is not None
    return found.number


def stopped(step: ActorStep) -> list[int]:
    return [command.number for command in step.commands if isinstance(command, StopMethod)]


@pytest.mark.parametrize("logged", [True, False])
def test_a_call_that_runs_is_cancelled_and_the_next_one_runs_on_the_state_as_it_was(logged: bool) -> None:
    actor = Actor()
    actor.call("stuck", logged=logged)
    actor.call("next")
    late, number = actor.running(), number_of(actor, "stuck")
    step = actor.apply(CallCancelled(number=number))
    assert stopped(step) == [number]
    ((nonce, outcome),) = answers(step)
    assert (nonce, outcome.error.call, outcome.version) == ("stuck", "add", 1)
    assert isinstance(outcome.error, WorkflowCancellationError)
    (run,) = [command for command in step.commands if isinstance(command, RunMethod)]
    assert (run.call.spec.nonce, run.state) == ("next", "s0")
    # What the one that was left behind reports is nobody's.
    assert not actor.apply(MethodReturned(number=late[0], attempt=late[1], value="v", state="late")).records
    assert actor.standing.state == "s0"
    actor.end()
    assert (actor.standing.state, actor.standing.version, actor.machine.length) == ("s1", 2, 0)
    assert "cancelled" in actor.standing.said


def test_a_call_that_waits_in_the_mailbox_is_cancelled_alone() -> None:
    actor = Actor()
    for nonce in ("1", "2", "3"):
        actor.call(nonce)
    step = actor.apply(CallCancelled(number=number_of(actor, "2")))
    assert (stopped(step), runs(step)) == ([], [])
    assert isinstance(actor.ended["2"].error, CallCancelledError)
    assert runs(actor.end()) == ["3"]


def test_a_call_that_is_over_is_not_cancelled_any_more() -> None:
    actor = Actor()
    number = actor.call("1").accepted
    assert number is not None
    actor.end()
    step = actor.apply(CallCancelled(number=number.number))
    assert (step.records, step.commands) == ([], [])


def test_a_call_that_waits_for_its_retry_is_cancelled_with_its_time() -> None:
    actor = Actor()
    actor.call("1", options=TaskOptions(retry=RetryPolicy(max_attempts=3, initial_s=60.0, jitter=0.0)))
    actor.fail()
    step = actor.apply(CallCancelled(number=number_of(actor, "1")))
    assert [type(record) for record in step.records if isinstance(record, RetryCleared)] == [RetryCleared]
    assert actor.machine.idle


def test_a_call_that_has_gone_on_is_cancelled_with_its_parts_and_keeps_what_is_committed() -> None:
    actor = Actor()
    outer = actor.call("1").accepted
    assert outer is not None
    actor.call("2")
    actor.go_on()
    actor.call("part", inside=outer.number, logged=False)
    step = actor.apply(CallCancelled(number=outer.number, gone_on=True))
    assert stopped(step)
    assert {nonce for nonce, outcome in answers(step) if isinstance(outcome.error, CallCancelledError)} == {"1", "part"}
    assert runs(step) == ["2"]
    assert (actor.standing.state, actor.standing.version) == ("s1", 2)
    assert actor.machine.follows is None


def test_a_call_that_has_not_gone_on_is_not_ended_with_a_workflow_of_its_name() -> None:
    actor = Actor()
    actor.call("1")
    step = actor.apply(CallCancelled(number=number_of(actor, "1"), gone_on=True))
    assert (step.records, step.commands) == ([], [])


def test_a_call_that_failed_and_holds_the_mailbox_is_given_up_with_its_own_error() -> None:
    actor = Actor(suspends=True)
    actor.call("1")
    actor.call("2")
    actor.fail("boom")
    assert actor.machine.status is WorkflowStatus.RESUMABLE
    step = actor.apply(CallCancelled(number=number_of(actor, "1")))
    assert actor.ended["1"].error == "boom"
    assert runs(step) == ["2"]
    assert actor.standing.condition is Condition.SOUND


def test_a_constructor_that_is_cancelled_has_failed() -> None:
    actor = Actor(Standing())
    actor.call("made", method="__init__", creates=True)
    actor.call("1")
    actor.apply(CallCancelled(number=number_of(actor, "made")))
    assert isinstance(actor.ended["made"].error, CallCancelledError)
    assert isinstance(actor.ended["1"].error, VirtualActorNotInitializedError)
    assert runs(actor.call("again", method="__init__", creates=True)) == ["again"]


def test_a_reset_ends_the_first_call_and_the_others_go_on_from_the_state_given() -> None:
    actor = Actor()
    actor.call("stuck")
    actor.call("next")
    step = actor.apply(ActorReset(state="given", expected_version=1))
    assert isinstance(actor.ended["stuck"].error, CallCancelledError)
    (run,) = [command for command in step.commands if isinstance(command, RunMethod)]
    assert (run.call.spec.nonce, run.state, run.version) == ("next", "given", 2)
    assert (actor.standing.state, actor.standing.version) == ("given", 2)


def test_a_reset_without_a_state_leaves_what_is_committed() -> None:
    actor = Actor()
    actor.call("stuck")
    actor.apply(ActorReset())
    assert (actor.standing.state, actor.standing.version, actor.machine.idle) == ("s0", 1, True)


def test_a_reset_of_a_state_that_has_moved_does_nothing() -> None:
    actor = Actor()
    actor.call("1")
    actor.end()
    actor.call("2")
    with pytest.raises(VirtualActorVersionError, match="version 2, and not 1"):
        actor.apply(ActorReset(state="given", expected_version=1))
    assert (actor.standing.state, actor.machine.length) == ("s1", 1)


@pytest.mark.parametrize("state", ["given", UNCHANGED])
def test_a_reset_sets_a_quarantined_actor_free(state: Any) -> None:
    actor = Actor()
    actor.call("kills")
    actor.call("next")
    for _ in range(DEATHS_ALLOWED):
        actor.crash()
        actor.apply(HostDied(method="add"))
    assert actor.machine.status is WorkflowStatus.FAILED
    step = actor.apply(ActorReset(state=state))
    assert runs(step) == ["next"]
    assert (actor.standing.condition, actor.standing.deaths, actor.standing.error) == (Condition.SOUND, 0, None)


def test_a_reset_with_a_state_is_the_constructor_of_an_actor_whose_own_one_is_stuck() -> None:
    actor = Actor(Standing())
    actor.call("made", method="__init__", creates=True)
    actor.call("1")
    step = actor.apply(ActorReset(state="given"))
    assert isinstance(actor.ended["made"].error, CallCancelledError)
    assert runs(step) == ["1"]
    assert (actor.standing.state, actor.standing.initialized) == ("given", True)
