"""A bundle in a worker: what is done of it, and what is given back when it takes too long."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from holdfast.actors import task_bundle
from holdfast.actors.bundle_box import BundleBox, Done, read_box
from holdfast.actors.task_bundle import BundleReply, Key, May, OpenBundle

DEADLINE_S = 30.0
NEVER_S = 3600.0
KEYS: list[Key] = [(number, 0, 1) for number in range(4)]


@pytest.fixture
def place() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    read_box("me", name)


def reply_of(place: int) -> bytes:
    return f"reply {place}".encode()


def until_watched() -> None:
    """Whoever watches sleeps until the bundle that runs now has taken too long."""
    deadline_s = time.monotonic() + DEADLINE_S
    while task_bundle._watcher._looks_s == math.inf:
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def until_later() -> None:
    """The clock has gone on."""
    began_s = time.monotonic()
    while time.monotonic() == began_s:
        pass


ALL = [reply_of(place) for place in range(4)]


def refuse(told: BundleReply) -> None:
    raise AssertionError(f"nothing is to be given back: {told}")


def test_all_run_in_order_and_nothing_is_given_back() -> None:
    ran = []

    def run_one(place: int) -> bytes:
        ran.append(place)
        return reply_of(place)

    said = OpenBundle(KEYS, refuse, NEVER_S).run(run_one, None)
    assert ran == [0, 1, 2, 3]
    assert said == BundleReply(replies=tuple(ALL), unbegun=())


@pytest.mark.parametrize("chained", [False, True])
def test_what_has_not_begun_is_given_back_when_one_takes_long_and_does_not_run_here(chained: bool) -> None:
    told: list[BundleReply] = []
    given_back = threading.Event()

    def give_back(reply: BundleReply) -> None:
        told.append(reply)
        given_back.set()

    def run_one(place: int) -> bytes:
        assert place < 2
        if place == 1:
            assert given_back.wait(DEADLINE_S)
        return reply_of(place)

    said = OpenBundle(KEYS, give_back, 0.05, chained).run(run_one, None)
    (early,) = told
    assert (early.replies, early.unbegun) == ((ALL[0],), tuple(KEYS[2:]))
    assert early.busy_s > 0.0
    # All is said again at the end: that message may have been lost.
    assert said == BundleReply(replies=tuple(ALL[:2]), unbegun=tuple(KEYS[2:]))


@pytest.mark.parametrize(("chained", "slices"), [(False, 1), (True, 4)])
def test_all_together_have_one_slice_and_of_a_chain_each_has_its_own(chained: bool, slices: int) -> None:
    dues_s: list[float] = []

    def run_one(place: int) -> bytes:
        dues_s.append(bundle.due_s)
        until_later()
        return reply_of(place)

    bundle = OpenBundle(KEYS, refuse, NEVER_S, chained)
    bundle.run(run_one, None)
    assert len(set(dues_s)) == slices
    assert dues_s == sorted(dues_s)


def test_what_is_done_is_told_when_the_last_one_takes_long(place: str) -> None:
    told: list[BundleReply] = []
    heard = threading.Event()

    def hear(reply: BundleReply) -> None:
        told.append(reply)
        heard.set()

    def run_one(number: int) -> bytes:
        assert number < 3 or heard.wait(DEADLINE_S)
        return reply_of(number)

    assert OpenBundle(KEYS, hear, 0.05).run(run_one, None).replies == tuple(ALL)
    assert [(reply.replies, reply.unbegun) for reply in told] == [(tuple(ALL[:3]), ())]


def test_one_that_may_take_forever_is_not_waited_for_by_the_next() -> None:
    def run_one(place: int) -> bytes:
        until_watched()
        return reply_of(place)

    OpenBundle(KEYS[:1], refuse, NEVER_S).run(run_one, None)
    told = threading.Event()
    OpenBundle(KEYS[:1], lambda _: told.set(), 0.05).run(
        lambda place: (told.wait(DEADLINE_S), reply_of(place))[1], None
    )
    assert told.is_set()


@pytest.mark.parametrize(("may", "unbegun"), [(May.NOT_HERE, KEYS[2:]), (May.NEVER, [])])
def test_what_may_not_begin_is_given_back_or_forgotten(may: May, unbegun: list[Key]) -> None:
    said = OpenBundle(KEYS, refuse, NEVER_S).run(reply_of, None, lambda place: may if place == 2 else May.BEGIN)
    assert said == BundleReply(replies=tuple(ALL[:2]), unbegun=tuple(unbegun))


def test_what_is_done_is_noted_before_the_next_begins(place: str) -> None:
    noted: list[Done | None] = []

    def run_one(number: int) -> bytes:
        # Reading removes the file, and not the mapping of whoever writes.
        if number == 2:
            noted.append(read_box("me", place))
        return reply_of(number)

    box = BundleBox("me", place)
    OpenBundle(KEYS, refuse, NEVER_S).run(run_one, box)
    assert noted == [Done(replies=ALL[:2], begun=3)]
