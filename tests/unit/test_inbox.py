"""Streams are read in order, each event once."""

from __future__ import annotations

from holdfast.engine.inbox import Inbox

A, B = ("http", "a"), ("http", "b")


def test_an_event_that_comes_first_is_kept_for_its_reader() -> None:
    inbox = Inbox()
    assert inbox.receive(A, 1, "x") is None
    assert inbox.read(A, 7) == (1, "x")
    assert inbox.read(A, 8) is None


def test_readers_are_served_in_the_order_in_which_they_came() -> None:
    inbox = Inbox()
    assert inbox.read(A, 7) is None
    assert inbox.read(A, 8) is None
    assert [inbox.receive(A, number, "x") for number in (1, 2, 3)] == [7, 8, None]


def test_events_are_read_in_the_order_of_their_numbers() -> None:
    inbox = Inbox()
    for number in (1, 2, 3):
        inbox.receive(A, number, f"x{number}")
    assert [inbox.read(A, 7), inbox.read(A, 7), inbox.read(A, 7)] == [(1, "x1"), (2, "x2"), (3, "x3")]


def test_streams_do_not_mix() -> None:
    inbox = Inbox()
    inbox.read(A, 7)
    assert inbox.receive(B, 1, "x") is None
    assert inbox.receive(A, 2, "y") == 7
    assert inbox.read(B, 8) == (1, "x")


def test_an_event_that_is_told_twice_is_taken_once() -> None:
    inbox = Inbox()
    inbox.receive(A, 1, "x")
    inbox.receive(A, 1, "x")
    assert inbox.read(A, 7) == (1, "x")
    assert inbox.read(A, 7) is None
    assert inbox.receive(A, 1, "x") is None


def test_what_was_received_before_a_restart_is_known_after_it() -> None:
    inbox = Inbox(last_number=5)
    inbox.restore(A, 4, "x")
    inbox.read(B, 7)
    assert inbox.receive(B, 5, "y") is None
    assert inbox.receive(B, 6, "z") == 7
    assert inbox.read(A, 8) == (4, "x")


def test_who_has_left_is_given_nothing() -> None:
    inbox = Inbox()
    inbox.read(A, 7)
    inbox.read(A, 8)
    inbox.leave(A, 7)
    inbox.leave(B, 7)
    assert inbox.receive(A, 1, "x") == 8
    inbox.read(A, 9)
    inbox.leave(A, 9)
    assert inbox.receive(A, 2, "y") is None
    assert inbox.read(A, 10) == (2, "y")


def test_an_event_that_is_given_back_keeps_its_place_in_the_stream() -> None:
    inbox = Inbox()
    for number in (1, 2, 3):
        inbox.receive(A, number, f"x{number}")
    inbox.read(A, 7)
    inbox.read(A, 8)
    assert inbox.give_back(A, 2, "x2") is None
    assert inbox.give_back(A, 1, "x1") is None
    assert [inbox.read(A, 9), inbox.read(A, 9), inbox.read(A, 9)] == [(1, "x1"), (2, "x2"), (3, "x3")]


def test_an_event_that_is_given_back_calls_the_first_who_waits() -> None:
    inbox = Inbox()
    inbox.receive(A, 1, "x")
    inbox.read(A, 7)
    inbox.read(A, 8)
    assert inbox.give_back(A, 1, "x") == 8
    assert inbox.read(A, 8) == (1, "x")
