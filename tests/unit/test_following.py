"""Following a request from executor to executor, under a clock that stands still but for what happens."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import pytest

from holdfast.actors.following import PATIENCE_S, follow, follow_awaited
from holdfast.actors.operations import Accepted, Elsewhere
from holdfast.engine.errors import ExecutorNotFoundError
from holdfast.engine.transitions import WorkflowStatus

pytestmark = pytest.mark.parametrize("awaited", [False, True], ids=["in a thread", "awaited"])

DONE = Accepted(seq=1, status=WorkflowStatus.RUNNING)


class Executors:
    """What each executor answers, and since when it is there.

    Attributes:
        answers: By name: what it answers, given how often it was asked before; None when it died in the call.
        there_from_s: From when on it can be found; at once when not named here.
        takes_s: How long its calls take; no time when not named here.
    """

    def __init__(self, answers: dict[str, Callable[[int], object]]) -> None:
        self.answers = answers
        self.there_from_s: dict[str, float] = {}
        self.takes_s: dict[str, float] = {}
        self.now_s = 0.0
        self.asked: list[str] = []
        self.pauses_s: list[float] = []

    def ask(self, name: str) -> object:
        answer = self.answers[name](self.asked.count(name))
        self.asked.append(name)
        self.now_s += self.takes_s.get(name, 0.0)
        return answer

    def find(self, name: str) -> str | None:
        return name if self.now_s >= self.there_from_s.get(name, 0.0) else None

    def sleep(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self.now_s += seconds

    def follow(self, *, awaited: bool) -> object:
        if not awaited:
            first = functools.partial(self.find, "first")
            return follow("w", self.ask, first, self.find, now_s=lambda: self.now_s, sleep=self.sleep)

        async def ask(name: str) -> object:
            return self.ask(name)

        async def find(name: str = "first") -> str | None:
            return self.find(name)

        async def sleep(seconds: float) -> None:
            self.sleep(seconds)

        return asyncio.run(follow_awaited("w", ask, find, find, now_s=lambda: self.now_s, sleep=sleep))


def sent_to(name: str) -> Callable[[int], object]:
    return lambda _: Elsewhere(executor=name)


def test_the_first_answer_is_the_answer(awaited: bool) -> None:
    executors = Executors({"first": lambda _: DONE})
    assert executors.follow(awaited=awaited) is DONE
    assert executors.pauses_s == []


def test_who_is_sent_on_goes_at_once(awaited: bool) -> None:
    executors = Executors({"first": sent_to("own"), "own": lambda _: DONE})
    assert executors.follow(awaited=awaited) is DONE
    assert executors.asked == ["first", "own"]
    assert executors.pauses_s == []


def test_one_that_is_being_made_is_looked_for_with_growing_pauses(awaited: bool) -> None:
    executors = Executors({"first": sent_to("own"), "own": lambda _: DONE})
    executors.there_from_s["own"] = 30.0
    assert executors.follow(awaited=awaited) is DONE
    assert executors.pauses_s == sorted(executors.pauses_s)
    assert executors.pauses_s[0] < 0.05
    assert executors.pauses_s[-1] == 1.0
    assert len(executors.asked) < 60


def test_the_first_one_may_take_half_a_minute_to_be_there_again(awaited: bool) -> None:
    executors = Executors({"first": lambda _: DONE})
    executors.there_from_s["first"] = 30.0
    assert executors.follow(awaited=awaited) is DONE
    assert 30.0 <= executors.now_s < 32.0


def test_one_that_dies_in_the_call_is_looked_for_again(awaited: bool) -> None:
    executors = Executors({"first": lambda before: DONE if before else None})
    assert executors.follow(awaited=awaited) is DONE
    assert executors.asked == ["first", "first"]


def test_two_that_send_to_each_other_are_not_asked_in_a_frenzy(awaited: bool) -> None:
    executors = Executors(
        {"first": sent_to("own"), "own": lambda before: DONE if before == 9 else Elsewhere(executor="first")}
    )
    assert executors.follow(awaited=awaited) is DONE
    assert len(executors.pauses_s) == 18
    assert executors.pauses_s == sorted(executors.pauses_s)


@pytest.mark.parametrize("missing", ["first", "own"])
def test_nobody_is_looked_for_for_ever(missing: str, awaited: bool) -> None:
    executors = Executors({"first": sent_to("own"), "own": lambda _: DONE})
    executors.there_from_s[missing] = 1e9
    with pytest.raises(ExecutorNotFoundError, match=r"Workflow\[id=w\] in 12\d s") as caught:
        executors.follow(awaited=awaited)
    assert caught.value.executor == ("own" if missing == "own" else "")
    assert PATIENCE_S <= executors.now_s < PATIENCE_S + 2.0


def test_what_an_executor_took_its_time_for_was_no_looking(awaited: bool) -> None:
    executors = Executors(
        {"first": sent_to("own"), "own": lambda before: DONE if before else Elsewhere(executor="late")}
    )
    # It had the workflow for a day, and gave it away.
    executors.takes_s["own"] = 86_400.0
    executors.there_from_s["late"] = 1e9
    assert executors.follow(awaited=awaited) is DONE
