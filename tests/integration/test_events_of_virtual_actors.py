"""Virtual actors that are called by events, and whose methods wait for events. The test is the source."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import EventListener, HTTPListener, TimerListener
from tests.integration.outside import Source, listener
from tests.integration.traces import wait_for

pytestmark = pytest.mark.usefixtures("platform")


def text_listener() -> type[EventListener]:
    heard: Any = listener()

    class Text(heard):  # type: ignore[misc]
        @staticmethod
        def conversion(*_: Any, **__: Any) -> Any:
            return lambda message: message[1].decode()

    return Text


def device_of(topic: str, **about: Any) -> Any:
    """A class for one test, which is called by the events of its topic."""
    given: dict[str, Any] = {"actor_id": topic + "-{key}", **about.pop("rule", {})}
    heard = about.pop("heard", listener())

    @workflow.virtual_actor(**about)
    class Device:
        def __init__(self) -> None:
            self.read: list[str] = []

        @workflow.on_event(heard, topic, **given)
        def measured(self, message: Any) -> int:
            text = message if isinstance(message, str) else message[1].decode()
            if text == "bad":
                raise ValueError("no such reading")
            self.read.append(text)
            return len(self.read)

        @workflow.virtual_actor.readonly
        def all_read(self) -> list[str]:
            return self.read

    return Device


def all_read(actor_id: str) -> list[str]:
    """What an actor has read when its mailbox is empty."""
    wait_for(lambda: workflow.get_status(actor_id) != "RUNNING")
    read: list[str] = workflow.get_actor(actor_id).all_read.run()
    return read


def test_each_event_is_one_call_of_its_actor_in_order(source: Source, wid: str) -> None:
    device = device_of(wid)
    (rule,) = workflow.subscribe(device)
    source.take_in(wid, ("x", b"1"), ("y", b"2"), ("x", b"3"))
    source.take_in(wid, ("x", b"4"))
    assert source.start_all()
    assert source.start_all(), "what has its call gets none again"
    assert (all_read(f"{wid}-x"), all_read(f"{wid}-y")) == (["1", "3", "4"], ["2"])
    (found,) = [one for one in workflow.list_event_subscriptions() if one.name == rule]
    assert (found.started, found.repeated) == (4, 0)
    assert found.calls is not None
    assert found.calls.endswith("Device.measured")
    assert workflow.get_metadata(f"{wid}-x", "measured_2")["task_id"] == "measured_2"

    assert workflow.subscribe(device) == [rule], "it goes on where it was"
    source.take_in(wid, ("x", b"5"))
    assert source.start_all()
    assert all_read(f"{wid}-x") == ["1", "3", "4", "5"]
    workflow.delete_event_subscription(rule)
    source.take_in(wid, ("x", b"6"))
    assert source.start_all()
    assert all_read(f"{wid}-x") == ["1", "3", "4", "5"]


def test_a_call_that_fails_leaves_the_state_as_it_was_and_is_told(source: Source, wid: str) -> None:
    workflow.subscribe(device_of(wid, heard=text_listener()))
    source.take_in(wid, ("x", b"1"), ("x", b"bad"), ("x", b"2"))
    assert source.start_all()
    assert all_read(f"{wid}-x") == ["1", "2"]
    assert "no such reading" in workflow.describe(f"{wid}-x").last_error
    assert source.dead_letters(wid) == []


def test_an_actor_that_takes_no_calls_holds_up_its_own_events_only(source: Source, wid: str) -> None:
    workflow.subscribe(device_of(wid, mailbox_limit=2, on_error="suspend"))
    source.take_in(wid, ("x", b"bad"))
    assert source.start_all()
    wait_for(lambda: workflow.get_status(f"{wid}-x") == "RESUMABLE")
    source.take_in(wid, *(("x", str(number).encode()) for number in range(4)), ("y", b"1"))
    assert not source.start_all()
    assert all_read(f"{wid}-y") == ["1"]
    workflow.delete(f"{wid}-x")
    wait_for(source.start_all)
    assert all_read(f"{wid}-x") == ["1", "2", "3"], "the first one was in the mailbox that was deleted"
    assert source.dead_letters(wid) == []


def test_an_event_for_an_actor_that_is_not_there_is_a_dead_letter_if_it_makes_none(source: Source, wid: str) -> None:
    def named(message: tuple[bytes, bytes]) -> str:
        if message[0] == b"bad":
            raise LookupError("no such device")
        return f"{topic}-{message[0].decode()}"

    topic = wid
    device = device_of(topic, rule={"create": False, "actor_id": named})
    workflow.subscribe(device)
    source.take_in(wid, ("x", b"1"), ("bad", b"2"), ("y", b"3"))
    device.get_or_create(f"{wid}-y")
    assert source.start_all()
    assert all_read(f"{wid}-y") == ["3"]
    letters = {letter.event_number: letter for letter in source.dead_letters(wid)}
    unnamed, unmade = sorted(letters.values(), key=lambda letter: letter.number)
    assert (unnamed.reason, unmade.reason) == ("call-refused", "call-refused")
    assert "actor_id= raised LookupError: no such device" in unnamed.error
    assert f"there is no virtual actor '{wid}-x'" in unmade.error
    with pytest.raises(workflow.exceptions.DeadLetterNotReplayableError, match="value="):
        workflow.replay_dead_letter(unmade.number, value=b"1")
    device.get_or_create(f"{wid}-x")
    workflow.replay_dead_letter(unmade.number)
    assert source.start_all()
    assert all_read(f"{wid}-x") == ["1"]
    assert [letter.number for letter in source.dead_letters(wid)] == [unnamed.number]


def test_an_id_that_is_somebody_elses_is_a_dead_letter(source: Source, wid: str) -> None:
    workflow.subscribe(device_of(wid))
    workflow.run(workflow.sleep(0), workflow_id=f"{wid}-x")

    @workflow.virtual_actor
    class Other:
        def __init__(self) -> None: ...

    Other.get_or_create(f"{wid}-y")
    source.take_in(wid, ("x", b"1"), ("y", b"2"), ("z", b"3"))
    assert source.start_all()
    assert all_read(f"{wid}-z") == ["3"]
    taken, other = sorted(source.dead_letters(wid), key=lambda letter: letter.number)
    assert "is that of a workflow" in taken.error
    assert "Other', and not of" in other.error


def test_events_of_a_quarantined_actor_are_dead_letters_until_it_is_resumed(
    source: Source, wid: str, tmp_path: Path
) -> None:
    mended, topic = tmp_path / "mended", wid

    @workflow.virtual_actor
    class Frail:
        def __init__(self) -> None:
            self.read: list[str] = []

        @workflow.on_event(listener(), topic, actor_id=topic + "-{key}")
        def measured(self, message: Any) -> None:
            if message[1] == b"end" and not mended.exists():
                os._exit(1)
            self.read.append(message[1].decode())

        @workflow.virtual_actor.readonly
        def all_read(self) -> list[str]:
            return self.read

    workflow.subscribe(Frail)
    source.take_in(wid, ("x", b"1"), ("x", b"end"))
    wait_for(source.start_all)
    wait_for(lambda: workflow.get_status(f"{wid}-x") == workflow.FAILED)
    source.take_in(wid, ("x", b"2"), ("y", b"3"))
    wait_for(source.start_all)
    assert all_read(f"{wid}-y") == ["3"]
    (letter,) = source.dead_letters(wid)
    assert f"'{wid}-x' is quarantined" in letter.error
    mended.touch()
    workflow.resume(f"{wid}-x")
    workflow.replay_dead_letter(letter.number)
    wait_for(source.start_all)
    assert all_read(f"{wid}-x") == ["1", "end", "2"]


def test_events_call_a_class_whose_actors_have_processes_of_their_own(source: Source, wid: str) -> None:
    workflow.subscribe(device_of(wid, runtime_env={"env_vars": {"DEVICES": wid}}))
    source.take_in(wid, ("x", b"1"))
    wait_for(source.start_all)
    assert all_read(f"{wid}-x") == ["1"]
    Waiter.get_or_create(wid).add.run(1)
    own, ordinary = (workflow.describe(one).host.rpartition("-")[0] for one in (f"{wid}-x", wid))
    assert own != ordinary


@workflow.virtual_actor
class Waiter:
    def __init__(self) -> None:
        self.waits = 0

    def wait_for_time(self, due_unix_s: float) -> Any:
        self.waits += 1
        return workflow.wait_for_event(TimerListener, due_unix_s)

    def wait_for_key(self, key: str) -> Any:
        self.waits += 1
        return workflow.wait_for_event(HTTPListener, event_key=key)

    def wait_for_message(self, heard: Any, topic: str) -> Any:
        self.waits += 1
        return workflow.wait_for_event(heard, topic, key="k")

    def add(self, by: int) -> int:
        self.waits += by
        return self.waits

    @workflow.virtual_actor.readonly
    def how_many(self) -> int:
        return self.waits


def test_a_method_waits_for_a_time_by_returning_it(wid: str) -> None:
    due = time.time() + 0.5
    waiter = Waiter.get_or_create(wid)
    waiter.wait_for_time.run(due)
    assert time.time() >= due
    assert waiter.how_many.run() == 1


def test_a_method_waits_for_an_event_that_is_sent_to_its_call(wid: str) -> None:
    waiter = Waiter.get_or_create(wid)
    value, after = waiter.wait_for_key.run_async("paid"), waiter.add.run_async(10)
    wait_for(lambda: workflow.get_actor(wid).how_many.run() == 1)
    assert workflow.get_status(wid) == "RUNNING"
    wait_for(lambda: f"{wid}/wait_for_key" in dict(workflow.list_all()))
    assert waiter.how_many.run() == 1, "the next writer waits, readers do not"
    workflow.send_event(f"{wid}/wait_for_key", "paid", {"amount": 3})
    assert ray.get(value, timeout=30) == ("paid", {"amount": 3})
    assert ray.get(after, timeout=30) == 11


def test_a_method_waits_for_an_event_of_a_source(source: Source, wid: str) -> None:
    waiter = Waiter.get_or_create(wid)
    value = waiter.wait_for_message.run_async(listener(), wid)
    wait_for(lambda: source.is_wanted(wid))
    source.take_in(wid, ("other", b"1"), ("k", b"2"))
    assert ray.get(value, timeout=30) == (b"k", b"2")
