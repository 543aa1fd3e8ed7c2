"""How often, and after which time, an executor tries a workflow again that it stumbles on."""

from __future__ import annotations

from holdfast.actors.troubles import Troubles


def test_the_delay_grows_and_has_an_end() -> None:
    troubles = Troubles()
    delays = [troubles.note(7) for _ in range(6)]
    assert delays == [0.5, 1.0, 2.0, 4.0, None, None]


def test_each_workflow_is_counted_by_itself() -> None:
    troubles = Troubles()
    for _ in range(5):
        troubles.note(7)
    assert troubles.note(8) == 0.5


def test_a_workflow_rests_until_its_time_has_passed() -> None:
    troubles = Troubles()
    troubles.note(7)
    assert troubles.is_resting(7)
    assert not troubles.is_resting(8)
    troubles.rested(7)
    assert not troubles.is_resting(7)
    assert troubles.note(7) == 1.0


def test_a_workflow_that_ended_begins_anew() -> None:
    troubles = Troubles()
    for _ in range(5):
        troubles.note(7)
    troubles.forget(7)
    assert not troubles.is_resting(7)
    assert troubles.note(7) == 0.5
