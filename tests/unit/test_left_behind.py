"""Attempts that nobody waits for any more are counted while they run, and no longer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from holdfast.actors.virtual.context import CallContext, refuse_left, request_nonce, running_call, waiting
from holdfast.actors.virtual.rooms import Attempt, Room
from holdfast.engine.virtual_actor_errors import AttemptAbandonedError


def test_a_thread_that_was_left_behind_counts_until_it_ends() -> None:
    room = Room()
    attempt: Attempt = Attempt(Future(), room)
    attempt.leave()
    assert room.left_behind == 1
    attempt.over()
    assert room.left_behind == 0


def test_one_that_had_ended_is_not_left_behind() -> None:
    room = Room()
    attempt: Attempt = Attempt(Future(), room)
    attempt.over()
    attempt.leave()
    assert room.left_behind == 0


@pytest.mark.parametrize("left", ["before it begins", "while it waits"])
def test_a_coroutine_that_is_cancelled_is_over_and_gives_its_place_back(left: str) -> None:
    room, done = Room(), threading.Event()
    attempt: Attempt = Attempt(Future(), room)
    waits = threading.Event()

    async def work() -> None:
        waits.set()
        await asyncio.sleep(3600)

    if left == "before it begins":
        attempt.leave()
    attempt.go_on(work(), done.set)
    if left == "while it waits":
        assert waits.wait(60)
        attempt.leave()
    assert done.wait(60)
    assert waits.is_set() is (left == "while it waits")
    assert room.left_behind == 0


def test_whatever_a_method_that_was_left_behind_asks_for_is_refused() -> None:
    left = False
    call = CallContext(actor_id="a", number=1, name="hang", host="h", chain=("a",), mark="m", is_left=lambda: left)
    with running_call(call):
        request_nonce("something")
        with waiting():
            pass
        left = True
        for asks in (refuse_left, lambda: request_nonce("something"), lambda: waiting().__enter__()):
            with pytest.raises(AttemptAbandonedError, match="'hang' of virtual actor 'a'"):
                asks()
    refuse_left()
