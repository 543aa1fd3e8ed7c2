"""Calls over a local socket, between threads of this process."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from holdfast.actors import local_addresses, local_calls, local_frames, local_peers, local_service
from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_calls import LocalCaller
from holdfast.actors.local_frames import LARGEST_REQUEST, NotHereError
from tests.unit.local_actor import LocalActor, actor, find

__all__ = ["actor"]

pytestmark = pytest.mark.skipif(not local_frames.AVAILABLE, reason="there are such sockets on Linux only")


@pytest.fixture
def caller() -> LocalCaller:
    return LocalCaller(find, LocalAddresses())


def test_a_call_gives_what_the_method_returns_and_the_address_is_asked_for_once(
    actor: LocalActor, caller: LocalCaller
) -> None:
    for number in range(100):
        assert caller.call(actor, "echo", number, {"of": b"us"}) == (number, {"of": b"us"})
    assert actor.found == 1


def test_what_it_raises_is_raised_and_the_next_call_is_as_ever(actor: LocalActor, caller: LocalCaller) -> None:
    with pytest.raises(ValueError, match="no such luck"):
        caller.call(actor, "fail")
    assert caller.call(actor, "echo", 1) == (1,)


@pytest.mark.parametrize("size", [70_000, LARGEST_REQUEST - 100])
def test_what_does_not_fit_into_one_read_comes_whole(actor: LocalActor, caller: LocalCaller, size: int) -> None:
    assert caller.call(actor, "echo", b"x" * size) == (b"x" * size,)


def test_what_is_large_goes_another_way(actor: LocalActor, caller: LocalCaller) -> None:
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", b"x" * LARGEST_REQUEST)
    assert actor.found == 0


def test_what_cannot_be_pickled_goes_another_way(actor: LocalActor, caller: LocalCaller) -> None:
    with pytest.raises(NotHereError):
        caller.call(actor, "odd")


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


def test_who_sends_what_cannot_be_read_is_told(actor: LocalActor, caller: LocalCaller) -> None:
    with pytest.raises(ValueError, match="no number"):
        caller.call(actor, "echo", Unreadable())
    assert caller.call(actor, "echo", 1) == (1,)


def test_threads_do_not_wait_for_each_other_and_get_their_own(actor: LocalActor, caller: LocalCaller) -> None:
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
    monkeypatch.setattr(local_addresses.time, "monotonic", lambda: now[0])
    first, raised = LocalActor(), threading.Event()

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
    second = LocalActor()
    monkeypatch.setattr(caller, "_find", lambda _: find(second))
    with pytest.raises(NotHereError):
        caller.call(first, "echo", 1)
    now[0] += 10.0
    assert caller.call(first, "echo", 1) == (1,)
    second.close()


def test_a_call_that_was_interrupted_leaves_its_reply_to_nobody(
    actor: LocalActor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
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


def test_another_user_is_not_heard(actor: LocalActor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connected: socket.socket) -> None:
        raise PermissionError(f"another user is at {connected.getpeername()!r}")

    # At the service's end.
    monkeypatch.setattr(local_peers, "check_peer", refuse)
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", 1)


def test_beyond_so_many_callers_the_next_goes_another_way(
    actor: LocalActor, caller: LocalCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_service, "MOST_CONNECTIONS", 1)
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


def test_where_nothing_is_offered_it_is_asked_for_now_and_then(
    actor: LocalActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [0.0], []
    monkeypatch.setattr(local_addresses.time, "monotonic", lambda: now[0])
    caller = LocalCaller(lambda one: asked.append(one) or "", LocalAddresses())
    for _ in range(3):
        with pytest.raises(NotHereError):
            caller.call(actor, "echo", 1)
    assert len(asked) == 1
    now[0] += 10.0
    with pytest.raises(NotHereError):
        caller.call(actor, "echo", 1)
    assert len(asked) == 2
