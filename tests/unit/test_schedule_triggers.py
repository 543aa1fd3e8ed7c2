"""When a schedule is due: what a user may give, and what comes of it where clocks change."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import islice, pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from holdfast.listeners.cron import Cron
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


def test_on_the_day_without_0230_it_comes_when_the_clocks_go_on() -> None:
    # At 01:00 UTC the clocks of Berlin go from 02:00 to 03:00.
    timing = Timing.of(cron="30 2 * * *", timezone=BERLIN)
    assert times(timing, utc(2027, 3, 27, 12), 2) == ["2027-03-28T01:00:00", "2027-03-29T00:30:00"]
    assert timing.in_zone(utc(2027, 3, 28, 1).timestamp()).strftime("%H:%M") == "03:00"


def test_several_times_that_are_left_out_come_once() -> None:
    timing = Timing.of(cron="*/10 1-3 * * *", timezone=BERLIN)
    found = times(timing, utc(2027, 3, 28, 0, 45), 3)
    assert found == ["2027-03-28T00:50:00", "2027-03-28T01:00:00", "2027-03-28T01:10:00"]


def test_on_the_day_with_two_of_0230_it_comes_the_first_time() -> None:
    timing = Timing.of(cron="30 2 * * *", timezone=BERLIN)
    assert times(timing, utc(2026, 10, 24, 12), 2) == ["2026-10-25T00:30:00", "2026-10-26T01:30:00"]
    # From between the two, too: it has come.
    assert times(timing, utc(2026, 10, 25, 1), 1) == ["2026-10-26T01:30:00"]


@pytest.mark.parametrize("minute", ["0", "7", "59"])
def test_with_every_hour_each_real_hour_has_its_times(minute: str) -> None:
    timing = Timing.of(cron=f"{minute} * * * *", timezone=BERLIN)
    for day in (utc(2026, 10, 24, 22), utc(2027, 3, 27, 22)):
        found = [datetime.fromisoformat(one) for one in times(timing, day, 12)]
        assert {(later - earlier).total_seconds() for earlier, later in pairwise(found)} == {3600.0}


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 0 * * *", BERLIN, (2027, 3, 28), (2027, 3, 29)),
        ("0 0 1 * *", BERLIN, (2030, 3, 1), (2030, 4, 1)),
        ("0 0 1 * *", "America/New_York", (2030, 3, 1), (2030, 4, 1)),
        ("0 0 1 * *", "Europe/London", (2030, 3, 1), (2030, 4, 1)),
        ("0 0 * * *", "America/Santiago", (2027, 9, 4), (2027, 9, 5, 1)),
        ("0 0 * * *", "Asia/Beirut", (2027, 3, 27), (2027, 3, 28, 1)),
        ("15 2 * * *", "Australia/Lord_Howe", (2026, 10, 3, 12), (2026, 10, 4, 2, 30)),
        ("30 2 * * *", "Antarctica/Troll", (2027, 3, 27, 12), (2027, 3, 28, 3)),
        ("0 12 30 12 *", "Pacific/Apia", (2011, 1, 1), (2011, 12, 31)),
        ("0 12 * * fri", "Pacific/Apia", (2011, 12, 29), (2011, 12, 31)),
        ("0,30 1,2,3 * * *", "Europe/Berlin", (2027, 3, 28, 1, 30), (2027, 3, 28, 3)),
        ("0 0 29 feb *", "Asia/Kathmandu", (2096, 3, 1), (2104, 2, 29)),
    ],
)
def test_no_time_is_lost_where_clocks_change(
    cron: str, zone: str, after: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    here = ZoneInfo(zone)
    timing = Timing.of(cron=cron, timezone=zone)
    found = timing.next_after(datetime(*after, tzinfo=here).timestamp())  # type: ignore[misc, arg-type]
    assert found is not None
    assert timing.in_zone(found) == datetime(*expected, tzinfo=here)  # type: ignore[misc, arg-type]


def test_intervals_and_dates_know_nothing_of_clocks_that_change() -> None:
    begin = datetime(2027, 3, 28, 0, tzinfo=ZoneInfo(BERLIN)).timestamp()
    timing = Timing.of(every_s=3600, timezone=BERLIN).anchored(begin)
    at = begin
    for number in range(1, 8_000):
        later = timing.next_after(at)
        assert later == begin + 3600 * number
        at = later
    gone = datetime(2027, 3, 28, 2, 30, tzinfo=ZoneInfo(BERLIN))
    assert Timing.of(at=gone).next_after(0.0) == gone.timestamp()


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


def test_names_of_months_go_with_steps_and_lists() -> None:
    timing = Timing.of(cron="0 0 1 jan-jul/3,Oct *")
    assert [one[5:7] for one in times(timing, utc(2026, 1, 2), 4)] == ["04", "07", "10", "01"]


@pytest.mark.parametrize(
    ("kept", "meant"),
    [
        ("0 0 1 jan- *", "0 0 1 jan *"), ("0 0 1 jan5,mar-maybe *", None), ("0 0 1 feb-apr- *", "0 0 1 feb-apr *"),
        ("0 0 lastx * *", "0 0 last * *"), ("0 0 3,last/2 * *", "0 0 3,last * *"), ("0 0 * * +1", "0 0 * * 1"),
        ("0 0 * * mon/", "0 0 * * mon"), ("0 0 * * */", "0 0 * * *"), ("0 0 lastday jan- 1/", "0 0 last jan 1"),
        ("0 0 * * 0_1-+3/+2", "0 0 * * 1-3/2"),
    ],
)  # fmt: skip
def test_a_text_that_is_stored_and_refused_today_comes_due_as_it_did(kept: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Timing.of(cron=kept)
    stored = Timing.from_json({**Timing.of(cron="@daily", timezone=BERLIN).to_json(), "cron": kept})
    if meant is None:
        with pytest.raises(ValueError, match="month"):
            stored.next_after(0.0)
        return
    wanted = Timing.of(cron=meant, timezone=BERLIN)
    assert times(stored, utc(2028, 1, 1), 5) == times(wanted, utc(2028, 1, 1), 5)


def test_a_time_of_a_zone_that_only_another_machine_knows_is_shown_in_utc() -> None:
    stored = Timing.from_json({**Timing.of(cron="@daily", timezone=BERLIN).to_json(), "timezone": "Mars/Olympus"})
    assert stored.in_zone(86_400.0) == utc(1970, 1, 2)
    assert str(stored) == "cron '0 0 * * *' in Mars/Olympus"
    with pytest.raises(LookupError, match="Mars/Olympus"):
        stored.next_after(0.0)


def test_the_last_day_of_a_month_has_a_name() -> None:
    timing = Timing.of(cron="0 0 last * *")
    assert [one[5:10] for one in times(timing, utc(2028, 1, 1), 3)] == ["01-31", "02-29", "03-31"]


@pytest.mark.parametrize("field", ["minute", "hour", "day", "month"])
def test_fields_are_read_as_apscheduler_reads_them(field: str) -> None:
    """Texts that are stored were checked by it."""
    lowest, highest = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12)}[field]
    random = Random(field)
    position = ("minute", "hour", "day", "month").index(field)
    for _ in range(500):
        first, last, step = (random.randint(max(0, lowest - 1), highest + 1) for _ in range(3))
        one = random.choice(("{0}", "{0}-{1}", "{0}-{1}/{2}", "{0}/{2}", "*/{2}", "*", "{0},{1}", "last", "{0},*"))
        text = one.format(first, last, step)
        parts = ["*"] * 5
        parts[position] = text
        try:
            trigger: Any = CronTrigger(timezone=timezone.utc, **{field: text})
        except ValueError:
            continue
        (theirs,) = (one for one in trigger.fields if one.name == field)
        # January has all days, and its last one is the 31st.
        moments = [datetime(2027, **{"month": 1, "day": 1, field: value}) for value in range(lowest, highest + 1)]
        values = {getattr(at, field) for at in moments if theirs.get_next_value(at) == getattr(at, field)}
        ours = Cron.read(" ".join(parts))
        read = {"minute": set(ours.minutes), "hour": set(ours.hours), "month": set(ours.months)}
        read["day"] = set(ours.days) | ({31} if ours.last_day else set())
        assert values == read[field], text


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
        ({"cron": "* * * jan- *"}, ValueError, "month '' is not in 1 to 12"),
        ({"cron": "* 24 * * *"}, ValueError, "hour '24' is not in 0 to 23"),
        ({"cron": "* * * dec-jan *"}, ValueError, "month 'dec-jan' ends before it begins"),
        ({"cron": "*/60 * * * *"}, ValueError, "minute '\\*/60' has a step"),
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
        ({"at": datetime(1, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo"))}, ValueError, "at must be"),
        ({"at": datetime(9999, 12, 31, 23, tzinfo=ZoneInfo("America/New_York"))}, ValueError, "at must be"),
        ({"at": datetime(9999, 12, 31, 23, 30, tzinfo=timezone.utc), "timezone": "Asia/Tokyo"}, ValueError, "at must"),
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
