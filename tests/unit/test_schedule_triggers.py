"""When a schedule is due: what a user may give, and what comes of it where clocks change."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from holdfast.listeners.schedule_triggers import Timing

BERLIN = "Europe/Berlin"


def times(timing: Timing, after: datetime, count: int) -> list[str]:
    """The next times, in UTC."""

    def walk() -> Any:
        at = timing.next_after(after.timestamp())
        while at is not None:
            yield datetime.fromtimestamp(at, timezone.utc).isoformat().removesuffix("+00:00")
            at = timing.next_after(at)

    return list(islice(walk(), count))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[misc, arg-type]


def test_a_cron_text_is_read_in_its_time_zone() -> None:
    timing = Timing.of(cron="30 2 * * *", timezone=BERLIN)
    assert times(timing, utc(2026, 1, 1), 2) == ["2026-01-01T01:30:00", "2026-01-02T01:30:00"]
    assert times(timing, utc(2026, 7, 1), 1) == ["2026-07-01T00:30:00"]


def test_on_the_day_without_0230_it_comes_as_much_later_as_the_clocks_jump() -> None:
    # At 01:00 UTC the clocks of Berlin go from 02:00 to 03:00; 02:30 is taken as if they had not: 03:30 summer time.
    timing = Timing.of(cron="30 2 * * *", timezone=BERLIN)
    assert times(timing, utc(2027, 3, 27, 12), 2) == ["2027-03-28T01:30:00", "2027-03-29T00:30:00"]
    assert timing.in_zone(utc(2027, 3, 28, 1, 30).timestamp()).strftime("%H:%M") == "03:30"


def test_on_the_day_with_two_of_0230_it_comes_twice() -> None:
    timing = Timing.of(cron="30 2 * * *", timezone=BERLIN)
    expected = ["2026-10-25T00:30:00", "2026-10-25T01:30:00", "2026-10-26T01:30:00"]
    assert times(timing, utc(2026, 10, 24, 12), 3) == expected


def test_every_half_hour_stays_every_half_hour_where_the_clocks_change() -> None:
    timing = Timing.of(cron="*/30 * * * *", timezone=BERLIN)
    for day in (utc(2026, 10, 24, 22), utc(2027, 3, 27, 22)):
        found = [datetime.fromisoformat(one) for one in times(timing, day, 12)]
        assert {(later - earlier).total_seconds() for earlier, later in pairwise(found)} == {1800.0}


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", {"Sun"}),
        ("7", {"Sun"}),
        ("1-5", {"Mon", "Tue", "Wed", "Thu", "Fri"}),
        ("mon-fri", {"Mon", "Tue", "Wed", "Thu", "Fri"}),
        ("SAT,sun", {"Sat", "Sun"}),
        ("5-7", {"Fri", "Sat", "Sun"}),
        ("fri-sun", {"Fri", "Sat", "Sun"}),
        ("*/3", {"Sun", "Wed", "Sat"}),
        ("1-5/2", {"Mon", "Wed", "Fri"}),
        ("*", {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}),
    ],
)
def test_weekdays_are_counted_as_cron_counts_them(field: str, days: set[str]) -> None:
    timing = Timing.of(cron=f"0 0 * * {field}")
    found = times(timing, utc(2026, 1, 1), 2 * len(days))
    assert {datetime.fromisoformat(one).strftime("%a") for one in found} == days


def test_a_day_of_the_month_and_a_weekday_are_either_or_as_in_cron() -> None:
    timing = Timing.of(cron="0 0 13 * fri")
    assert times(timing, utc(2026, 10, 8), 3) == ["2026-10-09T00:00:00", "2026-10-13T00:00:00", "2026-10-16T00:00:00"]


def test_a_nickname_is_a_cron_text() -> None:
    assert Timing.of(cron="@daily") == Timing.of(cron="0 0 * * *")


def test_intervals_do_not_drift() -> None:
    for every_s in (0.1, 1 / 3, 7.7, 3600.0):
        timing = Timing.of(every_s=every_s).anchored(1_800_000_000.25)
        assert timing.anchor_unix_s is not None
        anchor = at = timing.anchor_unix_s
        for _ in range(2000):
            later = timing.next_after(at)
            assert later is not None
            assert later > at
            at = later
        # An interval is kept to the microsecond.
        assert at == pytest.approx(anchor + 2000 * round(every_s, 6), abs=1e-5)
        # From anywhere, the same times.
        assert timing.next_after(at - every_s / 2) == at


def test_the_first_interval_ends_one_interval_after_its_anchor() -> None:
    timing = Timing.of(every_s=60).anchored(1_800_000_000.0)
    assert timing.next_after(0.0) == 1_800_000_060.0
    assert timing.next_after(1_800_000_000.0) == 1_800_000_060.0


def test_whole_seconds_are_counted_from_a_whole_second() -> None:
    assert Timing.of(every_s=60).anchored(1_800_000_000.25).next_after(0.0) == 1_800_000_061.0
    assert Timing.of(every_s=0.5).anchored(1_800_000_000.25).next_after(0.0) == 1_800_000_000.75


def test_a_date_comes_once() -> None:
    at = datetime(2027, 3, 28, 9, tzinfo=ZoneInfo(BERLIN))
    timing = Timing.of(at=at)
    assert timing.next_after(at.timestamp() - 1) == at.timestamp()
    assert timing.next_after(at.timestamp()) is None
    assert Timing.of(at=at.timestamp()) == timing


def test_a_timing_comes_back_from_its_json() -> None:
    for timing in (
        Timing.of(cron="0 4 * * mon", timezone=BERLIN),
        Timing.of(every_s=5).anchored(100.5),
        Timing.of(at=utc(2030, 1, 1)),
    ):
        assert Timing.from_json(timing.to_json()) == timing


def test_the_anchor_is_no_part_of_what_the_user_gave() -> None:
    assert Timing.of(every_s=5).anchored(100.0).same_as(Timing.of(every_s=5).anchored(200.0))
    assert not Timing.of(every_s=5).same_as(Timing.of(every_s=6))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, ValueError, "exactly one of cron=, every_s= and at=.*none"),
        ({"cron": "* * * * *", "every_s": 3}, ValueError, "exactly one.*every_s=3"),
        ({"cron": "* * * *"}, ValueError, r"'\* \* \* \*'.*4 fields.*minute, hour"),
        ({"cron": ""}, ValueError, "0 fields"),
        ({"cron": "61 * * * *"}, ValueError, "'61 .*cannot be read"),
        ({"cron": "* * * * 8"}, ValueError, "weekday 8"),
        ({"cron": "* * * * mon-"}, ValueError, "cannot be read"),
        ({"cron": "* * * * */0"}, ValueError, "cannot be read"),
        ({"cron": "0 0 30 2 *"}, ValueError, "never comes"),
        ({"cron": 5}, TypeError, "not 5"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, ValueError, "'Mars/Olympus'.*IANA"),
        ({"cron": "@daily", "timezone": "../etc"}, ValueError, "is not known"),
        ({"cron": "@daily", "timezone": 1}, TypeError, "timezone.*not 1"),
        ({"every_s": 0}, ValueError, "0.1 to .*not 0"),
        ({"every_s": -1}, ValueError, "not -1"),
        ({"every_s": float("nan")}, ValueError, "nan"),
        ({"every_s": float("inf")}, ValueError, "inf"),
        ({"every_s": True}, TypeError, "not True"),
        ({"every_s": "5"}, TypeError, "not '5'"),
        ({"at": datetime(2030, 1, 1)}, ValueError, "no time zone.*ZoneInfo"),
        ({"at": float("inf")}, ValueError, "inf"),
        ({"at": -5.0}, ValueError, "-5"),
        ({"at": "2030-01-01"}, TypeError, "'2030-01-01'"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_by_value_and_with_the_fix(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Timing.of(**given)
