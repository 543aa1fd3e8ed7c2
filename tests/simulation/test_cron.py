"""Random cron texts around changes of clocks: no difference from a walk of the clock, and the walk sees faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from holdfast.listeners import cron, schedule_triggers
from tests.simulation.cron import TEXTS_OF_A_WALK, ZONES, NextAfter, changes, main, next_after, run_seed

WALKS = 2_000 // TEXTS_OF_A_WALK


@pytest.mark.parametrize("quarter", range(4))
def test_2000_random_texts_do_as_the_clock_walked_minute_by_minute(quarter: int) -> None:
    seeds = range(quarter * WALKS // 4, (quarter + 1) * WALKS // 4)
    differences = [str(one) for seed in seeds for one in run_seed(seed)]
    assert not differences, "\n".join(differences)


def test_changes_of_every_kind_are_tried() -> None:
    assert len(ZONES) >= 20
    left_out = datetime(2011, 12, 30, tzinfo=timezone.utc).timestamp()
    assert any(abs(at - left_out) < 2 * 86_400 for at in changes("Pacific/Apia")), "a day"
    assert len(changes("Australia/Lord_Howe")) > 50, "half an hour"
    assert len(changes("America/Sao_Paulo")) > 30, "midnight"


def as_apscheduler_steps(text: str, zone: str, unix_s: float) -> float | None:
    """As it was before: weekdays are left open, so that only the walk around changes differs."""
    minute, hour, day, month, weekday = text.split()
    if weekday != "*" or "/" in month:
        return next_after(text, zone, unix_s)
    trigger: Any = CronTrigger(minute=minute, hour=hour, day=day, month=month, second="0", timezone=ZoneInfo(zone))
    found = trigger.get_next_fire_time(None, datetime.fromtimestamp(unix_s + 1e-3, timezone.utc))
    return None if found is None else float(found.timestamp())


def moved_as_far_as_the_clocks(patch: pytest.MonkeyPatch) -> NextAfter:
    patch.setattr(cron, "_end_of_gap", lambda wall, early, late, zone: late)
    return next_after


def all_twice(patch: pytest.MonkeyPatch) -> NextAfter:
    honest = cron.Cron.read
    patch.setattr(schedule_triggers.Cron, "read", lambda text: replace(honest(text), each_hour=True))
    return next_after


def none_twice(patch: pytest.MonkeyPatch) -> NextAfter:
    honest = cron.Cron.read
    patch.setattr(schedule_triggers.Cron, "read", lambda text: replace(honest(text), each_hour=False))
    return next_after


def yesterday_is_over(patch: pytest.MonkeyPatch) -> NextAfter:
    honest = cron._steady_offset
    patch.setattr(cron, "_steady_offset", lambda day, zone: honest(day, zone) or 0)
    return next_after


@pytest.mark.parametrize(
    "fault", [lambda patch: as_apscheduler_steps, moved_as_far_as_the_clocks, all_twice, none_twice, yesterday_is_over]
)
def test_the_walk_sees_a_rule_that_is_another(
    fault: Callable[[pytest.MonkeyPatch], NextAfter], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cached in (cron._steady_offset, cron._moments_of, schedule_triggers._cron):
        cached.cache_clear()
    tried = fault(monkeypatch)
    assert any(True for seed in range(40) for _ in run_seed(seed, tried)), "nothing differs"
    monkeypatch.undo()
    for cached in (cron._steady_offset, cron._moments_of, schedule_triggers._cron):
        cached.cache_clear()


def test_a_text_that_differs_is_said_with_the_command_that_tries_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--expressions", "20", "--seed", "3"]) == 0
    assert "20 of 20 cron texts, 0 differ" in capsys.readouterr().out
    (one, *_) = (one for seed in range(40) for one in run_seed(seed, lambda *given: None))
    assert f"--seed {one.seed}" in str(one)
    assert one.zone in str(one)


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 29 2 */7", "0 0 31 * *", "0 0 last feb *", "0 0 13 * fri"])
def test_days_that_come_seldom_are_those_of_the_calendar(text: str) -> None:
    wanted: dict[str, Callable[[date], bool]] = {
        "0 0 29 2 *": lambda day: (day.month, day.day) == (2, 29),
        "0 0 29 2 */7": lambda day: (day.month, day.day) == (2, 29) and day.isoweekday() == 7,
        "0 0 31 * *": lambda day: day.day == 31,
        "0 0 last feb *": lambda day: day.month == 2 and date.fromordinal(day.toordinal() + 1).month == 3,
        "0 0 13 * fri": lambda day: day.day == 13 or day.isoweekday() == 5,
    }
    # Past 2100, which has no 29 February.
    first, last = date(2026, 1, 1), date(2136, 1, 1)
    days = (date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal()))
    expected = [day for day in days if wanted[text](day)]
    at: float | None = datetime(2025, 12, 31, 12, tzinfo=timezone.utc).timestamp()
    found: list[date] = []
    while len(found) < len(expected):
        assert at is not None
        at = next_after(text, "UTC", at)
        assert at is not None
        found.append(datetime.fromtimestamp(at, timezone.utc).date())
    assert found == expected
