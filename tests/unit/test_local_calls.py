"""Calls over a local socket, between threads of this process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.actors import local_calls
from holdfast.actors.local_calls import LARGEST_REQUEST, LocalCaller, LocalService, NotHereError

pytestmark = pytest.mark.skipif(not local_calls.AVAILABLE, reason="there are such sockets on Linux only")


class Actor:
    """A service on an event loop of its own, as an actor has one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.held, self.holding = asyncio.Event(), threading.Event()
        self.found = 0
        methods = {"echo": self.echo, "fail": self.fail, "hold": self.hold, "odd": self.odd}
        self.service = LocalService(methods)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def echo(self, *what: Any) -> Any:
        return what

    async def fail(self) -> None:
        raise ValueError("no such luck")

    async def hold(self, what: str) -> str:
        self.holding.set()
        await self.held.wait()
        return what

    async def odd(self) -> Any:
        return threading.Lock()

    def run(self, call: Callable[[], Any]) -> None:
        """Run a function on the loop."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (call(), done.set()))
        assert done.wait(10)

    def end(self) -> None:
        """As if its process had been killed: all its connections break off."""

        async def stop() -> None:
            self.service.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(10)

    def close(self) -> None:
        self.end()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def find(actor: Actor) -> str:
    actor.found += 1
    return asyncio.run_coroutine_threadsafe(actor.service.open(), actor.loop).result(10)


@pytest.fixture
def actor() -> Iterator[Actor]:
    made = Actor()
    yield made
    made.close()


@pytest.fixture
def caller() -> LocalCaller:
    return LocalCaller(find)


def test_a_call_gives_what_the_method_returns_and_the_address_is_asked_for_once(
    actor: Actor, caller: LocalCaller
) -> None:
    for number in range(100):
        assert caller.call(actor, "echo", number, {"of": b"us"}) == (number, {"of": b"us"})
    assert actor.found == 1


def test_what_it_raises_is_raised_and_the_next_call_is_as_ever(actor: Actor, caller: LocalCaller) -> None:
    with pytest.raises(ValueError, match="no such luck"):
        caller.call(actor, "fail")
    assert caller.call(actor, "echo", 1) == (1,)


@pytest.mark.parametrize("size", [70_000, LARGEST_REQUEST - 100])
def test_what_does_not_fit_into_one_read_comes_whole(actor: Actor, caller: LocalCaller, size: int) -> None:
    assert caller.call(actor, "echo", b"x" * size) == (b"x" * size,)


def test_what_is_large_goes_another_way(actor: Actor, caller: LocalCaller) -> None:
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", b"x" * LARGEST_REQUEST)
    assert actor.found == 0


def test_what_cannot_be_pickled_goes_another_way(actor: Actor, caller: LocalCaller) -> None:
    with pytest.raises(NotHereError):
        caller.call(actor, "odd")


def test_threads_do_not_wait_for_each_other_and_get_their_own(actor: Actor, caller: LocalCaller) -> None:
    got: list[Any] = []
    held = threading.Thread(target=lambda: got.append(caller.call(actor, "hold", "first")))
    held.start()
    assert [caller.call(actor, "echo", number) for number in range(10)] == [(number,) for number in range(10)]
    assert got == []
    actor.run(actor.held.set)
    held.join(10)
    assert got == ["first"]


def test_when_the_actor_ends_the_caller_is_sent_another_way_and_finds_its_successor(
    caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(local_calls.time, "monotonic", lambda: now[0])
    first, raised = Actor(), threading.Event()

    def ask() -> None:
        with pytest.raises(NotHereError):
            caller.call(first, "hold", "first")
        raised.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert first.holding.wait(10)
    first.close()
    assert raised.wait(10)
    asking.join(10)
    # The handle is that of the actor, and not of its process.
    second = Actor()
    monkeypatch.setattr(caller, "_find", lambda _: find(second))
    with pytest.raises(NotHereError):
        caller.call(first, "echo", 1)
    now[0] += 10.0
    assert caller.call(first, "echo", 1) == (1,)
    second.close()


def test_a_call_that_was_interrupted_leaves_its_reply_to_nobody(
    actor: Actor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    caller.call(actor, "echo", 0)
    with monkeypatch.context() as context:
        # The first thing that is done with what comes back; the reply itself comes later.
        context.setattr(local_calls._Line, "_received", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            caller.call(actor, "echo", 1)
    assert caller.call(actor, "echo", 2) == (2,)


def test_another_user_is_not_heard(actor: Actor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.getuid()
    monkeypatch.setattr(local_calls.os, "getuid", lambda: user + 1)
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", 1)


def test_beyond_so_many_callers_the_next_goes_another_way(
    actor: Actor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_calls, "MOST_CONNECTIONS", 1)
    assert caller.call(actor, "echo", 1) == (1,)
    refused: list[bool] = []

    def ask() -> None:
        try:
            caller.call(actor, "echo", 2)
        except NotHereError:
            refused.append(True)

    other = threading.Thread(target=ask)
    other.start()
    other.join(10)
    assert refused == [True]


def test_where_nothing_is_offered_it_is_asked_for_now_and_then(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []
    monkeypatch.setattr(local_calls.time, "monotonic", lambda: now[0])
    caller = LocalCaller(lambda one: asked.append(one) or "")
    for _ in range(3):
        with pytest.raises(NotHereError):
            caller.call(actor, "echo", 1)
    assert len(asked) == 1
    now[0] += 10.0
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", 1)
    assert len(asked) == 2
