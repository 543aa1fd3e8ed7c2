"""What a host of virtual actors writes, and when: over a real store, without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Submit
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.forsaken import give_away
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorBatch,
    ActorDone,
    ActorOutcome,
    CallAccepted,
    CallFrom,
    CancelCall,
    CancelReminder,
    ChangeReminder,
    CreateActor,
    DeleteActor,
    EndAttempt,
    EndSubWorkflow,
    FireDue,
    OtherHost,
    RecoverActor,
    ReminderChange,
    ResetActor,
    ResumeActor,
    SetReminder,
    SweepDeleted,
    WithdrawCall,
)
from holdfast.engine.errors import StorageCorruptError, WorkflowStillActiveError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor import key_mark
from holdfast.engine.virtual_actor_errors import (
    CallNotFoundError,
    CallOutcomeForgottenError,
    HostReplacedError,
    IdTakenError,
    MailboxFullError,
    OtherClassError,
    OutOfTurnError,
    ReminderNotFoundError,
    VirtualActorBusyError,
    VirtualActorNotFoundError,
    VirtualActorNotInitializedError,
    VirtualActorNotResumableError,
    VirtualActorQuarantinedError,
    VirtualActorVersionError,
)
from holdfast.engine.virtual_actor_records import DEATHS_ALLOWED, CallSpec
from holdfast.engine.virtual_actor_signals import (
    MethodContinued,
    MethodRaised,
    MethodReturned,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
    SubWorkflowEnded,
)
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import actor_reminders, actor_store, event_store, layout, leases, subscriptions
from holdfast.storage.actor_codec import decode_reminder, encode_reminder
from holdfast.storage.actor_row import ActorRow, ActorSpec, ActorState, Reminder, SubRequest
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.memory import MemoryStore, Operation
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Frame, arguments_entry, options_entry
from holdfast.storage.settings import save_setting
from holdfast.storage.subscriptions import Subscription

NOW = 1_800_000_000.0
GRAPH = Graph(nodes=(NodeSpec(task_id="t"),), sink=0)


class House:
    """Some hosts over one store."""

    def __init__(self, **spec: Any) -> None:
        self.commits: list[tuple[Operation, ...]] = []
        self.kv = MemoryStore(on_commit=self.commits.append)
        self.home = "one"
        self.now = NOW
        self.spec = ActorSpec(class_name="m.C", **spec)
        self.hosts = {name: self.new_host(name) for name in ("one", "two", "apart")}

    def new_host(self, name: str) -> ActorCore:
        return ActorCore(self.kv, name, self.place)

    def place(self, row: ActorRow) -> str:
        return "apart" if row.suspected else self.home

    def perform(self, *operations: Any, host: str = "one") -> ActorBatch:
        return self.hosts[host].perform(operations, self.now)

    def ask(self, operation: Any, host: str = "one") -> ActorOutcome:
        (outcome,) = self.perform(operation, host=host).outcomes
        return outcome

    def made(self, actor_id: str = "a") -> House:
        self.perform(self.create(actor_id))
        self.end(state="s0")
        self.commits.clear()
        return self

    def create(self, actor_id: str = "a", nonce: str = "", **spec: Any) -> CreateActor:
        call = CallSpec(method="__init__", nonce=nonce or f"{actor_id}-made", creates=True)
        return CreateActor(actor_id=actor_id, spec=replace(self.spec, **spec), call=call)

    def call(self, nonce: str, actor_id: str = "a", *, logged: bool = True, **about: Any) -> AcceptCall:
        spec = CallSpec(**{"method": "add", "nonce": nonce, **about})
        return AcceptCall(actor_id=actor_id, call=spec, logged=logged)

    def ending(self, kind: Any = MethodReturned, host: str = "one", seq: int = 1, **about: Any) -> EndAttempt:
        held = self.hosts[host].held[seq]
        assert held.machine.running is not None
        number, attempt = held.machine.running
        return EndAttempt(seq=seq, epoch=held.epoch, signal=kind(number=number, attempt=attempt, **about))

    def end(
        self, state: str = "s1", value: str = "v", host: str = "one", reminders: Iterable[ReminderChange] = ()
    ) -> ActorBatch:
        ending = self.ending(host=host, state=json_state(state), value=Payload(value.encode()))
        return self.perform(replace(ending, reminders=tuple(reminders)), host=host)

    def row(self, actor_id: str = "a") -> ActorRow:
        with self.kv.read() as txn:
            row = actor_store.find(txn, actor_id)
        assert row is not None
        return row

    def status(self) -> WorkflowStatus:
        with self.kv.read() as txn:
            return actor_store.status(txn, self.row().seq)

    def held_by(self, host: str) -> list[int]:
        with self.kv.read() as txn:
            return leases.held_by(txn, host)


def json_state(text: str) -> ActorState:
    return ActorState(Payload(text.encode()), json=True)


def runs(batch: ActorBatch) -> list[str]:
    return [command.call.spec.nonce for _, _, command in batch.commands if isinstance(command, RunMethod)]


# -- one transaction ---------------------------------------------------------------------------------------------------


def test_a_call_whose_caller_waits_is_one_transaction() -> None:
    house = House().made()
    assert runs(house.perform(house.call("1", logged=False))) == ["1"]
    assert house.commits == []
    house.end()
    assert len(house.commits) == 1


def test_what_arrives_together_is_one_transaction() -> None:
    house = House().made()
    house.perform(house.call("1", logged=False))
    house.perform(house.ending(state=json_state("s"), value=Payload(b"v")), house.call("2"), house.call("3"))
    assert len(house.commits) == 1


def test_a_call_without_a_row_leaves_an_actor_listed_as_resting_and_one_with_a_row_as_working() -> None:
    house = House().made()
    house.perform(house.call("1", logged=False))
    assert (house.status(), house.held_by("one")) == (WorkflowStatus.SUCCESSFUL, [])
    house.end()
    house.perform(house.call("2"))
    assert (house.status(), house.held_by("one")) == (WorkflowStatus.RUNNING, [1])
    house.end()
    assert (house.status(), house.held_by("one")) == (WorkflowStatus.SUCCESSFUL, [])


def test_a_repeated_call_gets_the_first_answer() -> None:
    house = House().made()
    house.perform(house.call("1", key="k"))
    first = house.end(value="first").commands
    assert first
    for again in (house.call("1", logged=False), house.call("1"), house.call("2", key="k")):
        outcome = house.ask(again)
        assert isinstance(outcome, CallAccepted)
        assert outcome.outcome is not None
        assert outcome.outcome.value is not None
        assert bytes(outcome.outcome.value.base.inband) == b"first"
        assert not outcome.fresh


def test_a_call_that_has_ended_and_is_forgotten_is_not_made_again_by_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actor_store, "HISTORY_S", -1.0)
    house = House()
    house.hosts["one"] = ActorCore(house.kv, "one", house.place, history=2)
    house.made()
    outcome = house.ask(house.call("1"))
    assert isinstance(outcome, CallAccepted)
    house.end()
    again = replace(house.call("1"), accepted=outcome.number)
    known = house.ask(again)
    assert isinstance(known, CallAccepted)
    assert known.outcome is not None
    for nonce in ("2", "3", "4"):
        house.perform(house.call(nonce, logged=False))
        house.end()
    version = house.row().standing.version
    for logged in (True, False):
        refused = house.ask(replace(again, logged=logged))
        assert isinstance(refused, CallOutcomeForgottenError)
        assert "number 1" in str(refused)
    assert house.row().standing.version == version
    assert house.hosts["one"].held[1].machine.length == 0


def test_readers_get_what_is_committed_wherever_the_actor_is() -> None:
    house = House().made()
    house.perform(house.call("1"))
    for host in ("one", "two"):
        found = house.hosts[host].read("a")
        assert found.standing.state == json_state("s0")
    house.end(state="s1")
    for host in ("one", "two"):
        assert house.hosts[host].read("a").standing.state == json_state("s1")


def test_a_reader_is_told_why_there_is_nothing_to_read() -> None:
    house = House()
    with pytest.raises(VirtualActorNotFoundError):
        house.hosts["one"].read("a")
    house.perform(house.create())
    with pytest.raises(VirtualActorNotInitializedError):
        house.hosts["one"].read("a")
    for _ in range(DEATHS_ALLOWED):
        house.perform(RecoverActor(seq=1, died_in="add"), host="apart")
    with pytest.raises(VirtualActorQuarantinedError):
        house.hosts["two"].read("a")


# -- ids and classes ---------------------------------------------------------------------------------------------------


def test_a_workflow_is_refused_the_id_of_an_actor_and_the_other_way_round() -> None:
    house = House().made("taken")
    executor = ExecutorCore(house.kv, "executor")
    (refused,) = executor.perform([Submit(workflow_id="taken", graph=GRAPH, nonce="n")], NOW).outcomes
    assert isinstance(refused, IdTakenError)
    assert "virtual actor" in str(refused)
    executor.perform([Submit(workflow_id="w", graph=GRAPH, nonce="m")], NOW)
    refused = house.ask(house.create("w"))
    assert isinstance(refused, IdTakenError)
    assert "that of a workflow" in str(refused)
    assert isinstance(house.ask(house.call("1", "w")), VirtualActorNotFoundError)


def test_an_actor_that_is_there_is_left_alone_but_for_a_newer_class() -> None:
    house = House(class_version=2, code="old").made()
    for spec, code in (
        ({"class_version": 1, "code": "older"}, "old"),
        ({"class_version": 2, "code": "edited"}, "edited"),
        ({"class_version": 3, "code": "new"}, "new"),
    ):
        outcome = house.ask(house.create(nonce=f"by {code}", **spec))
        assert isinstance(outcome, CallAccepted)
        assert (outcome.number, outcome.fresh) == (-1, False)
        assert house.row().spec.code == code
    assert house.row().standing.state == json_state("s0")


def test_a_repeated_request_for_an_actor_that_was_deleted_makes_no_other() -> None:
    house = House().made()
    house.perform(DeleteActor(actor_id="a"))
    assert isinstance(house.ask(house.create()), VirtualActorNotFoundError)
    assert isinstance(house.ask(house.create(nonce="another")), CallAccepted)


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_host_that_was_replaced_writes_nothing_and_knows_it() -> None:
    house = House().made()
    house.perform(house.call("1"))
    late = house.ending(state=json_state("late"), value=Payload(b"late"))
    house.home = "two"
    house.perform(RecoverActor(seq=1), host="two")
    batch = house.perform(late)
    assert batch.lost == [1]
    assert [isinstance(outcome, ActorDone) and outcome.fresh for outcome in batch.outcomes] == [False]
    assert house.row().standing.state == json_state("s0")
    house.end(state="right", host="two")
    assert house.row().standing.state == json_state("right")


def test_a_process_that_no_longer_bears_its_name_writes_nothing() -> None:
    house = House().made()
    with house.kv.write() as txn:
        save_setting(txn, "process.one", [7, 1.0])
    old = ActorCore(house.kv, "one", house.place, process=[6, 1.0])
    with pytest.raises(HostReplacedError):
        old.perform([house.call("1")], NOW)


def test_after_a_crash_a_host_finds_what_has_work_and_goes_on_in_order() -> None:
    house = House().made()
    for nonce, logged in (("1", True), ("lost", False), ("2", True)):
        house.perform(house.call(nonce, logged=logged))
    house.hosts["one"] = house.new_host("one")
    assert house.held_by("one") == [1]
    assert runs(house.perform(RecoverActor(seq=1))) == ["1"]
    assert runs(house.end(state="s1")) == ["2"]


def test_an_actor_that_killed_its_host_is_run_apart_until_a_call_takes_effect() -> None:
    house = House().made()
    house.perform(house.call("1"))
    house.hosts["one"] = house.new_host("one")
    batch = house.perform(RecoverActor(seq=1, died_in="add"))
    assert batch.outcomes == [OtherHost(host="apart")]
    assert batch.elsewhere == [("apart", 1)]
    assert runs(batch) == []
    assert (house.held_by("one"), house.held_by("apart")) == ([], [1])
    assert house.ask(house.call("2", logged=False)) == OtherHost(host="apart")
    assert runs(house.perform(RecoverActor(seq=1), host="apart")) == ["1"]
    house.end(host="apart")
    assert not house.row().suspected
    batch = house.perform(house.call("2", logged=False), host="apart")
    assert (batch.outcomes, batch.elsewhere) == ([OtherHost(host="one")], [("one", 1)])
    assert runs(house.perform(house.call("2", logged=False))) == ["2"]


def test_an_actor_that_is_run_apart_no_more_rests_where_it_belongs() -> None:
    house = House().made()
    house.perform(house.call("1"))
    house.hosts["one"] = house.new_host("one")
    house.perform(RecoverActor(seq=1, died_in="add"))
    house.perform(RecoverActor(seq=1), host="apart")
    house.end(host="apart")
    moved = house.perform(house.call("1"), host="apart").elsewhere
    assert (moved, list(house.hosts["apart"].held)) == ([("one", 1)], [])
    # Nobody calls it: what its death has left behind is removed by the host that puts it away.
    house.perform(RecoverActor(seq=1))
    assert house.hosts["one"].put_away(house.now + 1, most=10) == [1]
    assert house.held_by("one") == []


def test_an_actor_that_comes_back_to_a_host_that_remembers_it_is_found() -> None:
    house = House().made()
    assert house.hosts["one"].not_taken_up() == []
    house.home = "two"
    house.perform(house.call("1"), host="two")
    house.home = "one"
    # It gives it back, and the message is lost.
    assert house.perform(RecoverActor(seq=1), host="two").elsewhere == [("one", 1)]
    assert list(house.hosts["one"].held) == [1]
    assert house.hosts["one"].not_taken_up() == [1]
    assert runs(house.perform(RecoverActor(seq=1))) == ["1"]
    assert house.hosts["one"].not_taken_up() == []


def test_what_a_host_that_is_gone_was_to_run_is_given_to_another_and_found_there_without_a_message() -> None:
    house = House().made()
    house.home = "gone"
    house.hosts["gone"] = house.new_host("gone")
    house.perform(house.call("1"), host="gone")
    house.home = "one"
    assert house.hosts["one"].not_taken_up() == []
    with house.kv.write() as txn:
        assert give_away(txn, ["gone"], house.place) == {"one": [1]}
    # Nobody is told; it looks.
    assert house.hosts["one"].not_taken_up() == [1]
    assert runs(house.perform(RecoverActor(seq=1))) == ["1"]
    assert house.hosts["one"].not_taken_up() == []
    # What the one that is gone still has to say is refused.
    late = house.ending(host="gone", state=json_state("lost"), value=Payload(b"lost"))
    assert house.perform(late, host="gone").outcomes == [ActorDone(seq=1, fresh=False)]
    house.end()
    assert house.row().standing.version == 2


def test_a_damaged_row_keeps_no_other_actor_with_a_host_that_is_gone() -> None:
    house = House()
    house.home = "gone"
    house.hosts["gone"] = house.new_host("gone")
    for actor_id in ("a", "b"):
        house.perform(house.create(actor_id), host="gone")
    house.home = "one"
    with house.kv.write() as txn:
        txn.put(layout.actor(house.row("a").seq), b"no row")
        assert give_away(txn, ["gone"], house.place) == {"one": [house.row("b").seq]}
        assert leases.held_by(txn, "gone") == []


def test_an_actor_that_kills_hosts_is_quarantined_until_it_is_resumed() -> None:
    house = House().made()
    house.perform(house.call("1"))
    house.perform(RecoverActor(seq=1, died_in="add"))
    for _ in range(DEATHS_ALLOWED - 1):
        house.hosts["apart"] = house.new_host("apart")
        batch = house.perform(RecoverActor(seq=1, died_in="add"), host="apart")
    assert runs(batch) == []
    assert [command for _, _, command in batch.commands if isinstance(command, StopMethod)] != []
    assert (house.status(), house.held_by("apart")) == (WorkflowStatus.FAILED, [])
    refused = house.ask(house.call("2"), host="apart")
    assert isinstance(refused, VirtualActorQuarantinedError)
    assert (refused.class_name, refused.method, refused.deaths) == ("m.C", "add", DEATHS_ALLOWED)
    resume = ResumeActor(actor_id="a", nonce="r")
    assert runs(house.perform(resume, host="apart")) == ["1"]
    assert house.ask(resume, host="apart") == ActorDone(seq=1, fresh=False)
    house.end(host="apart")
    assert isinstance(house.ask(ResumeActor(actor_id="a", nonce="r2")), VirtualActorNotResumableError)


def test_memory_that_is_put_away_takes_nothing_with_it() -> None:
    house = House()
    for name in ("a", "b", "c"):
        house.perform(house.create(name))
        house.perform(house.ending(seq={"a": 1, "b": 2, "c": 3}[name], state=json_state("s"), value=Payload(b"v")))
        house.now += 1
    house.perform(house.call("1", "b", logged=False))
    before = len(house.commits)
    assert house.hosts["one"].put_away(NOW, most=3) == []
    assert house.hosts["one"].put_away(NOW, most=2) == [1]
    assert house.hosts["one"].put_away(house.now + 1, most=0) == [3]
    assert list(house.hosts["one"].held) == [2], "a call runs there"
    assert len(house.commits) == before
    assert runs(house.perform(house.call("2", "c", logged=False))) == ["2"]


# -- what methods return -----------------------------------------------------------------------------------------------


def test_the_state_and_what_a_call_goes_on_with_are_one_transaction() -> None:
    house = House().made()
    house.perform(house.call("1", logged=False))
    request = SubRequest(graph=GRAPH, user_metadata={"a": 1})
    batch = house.perform(house.ending(MethodContinued, request=request, state=json_state("seen")))
    assert len(house.commits) == 1
    (start,) = [command for _, _, command in batch.commands if isinstance(command, StartSubWorkflow)]
    assert house.hosts["two"].read("a").standing.state == json_state("seen")
    house.hosts["one"] = house.new_host("one")
    (again,) = [command for _, _, command in house.perform(RecoverActor(seq=1)).commands]
    assert isinstance(again, StartSubWorkflow)
    assert (
        (again.sub.workflow_id, again.sub.nonce)
        == (start.sub.workflow_id, start.sub.nonce)
        == (
            "a/add",
            start.sub.nonce,
        )
    )
    assert again.sub.request == request
    end = EndSubWorkflow(seq=1, signal=SubWorkflowEnded(workflow_id="a/add", value=Payload(b"v")))
    house.perform(end, end)
    assert house.status() is WorkflowStatus.SUCCESSFUL
    with house.kv.read() as txn:
        assert list(txn.scan(layout.call_graph(1))) == []


# -- reminders ---------------------------------------------------------------------------------------------------------


def reminder(**about: Any) -> SetReminder:
    return SetReminder(**{"name": "r", "method": "tick", "nonce": "set", **about})


def ticks(house: House) -> list[float]:
    """When each call of the reminder that is in the mailbox was put there."""
    with house.kv.read() as txn:
        calls = actor_store.load_calls(txn, 1)
    return [call.accepted_unix_s - NOW for call in calls if call.spec.origin == "reminder r"]


def found_reminder(house: House) -> Reminder:
    with house.kv.read() as txn:
        (found,) = actor_reminders.list_reminders(txn, 1)
    return found


def test_at_most_one_call_of_a_reminder_waits_and_times_go_on() -> None:
    house = House().made()
    house.perform(house.call("1"), ChangeReminder(actor_id="a", change=reminder(timing=Timing.of(every_s=10))))
    for seconds in (10, 20, 30):
        house.now = NOW + seconds
        house.ask(FireDue(seq=1))
    assert ticks(house) == [10.0]
    assert (found_reminder(house).fired, found_reminder(house).skipped) == (1, 2)
    # The caller's call ends and the tick runs: it waits no longer.
    house.end()
    house.now = NOW + 40
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    house.now = NOW + 50
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=0)
    assert ticks(house) == [10.0, 40.0]
    assert found_reminder(house).next_due_unix_s == NOW + 60


def test_times_that_came_while_nothing_ran_are_one_call() -> None:
    house = House().made()
    house.perform(ChangeReminder(actor_id="a", change=reminder(timing=Timing.of(every_s=1))))
    house.now = NOW + 100_000.5
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=0)
    assert found_reminder(house).next_due_unix_s == NOW + 100_001


def test_where_each_time_has_a_call_those_of_long_ago_have_one_together() -> None:
    house = House().made()
    change = reminder(timing=Timing.of(every_s=1), overlap=Overlap.QUEUE)
    house.perform(ChangeReminder(actor_id="a", change=change))
    house.now = NOW + 100_000
    # That of 10 s ago, which stands for all before it, and the ten since.
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=11)
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=0)


def test_what_is_longer_ago_than_said_is_missed() -> None:
    house = House().made()
    change = reminder(timing=Timing.of(every_s=10), overlap=Overlap.QUEUE, catch_up_s=60.0)
    house.perform(ChangeReminder(actor_id="a", change=change))
    house.now = NOW + 1000
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=7)
    found = found_reminder(house)
    assert (found.fired, found.missed_until_unix_s, found.next_due_unix_s) == (7, NOW + 940, NOW + 1010)
    once = reminder(name="once", nonce="once", after_s=5.0, catch_up_s=60.0)
    house.perform(ChangeReminder(actor_id="a", change=once))
    house.now = NOW + 1066
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=6), "and none of the other"
    with house.kv.read() as txn:
        assert actor_reminders.find(txn, 1, "once") is None


def test_a_call_that_waits_can_be_replaced_by_the_next_one() -> None:
    house = House(mailbox_limit=3).made()
    change = reminder(timing=Timing.of(every_s=10), overlap=Overlap.REPLACE)
    house.perform(house.call("1"), ChangeReminder(actor_id="a", change=change))
    for seconds in (10, 20, 30):
        house.now = NOW + seconds
        assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    assert ticks(house) == [30.0]
    assert (found_reminder(house).fired, found_reminder(house).skipped) == (3, 2)
    house.end()
    # It runs now, and is not taken back.
    house.now = NOW + 40
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    assert ticks(house) == [30.0, 40.0]


def test_a_reminder_for_one_time_calls_in_any_case() -> None:
    house = House().made()
    house.perform(house.call("1"))
    for number in range(3):
        change = reminder(nonce=f"set{number}", after_s=5.0)
        house.perform(ChangeReminder(actor_id="a", change=change))
        house.now += 5
        assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    assert ticks(house) == [5.0, 10.0, 15.0]


def test_a_row_of_a_reminder_from_before_is_read_with_the_defaults() -> None:
    told = Reminder(name="r", method="tick", timing={"every_s": 5.0}, next_due_unix_s=NOW, nonce="set")
    frame = Frame()
    header: dict[str, Any] = {"name": "r", "method": "tick", "timing": {"every_s": 5.0}, "next": NOW, "nonce": "set"}
    header |= {"created": 0.0, "held": 0.0, "fired": 0, "options": options_entry(told.options, frame)}
    header["arguments"] = arguments_entry(b"", frame)
    assert decode_reminder(frame.close(header)) == told
    changed = replace(told, overlap=Overlap.QUEUE, catch_up_s=60.0, skipped=3, missed_until_unix_s=NOW)
    assert decode_reminder(encode_reminder(changed)) == changed


def test_each_due_time_of_a_reminder_is_one_call_in_one_transaction() -> None:
    house = House().made()
    change = reminder(timing=Timing.of(every_s=10), overlap=Overlap.QUEUE, catch_up_s=60.0)
    batch = house.perform(ChangeReminder(actor_id="a", change=change))
    assert batch.earliest_due_unix_s == NOW + 10
    house.now = NOW + 35
    house.commits.clear()
    batch = house.perform(FireDue(seq=1), FireDue(seq=1))
    assert [outcome.count for outcome in batch.outcomes if isinstance(outcome, ActorDone)] == [3, 0]
    assert len(house.commits) == 1
    assert batch.earliest_due_unix_s == NOW + 20
    with house.kv.read() as txn:
        (found,) = actor_reminders.list_reminders(txn, 1)
        calls = actor_store.load_calls(txn, 1)
    assert (found.fired, found.next_due_unix_s) == (3, NOW + 40)
    assert [call.spec.origin for call in calls] == ["reminder r"] * 3


def test_a_reminder_for_one_time_is_gone_when_it_has_called() -> None:
    house = House().made()
    house.perform(ChangeReminder(actor_id="a", change=reminder(after_s=5.0)))
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=0)
    house.now = NOW + 5
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    with house.kv.read() as txn:
        assert actor_reminders.list_reminders(txn, 1) == []
        assert actor_reminders.next_due(txn) is None


def test_a_reminder_waits_while_its_actor_takes_no_calls() -> None:
    house = House(mailbox_limit=2).made()
    change = reminder(timing=Timing.of(every_s=10), overlap=Overlap.QUEUE, catch_up_s=60.0)
    house.perform(house.call("1"), ChangeReminder(actor_id="a", change=change))
    house.now = NOW + 30
    batch = house.perform(FireDue(seq=1))
    assert batch.outcomes == [ActorDone(seq=1, count=1)]
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=0), "it is not asked for again at once"
    house.end()
    house.now = NOW + 36
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)
    house.end()
    house.now = NOW + 42
    assert house.ask(FireDue(seq=1)) == ActorDone(seq=1, count=1)


def test_what_was_missed_for_long_is_made_up_for_in_several_transactions() -> None:
    house = House().made()
    change = reminder(timing=Timing.of(every_s=1), overlap=Overlap.QUEUE, catch_up_s=300.0)
    house.perform(ChangeReminder(actor_id="a", change=change))
    house.now = NOW + 250
    made = []
    while (outcome := house.ask(FireDue(seq=1))) != ActorDone(seq=1, count=0):
        assert isinstance(outcome, ActorDone)
        made.append(outcome.count)
    assert made == [100, 100, 50]


def test_what_a_method_asks_for_is_done_if_it_takes_effect_and_not_otherwise() -> None:
    house = House().made()
    house.perform(house.call("1"), house.call("2"))
    failing = house.ending(MethodRaised, error=Payload(b"e"))
    house.perform(replace(failing, reminders=(reminder(after_s=5.0),)))
    with house.kv.read() as txn:
        assert actor_reminders.list_reminders(txn, 1) == []
    house.commits.clear()
    batch = house.end(reminders=[reminder(after_s=5.0)])
    assert (len(house.commits), batch.earliest_due_unix_s) == (1, NOW + 5)
    with house.kv.read() as txn:
        assert [one.name for one in actor_reminders.list_reminders(txn, 1)] == ["r"]


def test_a_reminder_can_be_replaced_and_cancelled_and_its_request_repeated() -> None:
    house = House().made()
    first = ChangeReminder(actor_id="a", change=reminder(after_s=5.0))
    house.perform(first)
    house.perform(ChangeReminder(actor_id="a", change=reminder(after_s=50.0, nonce="other")))
    house.perform(first)
    with house.kv.read() as txn:
        assert [one.next_due_unix_s for one in actor_reminders.list_reminders(txn, 1)] == [NOW + 50]
    cancel = ChangeReminder(actor_id="a", change=CancelReminder(name="r"))
    assert isinstance(house.ask(cancel), ActorDone)
    assert isinstance(house.ask(cancel), ReminderNotFoundError)
    assert isinstance(house.ask(first), ActorDone)
    with house.kv.read() as txn:
        assert actor_reminders.list_reminders(txn, 1) == []


# -- a way out ---------------------------------------------------------------------------------------------------------


def test_a_call_is_cancelled_by_its_name_once_and_one_that_never_was_is_said() -> None:
    house = House().made()
    house.perform(house.call("1"), house.call("2"))
    cancel = CancelCall(actor_id="a", name="add_1")
    assert house.ask(cancel) == ActorDone(seq=1, number=2, ended="add_1")
    assert house.ask(cancel) == ActorDone(seq=1, fresh=False, ended="add_1")
    assert isinstance(house.ask(CancelCall(actor_id="a", name="never")), CallNotFoundError)
    assert isinstance(house.ask(CancelCall(actor_id="b", name="add")), VirtualActorNotFoundError)
    with house.kv.read() as txn:
        assert [call.spec.nonce for call in actor_store.load_calls(txn, 1)] == ["1"]


def test_a_reset_that_is_asked_for_again_is_done_once() -> None:
    house = House(class_version=3).made()
    house.perform(house.call("1"), house.call("2"), house.call("3"))
    reset = ResetActor(actor_id="a", nonce="r", state=json_state("given"), expected_version=1)
    assert house.ask(reset) == ActorDone(seq=1, ended="add")
    assert house.ask(reset) == ActorDone(seq=1, fresh=False, ended="add")
    assert house.ask(reset, host="two") == OtherHost(host="one")
    with house.kv.read() as txn:
        assert [call.spec.nonce for call in actor_store.load_calls(txn, 1)] == ["2", "3"]
    standing = house.row().standing
    assert (standing.version, standing.state) == (2, replace(json_state("given"), class_version=3))
    assert isinstance(house.ask(replace(reset, nonce="other")), VirtualActorVersionError)


def test_an_actor_that_works_is_not_deleted_and_its_call_is_named() -> None:
    house = House().made()
    house.perform(house.call("1"))
    refused = house.ask(DeleteActor(actor_id="a", nonce="d"))
    assert isinstance(refused, VirtualActorBusyError)
    assert isinstance(refused, WorkflowStillActiveError)
    assert "workflow.cancel('a/add')" in str(refused)
    house.perform(CancelCall(actor_id="a", name="add"))
    assert isinstance(house.ask(DeleteActor(actor_id="a", nonce="d")), ActorDone)


# -- events ------------------------------------------------------------------------------------------------------------


def subscribed(house: House, events: int, **about: Any) -> int:
    """A rule, and events for it. Returns its number."""
    rule = Subscription(
        **{"name": "rule", "source": "kafka/c/t", "selector": "all", "graph": GRAPH, "actor": house.spec, **about}
    )
    with house.kv.write() as txn:
        kept, _ = subscriptions.subscribe(txn, rule, NOW)
        arrived = [IncomingEvent(key=b"k", value=b"{}", time_unix_s=NOW, dedupe_id=f"{n}") for n in range(events)]
        event_store.ingest(txn, "kafka/c/t", arrived, moves={}, now_unix_s=NOW)
    house.commits.clear()
    return kept.number


def test_an_event_is_one_call_and_its_row_goes_with_that() -> None:
    house = House()
    number = subscribed(house, 2)
    calls = [CallFrom(subscription=number, event=event, actor_id="a") for event in (1, 2)]
    batch = house.perform(*calls)
    assert len(house.commits) == 1
    assert all(isinstance(outcome, CallAccepted) and outcome.fresh for outcome in batch.outcomes)
    assert house.ask(calls[0]) == ActorDone(seq=-1, fresh=False)
    with house.kv.read() as txn:
        assert subscriptions.to_start(txn, number, limit=9) == []
        rule = subscriptions.get_subscription(txn, number)
        queued = [(call.spec.method, call.spec.origin) for call in actor_store.load_calls(txn, 1)]
    assert rule is not None
    assert (rule.started, rule.repeated, rule.actor) == (2, 0, house.spec)
    assert queued == [("__init__", "event rule"), ("t", "event rule"), ("t", "event rule")]


def test_an_event_waits_while_the_mailbox_is_full() -> None:
    house = House(mailbox_limit=2)
    number = subscribed(house, 2)
    calls = [CallFrom(subscription=number, event=event, actor_id="a") for event in (1, 2)]
    assert isinstance(house.perform(*calls).outcomes[1], MailboxFullError)
    with house.kv.read() as txn:
        assert [one.event.number for one in subscriptions.to_start(txn, number, limit=9)] == [2]
    house.end(state="s0")
    assert isinstance(house.ask(calls[1]), CallAccepted)


def test_a_call_of_an_event_that_fails_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    house = House().made()
    number = subscribed(house, 1)
    house.perform(CallFrom(subscription=number, event=1, actor_id="a"), house.call("1"))
    for said in ("no such reading", "its caller hears of it"):
        house.perform(house.ending(MethodRaised, error=Payload(b"e"), said=said))
    (line,) = [record.getMessage() for record in caplog.records if "has failed" in record.getMessage()]
    assert "actor_id=a call=t origin=event rule error=no such reading" in line


def test_an_event_does_not_overtake_one_that_its_actor_has_not_taken() -> None:
    house = House(mailbox_limit=2)
    number = subscribed(house, 3)
    first, second, third = (
        CallFrom(subscription=number, event=event, actor_id="a", after=event - 1) for event in (1, 2, 3)
    )
    assert isinstance(house.perform(first, second).outcomes[1], MailboxFullError)
    house.end(state="s0")
    assert isinstance(house.ask(third), OutOfTurnError)
    taken = house.perform(second, third).outcomes
    assert isinstance(taken[0], CallAccepted)
    assert isinstance(taken[1], MailboxFullError)


def test_an_event_is_for_actors_of_its_rules_class_only() -> None:
    house = House().made()
    other = replace(house.spec, class_name="m.Other")
    number = subscribed(house, 1, actor=other)
    asked = CallFrom(subscription=number, event=1, actor_id="a")
    assert isinstance(house.ask(asked), OtherClassError)
    assert house.row().spec == house.spec
    with house.kv.read() as txn:
        assert subscriptions.is_to_start(txn, number, 1) is not None


def by_another_class(house: House, door: str) -> Any:
    other = replace(house.spec, class_name="m.Other")
    match door:
        case "get_or_create":
            return replace(house.create(nonce="2"), spec=other)
        case "an event":
            return CallFrom(subscription=subscribed(house, 1, actor=other), event=1, actor_id="a")
        case "an event that makes none":
            return CallFrom(subscription=subscribed(house, 1, actor=other, creates=False), event=1, actor_id="a")
        case "run":
            return replace(house.call("2", logged=False), class_name="m.Other")
        case "run_async":
            return replace(house.call("2"), class_name="m.Other")
        case _:
            set_it = SetReminder(name="r", method="add", nonce="2", after_s=1.0)
            return ChangeReminder(actor_id="a", change=set_it, class_name="m.Other")


@pytest.mark.parametrize("initialized", [True, False])
@pytest.mark.parametrize(
    "door", ["get_or_create", "an event", "an event that makes none", "run", "run_async", "a reminder"]
)
def test_an_actor_is_of_one_class_by_every_door(door: str, initialized: bool) -> None:
    house = House()
    house.perform(house.create())
    if initialized:
        house.end(state="s0")
    asked, before = by_another_class(house, door), house.row()
    refused = house.ask(asked)
    assert isinstance(refused, OtherClassError)
    assert (refused.class_name, refused.asked_for) == ("m.C", "m.Other")
    assert house.row() == before
    with house.kv.read() as txn:
        assert actor_reminders.list_reminders(txn, 1) == []
        assert [call.spec.method for call in actor_store.load_calls(txn, 1)] == ([] if initialized else ["__init__"])


def test_a_class_that_was_renamed_is_asked_for_under_both_names() -> None:
    house = House().made()
    renamed = replace(house.spec, class_name="m.Renamed", formerly=("m.C",))
    house.perform(replace(house.create(nonce="2"), spec=renamed))
    assert house.row().spec == renamed
    for name, nonce in (("m.C", "3"), ("m.Renamed", "4")):
        assert isinstance(house.ask(replace(house.call(nonce), class_name=name)), CallAccepted)
    house.perform(house.create(nonce="5"))
    assert house.row().spec == renamed


def test_an_event_brings_an_actor_the_class_of_its_rule_unless_it_has_a_newer_one() -> None:
    house = House().made()
    newer, older = (replace(house.spec, code=f"code{version}", class_version=version) for version in (2, 1))
    for rule, spec in (("second", newer), ("first", older)):
        number = subscribed(house, 0, name=rule, actor=spec)
        with house.kv.write() as txn:
            arrived = IncomingEvent(key=b"k", value=b"{}", time_unix_s=NOW, dedupe_id=rule)
            event_store.ingest(txn, "kafka/c/t", [arrived], moves={}, now_unix_s=NOW)
        with house.kv.read() as txn:
            (waiting,) = subscriptions.to_start(txn, number, limit=9)
        asked = CallFrom(subscription=number, event=waiting.event.number, actor_id="a")
        assert isinstance(house.ask(asked), CallAccepted)
        assert house.row().spec == newer


def test_an_event_makes_an_actor_again_whose_constructor_failed() -> None:
    house = House()
    number = subscribed(house, 2)
    house.ask(CallFrom(subscription=number, event=1, actor_id="a"))
    house.perform(house.ending(MethodRaised, error=Payload(b"e"), said="it failed"))
    assert not house.row().standing.initialized
    assert isinstance(house.ask(CallFrom(subscription=number, event=2, actor_id="a")), CallAccepted)
    with house.kv.read() as txn:
        queued = [call.spec.method for call in actor_store.load_calls(txn, 1)]
    assert queued[-2:] == ["__init__", "t"]


def test_an_event_for_an_actor_that_is_not_there_waits_if_the_rule_makes_none() -> None:
    house = House()
    number = subscribed(house, 1, creates=False)
    asked = CallFrom(subscription=number, event=1, actor_id="a")
    assert isinstance(house.ask(asked), VirtualActorNotFoundError)
    house.home = "two"
    assert isinstance(house.ask(asked, host="two"), VirtualActorNotFoundError)
    house.perform(house.create(), host="two")
    assert house.ask(asked) == OtherHost(host="two")
    assert isinstance(house.ask(asked, host="two"), CallAccepted)


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_an_actor_is_deleted_when_it_does_not_work_and_once() -> None:
    house = House().made()
    house.perform(house.call("1", logged=False))
    delete = DeleteActor(actor_id="a", nonce="d")
    assert isinstance(house.ask(delete), WorkflowStillActiveError)
    house.end()
    batch = house.perform(delete)
    assert (batch.deleted, batch.blob_groups, batch.sweep) == ([1], ["a-made"], False)
    assert house.ask(delete) == ActorDone(seq=1, fresh=False)
    assert isinstance(house.ask(DeleteActor(actor_id="a", nonce="e")), VirtualActorNotFoundError)
    with house.kv.read() as txn:
        assert list(txn.scan(b"v")) == []


def test_a_suspended_actor_can_be_deleted_with_what_it_holds_up() -> None:
    house = House(suspends=True).made()
    house.perform(house.call("1"), house.call("2"))
    house.perform(house.ending(MethodRaised, error=Payload(b"e")))
    assert house.status() is WorkflowStatus.RESUMABLE
    assert house.perform(DeleteActor(actor_id="a")).deleted == [1]
    with house.kv.read() as txn:
        assert list(txn.scan(b"v")) == []


def test_a_long_history_goes_in_several_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.actors.virtual.core.ROWS_AT_ONCE", 20)
    house = House().made()
    for number in range(30):
        house.perform(house.call(f"{number}"))
        house.end()
    house.commits.clear()
    batch = house.perform(DeleteActor(actor_id="a"))
    rounds = 1
    while batch.sweep:
        assert isinstance(house.ask(house.call("x")), VirtualActorNotFoundError)
        batch = house.perform(SweepDeleted())
        rounds += 1
    assert rounds >= 4
    assert batch.blob_groups == ["a-made"]
    assert max(len(writes) for writes in house.commits) < 40


def test_a_damaged_actor_refuses_what_is_asked_of_it_and_can_be_deleted() -> None:
    house = House().made()
    house.hosts["one"].put_away(NOW + 1, most=0)
    with house.kv.write() as txn:
        txn.put(layout.actor(1), b"damaged")
    assert isinstance(house.ask(house.call("1")), StorageCorruptError)
    with house.kv.write() as txn:
        txn.put(layout.actor_due(1.0, 1), b"")
        leases.hold_again(txn, 1, "one")
    assert isinstance(house.ask(RecoverActor(seq=1)), StorageCorruptError)
    assert isinstance(house.ask(FireDue(seq=1)), StorageCorruptError)
    with house.kv.read() as txn:
        assert actor_reminders.next_due(txn) is None, "nobody is rung for it for ever"
    assert house.held_by("one") == []
    assert house.perform(DeleteActor(actor_id="a")).deleted == [1]
    assert isinstance(house.ask(house.call("1")), VirtualActorNotFoundError)


def test_a_call_is_withdrawn_by_the_mark_that_its_caller_knows() -> None:
    house = House().made()
    house.perform(house.call("1"), house.call("2", key="k"))
    assert isinstance(house.ask(WithdrawCall(actor_id="a", mark=key_mark("k"))), ActorDone)
    house.end()
    assert house.status() is WorkflowStatus.SUCCESSFUL
