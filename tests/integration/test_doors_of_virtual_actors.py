"""What is refused of virtual actors is refused by every door, and what is allowed works by every door."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.engine.virtual_actor_errors import OtherClassError, VirtualActorCycleError

pytestmark = pytest.mark.usefixtures("platform")


@workflow.virtual_actor
class Account:
    def __init__(self, owner: str) -> None:
        self.owner, self.balance = owner, 0

    def pay(self, by: int) -> int:
        self.balance += by
        return self.balance

    @workflow.virtual_actor.readonly
    def state(self) -> dict[str, Any]:
        return dict(vars(self))


@workflow.virtual_actor
class Cart:
    def __init__(self) -> None:
        self.items: list[Any] = []

    def pay(self, by: int) -> int:
        self.__dict__.clear()
        return by

    @workflow.virtual_actor.readonly
    def state(self) -> dict[str, Any]:
        return dict(vars(self))


@workflow.virtual_actor
class Opener:
    def open(self, actor_id: str) -> None:
        Cart.get_or_create(actor_id)


@workflow.step  # type: ignore[untyped-decorator]
def open_in_a_step(actor_id: str) -> None:
    Cart.get_or_create(actor_id)


def handle_of_a_cart(actor_id: str) -> Any:
    """A handle that outlived its actor."""
    cart = Cart.get_or_create(actor_id)
    ray.get(cart.ready())
    pickled = pickle.dumps(cart)
    workflow.delete(actor_id)
    return pickle.loads(pickled)


DOORS: dict[str, Callable[[str, Any], Any]] = {
    "get_or_create": lambda wid, _: Cart.get_or_create(wid),
    "awaited get_or_create": lambda wid, _: asyncio.run(Cart.aio.get_or_create(wid)),  # type: ignore[attr-defined]
    "get_or_create in a method": lambda wid, _: Opener.get_or_create(f"{wid}-opener").open.run(wid),
    "get_or_create in a step": lambda wid, _: open_in_a_step.step(wid).run(f"{wid}-step"),
    "run": lambda _, cart: cart.pay.run(1),
    "awaited run": lambda _, cart: asyncio.run(cart.pay.aio.run(1)),
    "run_async": lambda _, cart: ray.get(cart.pay.run_async(1)),
    "a read": lambda _, cart: cart.state.run(),
    "an awaited read": lambda _, cart: asyncio.run(cart.state.aio.run()),
    "a read by run_async": lambda _, cart: ray.get(cart.state.run_async()),
    "ready": lambda _, cart: ray.get(cart.ready()),
    "remind": lambda _, cart: workflow.remind(cart, "pay", 1, after_s=0),
    "cancel_reminder": lambda _, cart: workflow.cancel_reminder(cart, "pay"),
}


def cause_of(error: BaseException) -> BaseException:
    """What an error is at its root: a task, or Ray, puts its own around it."""
    while not isinstance(error, OtherClassError) and error.__cause__ is not None:
        error = error.__cause__
    return error


@pytest.mark.parametrize("door", DOORS)
def test_an_actor_is_not_taken_for_one_of_another_class(door: str, wid: str) -> None:
    cart = handle_of_a_cart(wid)
    account = Account.get_or_create(wid, "ann")
    assert account.pay.run(100) == 100
    with pytest.raises((workflow.WorkflowError, ray.exceptions.RayTaskError)) as raised:
        DOORS[door](wid, cart)
    refused = cause_of(raised.value)
    for said in (wid, "is of class", ".Account'", ".Cart'", "different ids", f"workflow.delete({wid!r})", "formerly="):
        assert said in str(refused)
    assert account.state.run() == {"owner": "ann", "balance": 100}
    assert workflow.describe(wid).class_name.endswith(".Account")
    assert workflow.get_actor(wid).pay.run(1) == 101


def test_a_class_with_a_new_name_takes_its_actors_along_when_it_says_so(wid: str) -> None:
    account = Account.get_or_create(wid, "ann")
    account.pay.run(100)
    former = workflow.describe(wid).class_name

    @workflow.virtual_actor(formerly=former)
    class Purse:
        def __init__(self, owner: str) -> None:
            raise AssertionError("it is there already")

        def pay(self, by: int) -> int:
            self.balance: int = self.balance + 2 * by
            return self.balance

    assert Purse.get_or_create(wid, "ann").pay.run(1) == 102
    assert account.pay.run(1) == 104
    assert Account.get_or_create(wid, "ann").pay.run(1) == 106


@workflow.virtual_actor
class Player:
    def __init__(self) -> None:
        self.log: list[Any] = []

    def ping(self, me: str, other: str, left: int) -> int:
        self.log.append(left)
        if left:
            workflow.get_actor(other).ping.run_async(other, me, left - 1)
        return left

    async def ping_awaited(self, me: str, other: str, left: int) -> int:
        self.log.append(left)
        if left:
            await workflow.get_actor(other).ping_awaited.aio.run_async(other, me, left - 1)
        return left

    def note_later(self, me: str) -> str:
        self.log.append("now")
        workflow.get_actor(me).note.run_async("later")
        return "returned"

    def note(self, what: str) -> None:
        self.log.append(what)

    def make_sure_of(self, me: str) -> str:
        return str(Player.get_or_create(me).actor_id)  # type: ignore[attr-defined]

    def call_itself(self, me: str) -> None:
        self.log.append("never")
        workflow.get_actor(me).note.run("what waits for itself")

    def pass_on(self, other: str, me: str) -> None:
        """Waits for the other one, which calls back."""
        workflow.get_actor(other).call_back.run(me)

    def call_back(self, me: str) -> None:
        workflow.get_actor(me).note.run_async("called back")

    def go_on(self, other: str) -> Any:
        return self.wait_for.step(other)  # type: ignore[attr-defined]

    def wait_for(self, other: str) -> None:
        workflow.get_actor(other).note.run("what waits")

    def wait_through(self, other: str, me: str) -> None:
        workflow.get_actor(other).go_on.run(me)

    @workflow.virtual_actor.readonly
    def get(self) -> list[Any]:
        return self.log


def wait_for(read: Callable[[], Any], expected: Any) -> None:
    deadline = time.monotonic() + 60
    while (found := read()) != expected:
        assert time.monotonic() < deadline, f"{found} and not {expected}"
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["ping", "ping_awaited"])
def test_two_actors_send_each_other_messages(method: str, wid: str) -> None:
    one, other = (Player.get_or_create(f"{wid}-{name}") for name in ("a", "b"))
    getattr(one, method).run_async(one.actor_id, other.actor_id, 5)
    wait_for(other.get.run, [4, 2, 0])
    assert one.get.run() == [5, 3, 1]
    assert [workflow.describe(player.actor_id).last_error for player in (one, other)] == ["", ""]


def test_an_actor_sends_itself_a_message_for_later(wid: str) -> None:
    player = Player.get_or_create(wid)
    assert player.note_later.run(wid) == "returned"
    wait_for(player.get.run, ["now", "later"])


def test_an_actor_is_sent_a_message_by_the_one_it_waits_for(wid: str) -> None:
    one, other = (Player.get_or_create(f"{wid}-{name}") for name in ("a", "b"))
    one.pass_on.run(other.actor_id, one.actor_id)
    wait_for(one.get.run, ["called back"])


def test_a_method_may_ask_for_its_own_actor_to_be_there(wid: str) -> None:
    assert Player.get_or_create(wid).make_sure_of.run(wid) == wid


def test_an_actor_that_waits_for_itself_is_refused_and_the_advice_is_named(wid: str) -> None:
    player = Player.get_or_create(wid)
    with pytest.raises(VirtualActorCycleError, match="run_async") as raised:
        player.call_itself.run(wid)
    assert raised.value.chain == (wid, wid)
    assert player.get.run() == []


def test_a_step_of_the_actors_own_method_cannot_call_whoever_waits_for_the_call(wid: str) -> None:
    one, other = (Player.get_or_create(f"{wid}-{name}") for name in ("a", "b"))
    with pytest.raises(Exception, match="in a cycle"):
        one.wait_through.options(timeout_s=60).run(other.actor_id, one.actor_id)
    assert one.get.run() == []
