"""Computes the times of cron texts: the minutes of a wall clock that one names, and their moments where clocks change.

One rule maps a minute of the wall clock to moments:

- one that the clock shows once is that moment;
- one that the clock leaves out is the moment at which it continues, so several of them are one;
- one that the clock shows twice is the first of the two.

With `*` for the hours a text follows the real hours instead: each minute that the clock shows counts, both times if it
shows it twice, and none that it leaves out. Nothing here reads a clock.
"""

from __future__ import annotations

import calendar
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_A_DAY = timedelta(days=1)
_A_DAY_S = 86_400
_EPOCH_DAY = date(1970, 1, 1).toordinal()
# The calendar repeats itself after so many months, days of the week included: what has not come by then never does.
_MONTHS_OF_A_CYCLE = 400 * 12
_LAST_YEAR = 9998

_MONTHS_AT_ITS_BEGIN = re.compile(r"[a-z]+(-[a-z]+)?")


class _Field(NamedTuple):
    """Which values a field may have."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()


_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, MONTHS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """Holds a cron text that was read. Make one by `Cron.read`.

    Attributes:
        minutes, hours: Of the day, ascending.
        days: Of the month.
        last_day: Whether the last day of a month counts as well.
        months: 1 for January.
        weekdays: 0 for Sunday.
        either: A day counts by its day of month or by its weekday; else by both.
        each_hour: Whether the hours are `*`, so that real hours count.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    each_hour: bool

    @staticmethod
    def read(text: str) -> Cron:
        """Read five fields: minute, hour, day of month, month, day of week.

        Args:
            text: In lower case, its fields separated by spaces.

        Raises:
            ValueError: Says what cannot be read.
        """
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(f"it has {len(fields)} fields")
        minute, hour, day, month, weekday = fields
        days = [part for part in day.split(",") if part != "last"]
        return Cron(
            minutes=tuple(sorted(_values(minute.split(","), _MINUTE))),
            hours=tuple(sorted(_values(hour.split(","), _HOUR))),
            days=frozenset(_values(days, _DAY)),
            last_day="last" in day.split(","),
            months=frozenset(_values(month.split(","), _MONTH)),
            weekdays=frozenset(_weekdays(weekday)),
            either=not (day.startswith("*") or weekday.startswith("*")),
            each_hour=hour == "*",
        )

    @staticmethod
    def read_kept(text: str) -> Cron:
        """Read a text that was accepted once, maybe by an older version, which passed over some letters too many.

        Args:
            text: As for `read`.

        Raises:
            ValueError: No version accepted it.
        """
        try:
            return Cron.read(text)
        except ValueError:
            return Cron.read(_without_what_was_passed_over(text))

    def next_after(self, unix_s: float, zone: tzinfo) -> float | None:
        """Find the first moment after a time, in seconds since the epoch; None when there is none.

        Args:
            unix_s: The time, not before the epoch.
            zone: Whose clock shows the minutes.
        """
        after = math.floor(unix_s)
        today = datetime.fromtimestamp(after, zone).date()
        yesterday = today - _A_DAY
        if _steady_offset(yesterday, zone) is None or _steady_offset(today, zone) is None:
            # Yesterday may have minutes yet to come: left out until now, or shown a second time.
            today = yesterday
        for day in self._days_from(today):
            moment = self._first_of(day, after, zone)
            if moment is None:
                continue
            if _steady_offset(day, zone) is None and self._names(day + _A_DAY):
                # Clocks that are set back over midnight show this day's last minutes after the first of the next.
                other = self._first_of(day + _A_DAY, after, zone)
                moment = moment if other is None else min(moment, other)
            return float(moment)
        return None

    # -- days ----------------------------------------------------------------------------------------------------

    def _days_from(self, first: date) -> Iterator[date]:
        year, month, begin = first.year, first.month, first.day
        for _ in range(_MONTHS_OF_A_CYCLE + 1):
            if year > _LAST_YEAR:
                return
            if month in self.months:
                weekday, length = calendar.monthrange(year, month)
                for day in range(begin, length + 1):
                    # Python's weeks begin on Monday, which is 0.
                    if self._counts(day, length, (weekday + day) % 7):
                        yield date(year, month, day)
            year, month, begin = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)

    def _names(self, day: date) -> bool:
        length = calendar.monthrange(day.year, day.month)[1]
        return day.month in self.months and self._counts(day.day, length, day.isoweekday() % 7)

    def _counts(self, day: int, length: int, weekday: int) -> bool:
        by_day = day in self.days or (self.last_day and day == length)
        by_weekday = weekday in self.weekdays
        return by_day or by_weekday if self.either else by_day and by_weekday

    # -- times of a day ------------------------------------------------------------------------------------------

    def _first_of(self, day: date, after: int, zone: tzinfo) -> int | None:
        offset_s = _steady_offset(day, zone)
        if offset_s is None:
            moments = _moments_of(self, day, zone)
            index = bisect_right(moments, after)
            return moments[index] if index < len(moments) else None
        midnight = (day.toordinal() - _EPOCH_DAY) * _A_DAY_S - offset_s
        found = self._time_from(max(0, (after - midnight) // 60 + 1))
        return None if found is None else midnight + 60 * found

    def _time_from(self, minute_of_day: int) -> int | None:
        """The first minute of the day that is named, from one on."""
        hour, minute = divmod(minute_of_day, 60)
        index = bisect_left(self.hours, hour)
        if index < len(self.hours) and self.hours[index] == hour:
            later = bisect_left(self.minutes, minute)
            if later < len(self.minutes):
                return 60 * hour + self.minutes[later]
            index += 1
        return 60 * self.hours[index] + self.minutes[0] if index < len(self.hours) else None


# -- where clocks change -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _steady_offset(day: date, zone: tzinfo) -> int | None:
    """How far a clock is ahead of UTC all day long, in seconds; None when it is changed on that day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    walls = [midnight + timedelta(hours=hour) for hour in range(25)]
    offsets = {_offset_s(wall.replace(fold=fold)) for wall in walls for fold in (0, 1)}
    return offsets.pop() if len(offsets) == 1 else None


@lru_cache(maxsize=256)
def _moments_of(cron: Cron, day: date, zone: tzinfo) -> tuple[int, ...]:
    """The moments of a day on which a clock is changed, ascending."""
    moments: set[int] = set()
    for hour in cron.hours:
        for minute in cron.minutes:
            wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            before = _seconds(wall) - _offset_s(wall)
            since = _seconds(wall) - _offset_s(wall.replace(fold=1))
            if before <= since:
                moments |= {before, since} if cron.each_hour else {before}
            elif not cron.each_hour:
                # The clock leaves it out, and is changed between these two.
                moments.add(_end_of_gap(wall.replace(tzinfo=None), since, before, zone))
    return tuple(sorted(moments))


def _end_of_gap(wall: datetime, early: int, late: int, zone: tzinfo) -> int:
    """The first moment, of those after `early` and up to `late`, at which a clock shows a later time than `wall`."""
    while late - early > 1:
        middle = (early + late) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) > wall:
            late = middle
        else:
            early = middle
    return late


def _offset_s(wall: datetime) -> int:
    offset = wall.utcoffset()
    assert offset is not None
    return offset.days * _A_DAY_S + offset.seconds


def _seconds(wall: datetime) -> int:
    """From the epoch, as if the clock showed UTC."""
    return (wall.toordinal() - _EPOCH_DAY) * _A_DAY_S + wall.hour * 3600 + wall.minute * 60


# -- texts of older versions -------------------------------------------------------------------------------------------


def _without_what_was_passed_over(text: str) -> str:
    """Gives a text as older versions understood it: `jan-` was `jan`, `lastx` was `last`, `mon/` was `mon`."""
    minute, hour, day, month, weekday = text.split()
    days = ["last" if part.startswith("last") else part for part in day.split(",")]
    months = [found[0] if (found := _MONTHS_AT_ITS_BEGIN.match(part)) else part for part in month.split(",")]
    weekdays = [_plain_weekdays(part) for part in weekday.split(",")]
    return " ".join((minute, hour, ",".join(days), ",".join(months), ",".join(weekdays)))


def _plain_weekdays(part: str) -> str:
    span, _, step = part.partition("/")
    plain = "-".join(_plain_number(one) for one in span.split("-"))
    return f"{plain}/{_plain_number(step)}" if step else plain


def _plain_number(text: str) -> str:
    try:
        return str(int(text))
    except ValueError:
        return text


# -- fields ------------------------------------------------------------------------------------------------------------


def _values(parts: list[str], field: _Field) -> set[int]:
    values: set[int] = set()
    for part in parts:
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = field.lowest, field.highest
        else:
            begin = _value(first, field)
            end = _value(last, field) if dash else (field.highest if slash else begin)
        if end < begin:
            raise ValueError(f"{field.name} {part!r} ends before it begins")
        width = _step(step) if slash else 1
        if begin < end < begin + width:
            raise ValueError(f"{field.name} {part!r} has a step that is longer than what it goes through")
        values |= set(range(begin, end + 1, width))
    return values


def _value(text: str, field: _Field) -> int:
    if text in field.names:
        return field.lowest + field.names.index(text)
    if not text.isdecimal() or not field.lowest <= int(text) <= field.highest:
        raise ValueError(f"{field.name} {text!r} is not in {field.lowest} to {field.highest}")
    return int(text)


def _step(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"a step of {text!r}")
    return int(text)


def _weekdays(field: str) -> set[int]:
    days: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = 0, 6
        else:
            begin = _weekday(first)
            end = _weekday(last) if dash else (6 if slash else begin)
        if end < begin:
            # "fri-sun": Sunday is the seventh day too.
            end += 7
        days |= {day % 7 for day in range(begin, end + 1, _step(step) if slash else 1)}
    return days


def _weekday(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if not text.isdecimal() or int(text) > 7:
        raise ValueError(f"a weekday {text} is not one of 0 to 7, or sun to sat")
    return int(text)
