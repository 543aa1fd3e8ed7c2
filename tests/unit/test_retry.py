"""When a failed task is tried again, and how long after."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.given_numbers import FARTHEST_UNIX_S
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.storage.record_codec import read_options


def test_the_delay_grows_by_the_factor_up_to_the_bound() -> None:
    policy = RetryPolicy(max_attempts=6, initial_s=1, factor=2, max_s=5, jitter=0)
    assert [policy.delay_s(failures, "s") for failures in range(1, 7)] == [1, 2, 4, 5, 5, None]


def test_without_a_limit_there_is_always_a_delay_however_many_have_failed() -> None:
    policy = RetryPolicy(max_attempts=-1, initial_s=1, factor=10, max_s=60, jitter=0)
    assert policy.delay_s(1_000_000, "s") == 60


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 4.0, 10.0, 1e9, 1e200, 1.7e308])
@pytest.mark.parametrize("initial_s", [0.0, 5e-324, 1e-300, 0.001, 1.0, 1e9])
def test_the_delay_never_overflows_and_never_shrinks(factor: float, initial_s: float) -> None:
    policy = RetryPolicy(max_attempts=-1, initial_s=initial_s, factor=factor, max_s=60, jitter=0)
    delays = [policy.delay_s(failures, "s") for failures in (*range(1, 2000), 10**6, 10**18)]
    assert delays == sorted(delays)  # type: ignore[type-var]
    assert delays[0] == min(60, initial_s)
    assert delays[-1] == (60 if initial_s > 0 and factor > 1 else min(60, initial_s))


@given(st.floats(0, 1e11), st.floats(1, 1e308), st.floats(0, allow_nan=False), st.integers(1, 10**9))
def test_the_delay_is_what_exact_arithmetic_says(initial_s: float, factor: float, max_s: float, failures: int) -> None:
    policy = RetryPolicy(max_attempts=-1, initial_s=initial_s, factor=factor, max_s=max_s, jitter=0)
    delay = policy.delay_s(failures, "s")
    assert delay is not None
    bound = min(max_s, FARTHEST_UNIX_S)
    times = failures - 1
    if initial_s == 0:
        assert delay == 0
    elif times * math.log2(factor) + math.log2(initial_s) > 1100:
        assert delay == bound
    elif times <= 2000:
        exact = min(Fraction(bound), Fraction(initial_s) * Fraction(factor) ** times)
        assert math.isclose(delay, float(exact), rel_tol=1e-6, abs_tol=1e-300)
    assert 0 <= delay <= bound


def test_without_a_bound_the_delay_grows_as_far_as_a_calendar_goes() -> None:
    policy = RetryPolicy(max_attempts=-1, initial_s=2, factor=2, max_s=math.inf, jitter=0)
    assert [policy.delay_s(failures, "s") for failures in (1, 2, 11)] == [2, 4, 2048]
    assert policy.delay_s(10_000, "s") == FARTHEST_UNIX_S


def test_a_policy_that_an_older_version_stored_goes_on() -> None:
    """Infinity was stored as null, integers as they were given, and a large factor failed at its first overflow."""
    for stored in ([-1, 0.001, 10, None, 0.1], [-1, 1, 1e200, 1e300, 0.0], [-1, None, None, None, 0.1]):
        options = read_options({"budget": [3, 0, True], "retry": stored}, ())
        assert options.retry is not None
        for failures in (1, 2, 310, 10**6):
            delay = options.retry.delay_s(failures, "s")
            assert delay is not None
            assert 0 <= delay <= FARTHEST_UNIX_S


def test_jitter_takes_off_at_most_its_part_and_follows_the_seed() -> None:
    policy = RetryPolicy(max_attempts=-1, initial_s=10, factor=1, jitter=0.5)
    delays = [policy.delay_s(failures, "seed") for failures in range(1, 200)]
    assert all(delay is not None and 5 <= delay <= 10 for delay in delays)
    assert len(set(delays)) > 150
    assert delays == [policy.delay_s(failures, "seed") for failures in range(1, 200)]
    assert policy.delay_s(1, "seed") != policy.delay_s(1, "other seed")


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": -2}, "max_attempts"),
        ({"initial_s": -1}, "initial_s"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"initial_s": float("inf")}, "initial_s"),
        ({"max_s": float("nan")}, "max_s"),
        ({"jitter": float("nan")}, "jitter"),
        ({"max_attempts": 2.0}, "max_attempts"),
        ({"max_s": -1}, "max_s"),
        ({"jitter": 1.5}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(about: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RetryPolicy(**about)


@pytest.mark.parametrize(
    ("deaths", "errors", "last_was_death", "allowed"),
    [(1, 0, True, True), (2, 0, True, True), (3, 0, True, False), (1, 1, False, True), (2, 1, False, False)],
)
def test_a_shared_budget_counts_both_kinds_in_one(
    deaths: int, errors: int, last_was_death: bool, allowed: bool
) -> None:
    budget = RetryBudget(deaths=2, errors=1, shared=True)
    assert budget.allows(deaths=deaths, errors=errors, last_was_death=last_was_death) is allowed


def test_a_shared_budget_forgives_exceptions_only_when_asked_to() -> None:
    assert not RetryBudget(deaths=3, errors=0, shared=True).allows(deaths=0, errors=1, last_was_death=False)
    assert RetryBudget(deaths=3, errors=0, shared=True).allows(deaths=1, errors=0, last_was_death=True)


def test_separate_budgets_do_not_draw_on_each_other() -> None:
    budget = RetryBudget(deaths=1, errors=2, shared=False)
    assert budget.allows(deaths=1, errors=9, last_was_death=True)
    assert not budget.allows(deaths=2, errors=0, last_was_death=True)
    assert budget.allows(deaths=9, errors=2, last_was_death=False)
    assert not budget.allows(deaths=0, errors=3, last_was_death=False)


@pytest.mark.parametrize("shared", [True, False])
def test_minus_one_forgives_any_number(shared: bool) -> None:
    budget = RetryBudget(deaths=-1, errors=-1, shared=shared)
    assert budget.allows(deaths=10**6, errors=10**6, last_was_death=True)
    assert budget.allows(deaths=10**6, errors=10**6, last_was_death=False)
