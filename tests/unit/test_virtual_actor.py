"""A virtual actor's mailbox and state: what is accepted, in which order it runs, and what a failure leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast.engine.errors import TaskTimeoutError
from holdfast.engine.graph import TaskOptions
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Value
from holdfast.engine.virtual_actor import ActorStep, VirtualActor
from holdfast.engine.virtual_actor_errors import (
    CallNotWithdrawnError,
    CallOverError,
    CallWithdrawnError,
    MailboxFullError,
    VirtualActorCycleError,
    VirtualActorNotInitializedError,
    VirtualActorNotResumableError,
    VirtualActorQuarantinedError,
)
from holdfast.engine.virtual_actor_records import (
    DEATHS_ALLOWED,
    CallEnded,
    CallLogged,
    CallSpec,
    Condition,
    Outcome,
    QueuedCall,
    RetryCleared,
    RetrySet,
    Standing,
    StandingChanged,
    Terms,
)
from holdfast.engine.virtual_actor_signals import (
    ActorSignal,
    AnswerCall,
    Call,
    CallKept,
    CallWithdrawn,
    HostDied,
    MethodContinued,
    MethodRaised,
    MethodReturned,
    ResumeRequested,
    RetryDue,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
    SubWorkflowEnded,
    TimeoutReached,
)

NOW = 1000.0
MADE = Standing(version=1, state="s0", initialized=True, next_number=1)


class Actor:
    """An actor, and the rows that its records make: what a load after a crash would find."""

    def __init__(self, standing: Standing = MADE, **terms: Any) -> None:
        self.terms = Terms(class_name="m.C", **terms)
        self.standing = standing
        self.rows: dict[int, QueuedCall] = {}
        self.ended: dict[str, Outcome] = {}
        self.now = NOW
        self.machine, step = VirtualActor.load("a", self.terms, standing, (), NOW)
        self._commit(step)

    def apply(self, signal: ActorSignal) -> ActorStep:
        step = self.machine.apply(signal, self.now)
        self._commit(step)
        return step

    def call(self, nonce: str, *, logged: bool = True, **about: Any) -> ActorStep:
        return self.apply(Call(spec=CallSpec(**{"method": "add", "nonce": nonce, **about}), logged=logged))

    def end(self, value: Any = "v", state: Any = "s1") -> ActorStep:
        number, attempt = self.running()
        return self.apply(MethodReturned(number=number, attempt=attempt, value=value, state=state))

    def fail(self, error: Any = "e", **about: Any) -> ActorStep:
        number, attempt = self.running()
        return self.apply(MethodRaised(number=number, attempt=attempt, error=error, said="it broke", **about))

    def go_on(self, state: Any = "s1") -> ActorStep:
        number, attempt = self.running()
        return self.apply(MethodContinued(number=number, attempt=attempt, request="graph", state=state))

    def running(self) -> tuple[int, int]:
        running = self.machine.running
        assert running is not None
        return running

    def crash(self) -> ActorStep:
        rows = [self.rows[number] for number in sorted(self.rows)]
        self.machine, step = VirtualActor.load("a", self.terms, self.standing, rows, self.now)
        self._commit(step)
        return step

    def _commit(self, step: ActorStep) -> None:
        for record in step.records:
            match record:
                case CallLogged():
                    self.rows[record.call.number] = record.call
                case CallEnded():
                    assert (record.call.number in self.rows) is record.logged
                    self.rows.pop(record.call.number, None)
                    self.ended[record.call.nonce] = record.call.outcome
                case StandingChanged():
                    self.standing = record.standing


def runs(step: ActorStep) -> list[str]:
    return [command.call.spec.nonce for command in step.commands if isinstance(command, RunMethod)]


def answers(step: ActorStep) -> list[tuple[str, Outcome]]:
    return [(command.nonce, command.outcome) for command in step.commands if isinstance(command, AnswerCall)]


def test_calls_run_one_at_a_time_in_the_order_in_which_they_were_accepted() -> None:
    actor = Actor()
    assert runs(actor.call("1")) == ["1"]
    assert runs(actor.call("2")) == []
    assert runs(actor.call("3", logged=False)) == []
    assert runs(actor.end()) == ["2"]
    assert runs(actor.end()) == ["3"]
    assert runs(actor.end()) == []
    assert (actor.standing.version, actor.machine.length) == (4, 0)


def test_a_method_runs_on_the_state_of_the_call_before_it() -> None:
    actor = Actor()
    actor.call("1")
    actor.call("2")
    (command,) = [one for one in actor.end(state="new").commands if isinstance(one, RunMethod)]
    assert (command.state, command.version) == ("new", 2)


def test_a_call_whose_caller_waits_writes_nothing_before_it_takes_effect() -> None:
    actor = Actor()
    assert actor.call("1", logged=False).records == []
    records = actor.end(value=7).records
    assert [type(record) for record in records] == [CallEnded, StandingChanged]
    assert actor.ended["1"] == Outcome(value=Value(7), version=2)


def test_a_call_that_leaves_the_state_as_it_was_still_counts() -> None:
    actor = Actor()
    actor.call("1")
    number, attempt = actor.running()
    step = actor.apply(MethodReturned(number=number, attempt=attempt, value="v"))
    (changed,) = [record for record in step.records if isinstance(record, StandingChanged)]
    assert not changed.state_changed, "the place of the state must not be given up"
    assert (actor.standing.state, actor.standing.version) == ("s0", 2)


def test_a_crash_forgets_only_calls_that_nobody_was_told_of() -> None:
    actor = Actor()
    for nonce, logged in (("1", False), ("2", True), ("3", False), ("4", True)):
        actor.call(nonce, logged=logged)
    assert runs(actor.crash()) == ["2"]
    assert runs(actor.end()) == ["4"]


def test_a_call_that_comes_again_is_the_same_call() -> None:
    actor = Actor()
    first = actor.call("1", logged=False, key="k").accepted
    again = actor.call("1", logged=False).accepted
    assert first is not None
    assert again == first
    by_key = actor.call("2", key="k").accepted
    assert by_key is not None
    assert (by_key.number, by_key.logged) == (first.number, True)
    assert actor.machine.length == 1


def test_numbers_are_not_given_again_after_a_crash() -> None:
    actor = Actor()
    actor.call("1")
    actor.call("2")
    actor.crash()
    accepted = actor.call("3").accepted
    assert accepted is not None
    assert accepted.number == 3


def test_names_are_made_unique_as_those_of_tasks() -> None:
    actor = Actor()
    steps = [actor.call("1"), actor.call("2"), actor.call("3", name="mine"), actor.call("4")]
    assert [step.accepted.name for step in steps if step.accepted] == ["add", "add_1", "mine", "add_2"]


def test_what_an_old_attempt_reports_changes_nothing() -> None:
    actor = Actor()
    actor.call("1")
    number, attempt = actor.running()
    actor.apply(MethodRaised(number=number, attempt=attempt, error="e"))
    actor.call("2")
    late = actor.apply(MethodReturned(number=number, attempt=attempt, value="v", state="late"))
    assert (late.records, late.commands) == ([], [])
    assert actor.standing.state == "s0"


# -- constructors ------------------------------------------------------------------------------------------------------


def test_the_constructor_is_the_first_call_and_others_wait_for_it() -> None:
    actor = Actor(Standing())
    assert runs(actor.call("c", method="__init__", creates=True)) == ["c"]
    assert runs(actor.call("1")) == []
    assert actor.machine.status is WorkflowStatus.RUNNING
    assert runs(actor.end(state="s0")) == ["1"]
    assert actor.standing.initialized


def test_a_second_constructor_is_left_alone() -> None:
    actor = Actor(Standing())
    actor.call("c", method="__init__", creates=True)
    assert actor.call("d", method="__init__", creates=True).accepted is None
    actor.end()
    assert actor.call("e", method="__init__", creates=True).accepted is None
    assert actor.machine.length == 0


def test_a_constructor_that_fails_fails_what_waits_for_it_and_may_be_called_again() -> None:
    actor = Actor(Standing())
    actor.call("c", method="__init__", creates=True)
    actor.call("1")
    told = dict(answers(actor.fail("boom")))
    assert told["c"].error == "boom"
    assert isinstance(told["1"].error, VirtualActorNotInitializedError)
    assert actor.machine.status is WorkflowStatus.FAILED
    with pytest.raises(VirtualActorNotInitializedError, match="it broke"):
        actor.call("2")
    with pytest.raises(VirtualActorNotResumableError, match="get_or_create"):
        actor.apply(ResumeRequested())
    assert runs(actor.call("d", method="__init__", creates=True)) == ["d"]
    actor.end()
    assert actor.machine.status is WorkflowStatus.SUCCESSFUL


def test_a_call_before_any_constructor_is_refused() -> None:
    with pytest.raises(VirtualActorNotInitializedError):
        Actor(Standing()).call("1")


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_method_that_raises_leaves_the_state_and_its_caller_gets_the_error() -> None:
    actor = Actor()
    actor.call("1")
    actor.call("2")
    step = actor.fail("boom")
    assert answers(step) == [("1", Outcome(error="boom", version=1))]
    assert runs(step) == ["2"]
    assert (actor.standing.state, actor.standing.version, actor.standing.said) == ("s0", 1, "it broke")


def test_an_error_that_is_caught_is_a_value() -> None:
    actor = Actor()
    actor.call("1", options=TaskOptions(catch_exceptions=True))
    assert answers(actor.fail("boom")) == [("1", Outcome(value=Value("boom", caught=True), version=1))]
    actor.call("2", options=TaskOptions(catch_exceptions=True))
    assert answers(actor.end(value=5)) == [("2", Outcome(value=Value(5, wraps=1), version=2))]


def test_a_budget_of_retries_is_used_up_before_a_call_fails() -> None:
    actor = Actor()
    actor.call("1", options=TaskOptions(budget=RetryBudget(errors=2, shared=False)))
    assert [runs(actor.fail()), runs(actor.fail()), runs(actor.fail())] == [["1"], ["1"], []]
    assert actor.ended["1"].error == "e"


def test_an_error_that_is_not_to_be_retried_is_not() -> None:
    actor = Actor()
    actor.call("1", options=TaskOptions(budget=RetryBudget(errors=2, shared=False)))
    assert runs(actor.fail(retryable=False)) == []


def test_a_back_off_is_durable_and_holds_up_what_came_after() -> None:
    actor = Actor()
    actor.call("1", logged=False, options=TaskOptions(retry=RetryPolicy(max_attempts=2, initial_s=10.0, jitter=0.0)))
    actor.call("2")
    step = actor.fail()
    assert RetrySet(due_unix_s=NOW + 10.0) in step.records
    assert runs(step) == []
    assert not actor.machine.working
    actor.crash()
    assert runs(actor.apply(RetryDue())) == []
    actor.now = NOW + 10.0
    step = actor.apply(RetryDue())
    assert RetryCleared(due_unix_s=NOW + 10.0) in step.records
    assert runs(step) == ["1"]
    assert runs(actor.fail()) == ["2"]


def test_an_attempt_that_takes_too_long_is_stopped_and_its_late_value_is_not_seen() -> None:
    actor = Actor()
    actor.call("1", options=TaskOptions(timeout_s=2.0))
    number, attempt = actor.running()
    step = actor.apply(TimeoutReached(number=number, attempt=attempt))
    assert StopMethod(number=number, attempt=attempt) in step.commands
    assert isinstance(actor.ended["1"].error, TaskTimeoutError)
    assert actor.apply(MethodReturned(number=number, attempt=attempt, value="v", state="late")).records == []


# -- suspension --------------------------------------------------------------------------------------------------------


def test_a_suspended_mailbox_keeps_its_order_and_accepts_more() -> None:
    actor = Actor(suspends=True)
    actor.call("1")
    actor.call("2", logged=False)
    step = actor.fail("boom")
    assert answers(step) == [("1", Outcome(error="boom", version=1))]
    assert runs(step) == []
    assert actor.machine.status is WorkflowStatus.RESUMABLE
    actor.call("3", logged=False)
    assert sorted(actor.rows) == [1, 2, 3], "who waits for somebody may wait for longer than a process lives"
    assert actor.machine.idle
    actor.crash()
    assert runs(actor.apply(ResumeRequested())) == ["1"]
    assert [runs(actor.end()), runs(actor.end())] == [["2"], ["3"]]


def test_a_suspended_mailbox_takes_calls_up_to_its_limit() -> None:
    actor = Actor(suspends=True, mailbox_limit=2)
    actor.call("1")
    actor.fail()
    actor.call("2")
    with pytest.raises(MailboxFullError, match="2 calls wait"):
        actor.call("3")


def test_what_is_sound_cannot_be_resumed() -> None:
    with pytest.raises(VirtualActorNotResumableError):
        Actor().apply(ResumeRequested())


def test_the_call_that_holds_a_mailbox_can_be_withdrawn() -> None:
    actor = Actor(suspends=True)
    actor.call("1")
    actor.call("2")
    actor.fail()
    actor.apply(CallWithdrawn(number=1))
    assert actor.ended["1"].error == "e", "it has run, and failed"
    assert runs(actor.apply(ResumeRequested())) == ["2"]


def test_a_call_that_has_taken_effect_is_withdrawn_only_when_its_workflow_has_failed() -> None:
    actor = Actor(suspends=True)
    actor.call("1")
    actor.go_on()
    with pytest.raises(CallNotWithdrawnError):
        actor.apply(CallWithdrawn(number=1))
    actor.apply(SubWorkflowEnded(workflow_id="a/add", error="boom", said="boom"))
    actor.apply(CallWithdrawn(number=1))
    assert actor.ended["1"].error == "boom"


def test_a_call_that_waits_can_be_withdrawn_and_one_that_runs_cannot() -> None:
    actor = Actor()
    actor.call("1")
    actor.call("2")
    actor.apply(CallWithdrawn(number=2))
    assert isinstance(actor.ended["2"].error, CallWithdrawnError)
    for number in (1, 2):
        with pytest.raises(CallNotWithdrawnError):
            actor.apply(CallWithdrawn(number=number))


# -- quarantine --------------------------------------------------------------------------------------------------------


def test_the_last_host_that_may_die_over_an_actor_quarantines_it() -> None:
    actor = Actor()
    actor.call("1")
    for _ in range(DEATHS_ALLOWED - 1):
        actor.crash()
        actor.apply(HostDied(method="add"))
        assert actor.machine.running is not None
    actor.crash()
    actor.apply(HostDied(method="add"))
    assert actor.machine.status is WorkflowStatus.FAILED
    assert actor.machine.running is None
    assert runs(actor.crash()) == []
    with pytest.raises(
        VirtualActorQuarantinedError, match=rf"m\.C\.add ended the process of its host {DEATHS_ALLOWED} times"
    ):
        actor.call("2")
    assert runs(actor.apply(ResumeRequested())) == ["1"]
    assert actor.standing.deaths == 0


def test_a_call_that_takes_effect_clears_the_deaths() -> None:
    actor = Actor()
    actor.call("1")
    for _ in range(DEATHS_ALLOWED - 1):
        actor.apply(HostDied(method="add"))
    actor.end()
    actor.apply(HostDied(method="add"))
    assert (actor.standing.condition, actor.standing.deaths) == (Condition.SOUND, 1)


def test_a_call_without_a_row_does_not_outlive_the_error_that_its_caller_gets() -> None:
    actor = Actor(replace(MADE, deaths=DEATHS_ALLOWED - 1))
    actor.call("1")
    actor.call("2", logged=False)
    told = dict(answers(actor.apply(HostDied(method="add"))))
    assert isinstance(told["2"].error, VirtualActorQuarantinedError)
    actor.apply(ResumeRequested())
    assert runs(actor.end()) == []


# -- sub-workflows -----------------------------------------------------------------------------------------------------


def test_a_method_that_goes_on_commits_its_state_and_holds_up_the_next_writer() -> None:
    actor = Actor()
    actor.call("1", logged=False)
    actor.call("2")
    step = actor.go_on(state="seen")
    (start,) = [command for command in step.commands if isinstance(command, StartSubWorkflow)]
    assert (start.sub.workflow_id, start.sub.request, start.resumes) == ("a/add", "graph", False)
    assert (actor.standing.state, actor.standing.version) == ("seen", 2)
    assert runs(step) == []
    assert actor.ended == {}
    again = actor.crash()
    assert [command for command in again.commands if isinstance(command, StartSubWorkflow)] == [start]
    step = actor.apply(SubWorkflowEnded(workflow_id="a/add", value="v"))
    assert answers(step) == [("1", Outcome(value=Value("v"), version=2))]
    assert runs(step) == ["2"]


def test_the_end_of_another_workflow_ends_no_call() -> None:
    actor = Actor()
    actor.call("1")
    assert actor.apply(SubWorkflowEnded(workflow_id="a/add", value="v")).records == []
    actor.go_on()
    assert actor.apply(SubWorkflowEnded(workflow_id="a/add_1", value="v")).records == []


def test_a_sub_workflow_that_fails_does_not_undo_what_was_seen() -> None:
    actor = Actor()
    actor.call("1")
    actor.go_on(state="seen")
    step = actor.apply(SubWorkflowEnded(workflow_id="a/add", error="boom", said="boom"))
    assert answers(step) == [("1", Outcome(error="boom", version=2))]
    assert actor.standing.state == "seen"


def test_a_suspended_call_that_had_gone_on_has_its_workflow_resumed() -> None:
    actor = Actor(suspends=True)
    actor.call("1")
    actor.go_on()
    actor.apply(SubWorkflowEnded(workflow_id="a/add", error="boom", said="boom"))
    assert actor.apply(SubWorkflowEnded(workflow_id="a/add", value="stale")).records == []
    for step in (actor.apply(ResumeRequested()), actor.crash()):
        (start,) = [command for command in step.commands if isinstance(command, StartSubWorkflow)]
        assert start.resumes
    actor.apply(SubWorkflowEnded(workflow_id="a/add", value="v"))
    assert actor.ended["1"].value == Value("v")
    assert actor.standing.version == 2


def test_calls_that_are_a_part_of_one_run_before_it_is_over_and_before_the_next() -> None:
    actor = Actor()
    outer = actor.call("1").accepted
    assert outer is not None
    actor.call("2")
    with pytest.raises(CallOverError):
        actor.call("early", inside=outer.number, logged=False)
    actor.go_on(state="s1")
    assert runs(actor.call("p", inside=outer.number, logged=False)) == ["p"]
    assert runs(actor.call("q", inside=outer.number, logged=False)) == []
    assert runs(actor.end(state="s2")) == ["q"]
    step = actor.fail("boom")
    assert answers(step) == [("q", Outcome(error="boom", version=3))]
    assert runs(actor.call("q", inside=outer.number, logged=False)) == ["q"], "it left no trace: it may be asked again"
    actor.end(state="s3")
    assert runs(actor.apply(SubWorkflowEnded(workflow_id="a/add", value="v"))) == ["2"]
    with pytest.raises(CallOverError):
        actor.call("late", inside=outer.number, logged=False)
    assert (actor.standing.state, actor.standing.version) == ("s3", 4)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_call_to_an_actor_that_waits_for_its_answer_is_refused_by_name() -> None:
    with pytest.raises(VirtualActorCycleError, match="a -> b -> a") as caught:
        Actor().call("1", chain=("z", "a", "b"))
    assert caught.value.chain == ("a", "b", "a")


def test_a_part_of_a_call_is_waited_for_by_all_that_wait_for_the_call() -> None:
    actor = Actor()
    outer = actor.call("1", chain=("z", "b")).accepted
    assert outer is not None
    actor.go_on()
    part = actor.call("part", inside=outer.number, logged=False).accepted
    assert part is not None
    assert part.spec.chain == ("z", "b")


def test_a_refused_call_leaves_nothing_behind() -> None:
    actor = Actor(mailbox_limit=1)
    actor.call("1")
    with pytest.raises(MailboxFullError):
        actor.call("2")
    assert actor.machine.find("2") is None
    actor.end()
    accepted = actor.call("2").accepted
    assert accepted is not None
    assert (accepted.number, accepted.name) == (2, "add_1")


def test_an_actor_rests_when_nothing_would_be_lost_by_forgetting_it() -> None:
    actor = Actor()
    assert actor.machine.idle
    actor.call("1", logged=False)
    assert (actor.machine.idle, actor.machine.working) == (False, False)
    actor.apply(CallKept(number=1))
    assert (actor.machine.idle, actor.machine.working) == (False, True)
    actor.end()
    assert actor.machine.idle
