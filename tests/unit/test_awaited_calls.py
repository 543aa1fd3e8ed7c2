"""Calls over a local socket from an event loop, to a service in a thread of this process."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine
from typing import Any

import pytest

from holdfast.actors import awaited_calls, local_addresses, local_frames
from holdfast.actors.awaited_calls import AwaitedCaller
from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_calls import LocalCaller
from holdfast.actors.local_frames import LARGEST_REQUEST, NotHereError
from tests.unit.local_actor import LocalActor, actor, find

__all__ = ["actor"]

pytestmark = pytest.mark.skipif(not local_frames.AVAILABLE, reason="there are such sockets on Linux only")


async def find_awaited(actor: LocalActor) -> str:
    actor.found += 1
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(actor.service.open(), actor.loop))


@pytest.fixture
def addresses() -> LocalAddresses:
    return LocalAddresses()


@pytest.fixture
def caller(addresses: LocalAddresses) -> AwaitedCaller:
    return AwaitedCaller(find_awaited, addresses)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def together(*awaited: Any) -> list[Any]:
    return await asyncio.gather(*awaited)


def open_sockets() -> int:
    """Those of this process that have a peer or listen."""
    return sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in _descriptors())


def _descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


def test_a_thousand_at_once_get_their_own_and_the_address_is_asked_for_once(
    actor: LocalActor, caller: AwaitedCaller
) -> None:
    got = run(together(*(caller.call(actor, "echo", number, b"x" * 1000) for number in range(1000))))
    assert [number for ((number, _),) in ((one,) for one in got)] == list(range(1000))
    assert actor.found == 1


def test_what_is_asked_for_in_one_go_arrives_in_one_go(actor: LocalActor, caller: AwaitedCaller) -> None:
    # Each of them returns how many had come when the first of them went on.
    assert run(together(*(caller.call(actor, "count_up") for _ in range(50)))) == [50] * 50


def test_replies_come_in_the_order_in_which_they_are_there(actor: LocalActor, caller: AwaitedCaller) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(caller.call(actor, "hold", "first"))
        assert await together(*(caller.call(actor, "echo", number) for number in range(3))) == [(0,), (1,), (2,)]
        assert not held.done()
        actor.loop.call_soon_threadsafe(actor.held.set)
        assert await held == "first"

    run(main())


def test_what_it_raises_is_raised_and_the_next_call_is_as_ever(actor: LocalActor, caller: AwaitedCaller) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="no such luck"):
            await caller.call(actor, "fail")
        assert await caller.call(actor, "echo", 1) == (1,)

    run(main())


def test_what_fills_the_socket_comes_whole(actor: LocalActor, caller: AwaitedCaller) -> None:
    large = b"x" * (LARGEST_REQUEST - 100)
    # Neither end takes all of it at once.
    assert run(together(*(caller.call(actor, "echo", large) for _ in range(20)))) == [(large,)] * 20


def test_what_is_large_or_cannot_be_pickled_goes_another_way_and_hinders_nobody(
    actor: LocalActor, caller: AwaitedCaller
) -> None:
    async def main() -> None:
        held = asyncio.ensure_future(caller.call(actor, "hold", "first"))
        for call in (caller.call(actor, "echo", b"x" * LARGEST_REQUEST), caller.call(actor, "odd")):
            with pytest.raises(NotHereError):
                await call
        actor.loop.call_soon_threadsafe(actor.held.set)
        assert await held == "first"

    run(main())


def test_who_is_cancelled_leaves_the_reply_to_nobody(actor: LocalActor, caller: AwaitedCaller) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(caller.call(actor, "hold", "first"), 0.05)
        actor.loop.call_soon_threadsafe(actor.held.set)
        assert await caller.call(actor, "hold", "second") == "second"
        assert await caller.call(actor, "echo", 1) == (1,)

    run(main())


def test_who_asks_for_an_address_and_is_cancelled_takes_it_from_nobody(
    actor: LocalActor, addresses: LocalAddresses
) -> None:
    async def main() -> None:
        known = asyncio.Event()

        async def find_slowly(asked: LocalActor) -> str:
            await known.wait()
            return await find_awaited(asked)

        caller = AwaitedCaller(find_slowly, addresses)
        first, second = (asyncio.ensure_future(caller.call(actor, "echo", number)) for number in (1, 2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        known.set()
        assert await second == (2,)
        assert actor.found == 1

    run(main())


def test_when_the_actor_ends_all_who_wait_are_sent_another_way_and_find_its_successor(
    addresses: LocalAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(local_addresses.time, "monotonic", lambda: now[0])
    first, second = LocalActor(), LocalActor()
    process = [first]
    caller = AwaitedCaller(lambda _: find_awaited(process[0]), addresses)

    async def main() -> None:
        held = [asyncio.ensure_future(caller.call("actor", "hold", number)) for number in range(10)]
        await asyncio.to_thread(first.holding.wait, 10)
        await asyncio.to_thread(first.end)
        assert [type(one) for one in await asyncio.gather(*held, return_exceptions=True)] == [NotHereError] * 10
        process[0] = second
        with pytest.raises(NotHereError):
            await caller.call("actor", "echo", 1)
        now[0] += 10.0
        assert await caller.call("actor", "echo", 1) == (1,)

    run(main())
    first.close()
    second.close()


def test_each_loop_has_its_own_connection_and_one_that_is_closed_hangs_up(
    actor: LocalActor, caller: AwaitedCaller
) -> None:
    assert run(caller.call(actor, "echo", 0)) == (0,)
    gc.collect()
    before = open_sockets()
    for number in range(20):
        assert run(caller.call(actor, "echo", number)) == (number,)
    gc.collect()
    actor.run(lambda: None)
    # Both ends are of this process.
    assert open_sockets() <= before


def test_a_loop_that_somebody_holds_on_to_hangs_up_when_the_next_one_asks(
    actor: LocalActor, caller: AwaitedCaller
) -> None:
    loops = [asyncio.new_event_loop() for _ in range(5)]
    for loop in loops:
        assert loop.run_until_complete(caller.call(actor, "echo", 1)) == (1,)
        loop.close()
    assert run(caller.call(actor, "echo", 2)) == (2,)
    assert [loop for loop in loops if loop in awaited_calls._of_loops] == []


def test_threads_and_loops_share_what_is_known(actor: LocalActor, caller: AwaitedCaller) -> None:
    in_thread = LocalCaller(find, caller._addresses)
    assert in_thread.call(actor, "echo", 1) == (1,)
    assert run(caller.call(actor, "echo", 2)) == (2,)
    assert actor.found == 1


def test_where_nobody_answers_the_caller_is_sent_another_way(addresses: LocalAddresses) -> None:
    addresses.know("actor", "\0holdfast-nobody")
    caller = AwaitedCaller(find_awaited, addresses)
    with pytest.raises(NotHereError):
        run(caller.call("actor", "echo", 1))
    assert addresses.find("actor") == ""
