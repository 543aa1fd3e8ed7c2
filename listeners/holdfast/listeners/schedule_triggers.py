"""When a schedule is due: cron texts, intervals and dates, in time zones.

Cron texts are walked by `holdfast.listeners.cron`, intervals by APScheduler's trigger. Nothing of them is kept: a time
is a function of the definition and of the time before it, so it is the same in every process and after every restart.
Nothing here waits, or reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from datetime import timezone as fixed_zone
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.interval import IntervalTrigger

from holdfast.engine.given_numbers import check_number
from holdfast.listeners.cron import Cron

_SHORTEST_S = 0.1
_LONGEST_S = 1e9
_EPOCH = datetime(1970, 1, 1, tzinfo=fixed_zone.utc)
_LATEST = datetime(9999, 1, 1, tzinfo=fixed_zone.utc).timestamp()
_LOOK_AHEAD = tuple(timedelta(seconds=seconds) for seconds in (1e-6, 1e-3, 1, 60, 3600, 86_400))
_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a schedule is due. Make one by `Timing.of`.

    Attributes:
        cron: Five fields: minute, hour, day of month, month, day of week. Empty when it is another kind.
        every_s: Seconds between two times; None when it is another kind.
        anchor_unix_s: What intervals are counted from; the first time is one interval later.
        at_unix_s: The one time there is; None when it is another kind.
        timezone: Name of the time zone in which `cron` is read.
    """

    cron: str = ""
    every_s: float | None = None
    anchor_unix_s: float | None = None
    at_unix_s: float | None = None
    timezone: str = "UTC"

    @staticmethod
    def of(*, cron: Any = None, every_s: Any = None, at: Any = None, timezone: Any = "UTC") -> Timing:
        """Check what a user gives, exactly one of `cron`, `every_s` and `at`.

        Args:
            cron: Five fields as cron reads them, weekday 0 and 7 being Sunday, or a nickname such as `@daily`.
            every_s: Seconds, 0.1 to 1e9.
            at: A `datetime` with a time zone, or seconds since the epoch.
            timezone: A name such as "Europe/Berlin", for `cron`.

        Raises:
            TypeError, ValueError: Names the value and the fix.
        """
        given = {name: value for name, value in (("cron", cron), ("every_s", every_s), ("at", at)) if value is not None}
        if len(given) != 1:
            said = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none of them"
            raise ValueError(f"give exactly one of cron=, every_s= and at= for a schedule, not {said}")
        zone = _checked_zone(timezone)
        if cron is not None:
            timing = Timing(cron=_checked_cron(cron), timezone=zone)
            if timing.next_after(0.0) is None:
                raise ValueError(f"cron={cron!r} never comes due: there is no such day in any month")
            return timing
        if every_s is not None:
            return Timing(every_s=_checked_interval(every_s), timezone=zone)
        return Timing(at_unix_s=_checked_time(at), timezone=zone)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Timing:
        """The timing that `to_json` made this of."""
        return Timing(**stored)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "cron": self.cron,
            "every_s": self.every_s,
            "anchor_unix_s": self.anchor_unix_s,
            "at_unix_s": self.at_unix_s,
            "timezone": self.timezone,
        }

    def anchored(self, unix_s: float) -> Timing:
        """The same, its intervals counted from this time, or from the next second when they are whole seconds."""
        if self.every_s is None:
            return self
        return replace(self, anchor_unix_s=math.ceil(unix_s) if self.every_s.is_integer() else unix_s)

    def same_as(self, other: Timing) -> bool:
        """Whether the user gave the same, whatever intervals are counted from."""
        return replace(self, anchor_unix_s=None) == replace(other, anchor_unix_s=None)

    def next_after(self, unix_s: float) -> float | None:
        """The first time after a time, in seconds since the epoch; None when there is none.

        Semantics: a cron time that the clocks leave out fires when they jump, one that they show twice fires the first
        time; with `*` for the hours each real hour has its times.
        """
        if self.at_unix_s is not None:
            # No detour by a calendar: it rounds to microseconds.
            return self.at_unix_s if self.at_unix_s > unix_s else None
        if unix_s >= _LATEST:
            return None
        if self.cron:
            return _cron(self.cron).next_after(max(unix_s, 0.0), _zone(self.timezone))
        moment = datetime.fromtimestamp(max(unix_s, 0.0), fixed_zone.utc)
        # An interval is counted in microseconds: what is computed can be a moment that has just passed.
        for ahead in _LOOK_AHEAD:
            found = _interval_trigger(self).get_next_fire_time(None, moment + ahead)
            if found is None:
                return None
            due: float = found.timestamp()
            if due > unix_s:
                return due
        raise ValueError(f"{self} has no time after {moment.isoformat()} that can be computed")

    def in_zone(self, unix_s: float) -> datetime:
        """A time as a `datetime` in the time zone; in UTC where this machine does not know the zone."""
        try:
            zone = _zone(self.timezone)
        except ZoneInfoNotFoundError:
            # It was given on another machine. What is listed together must not fail for it.
            zone = fixed_zone.utc
        return datetime.fromtimestamp(unix_s, zone)

    def __str__(self) -> str:
        if self.cron:
            return f"cron {self.cron!r} in {self.timezone}"
        if self.every_s is not None:
            return f"every {self.every_s:g} s"
        assert self.at_unix_s is not None
        return f"at {self.in_zone(self.at_unix_s).isoformat()}"


@lru_cache(maxsize=1024)
def _interval_trigger(timing: Timing) -> Any:
    assert timing.every_s is not None
    begin = 0.0 if timing.anchor_unix_s is None else timing.anchor_unix_s
    first = datetime.fromtimestamp(begin, fixed_zone.utc) + timedelta(seconds=timing.every_s)
    return IntervalTrigger(seconds=timing.every_s, start_date=first, timezone=fixed_zone.utc)


@lru_cache(maxsize=1024)
def _cron(text: str) -> Cron:
    return Cron.read_kept(text)


def _checked_cron(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"cron must be a text such as '30 2 * * *', not {text!r}")
    plain = " ".join(_NICKNAMES.get(text.strip().lower(), text).lower().split())
    try:
        Cron.read(plain)
    except ValueError as error:
        raise ValueError(
            f"cron={text!r} cannot be read ({error}): give minute, hour, day of month, month and day of week, "
            "such as '30 2 * * mon-fri'"
        ) from None
    return plain


def _checked_interval(every_s: Any) -> float:
    rule = f"{_SHORTEST_S:g} to {_LONGEST_S:g} seconds"
    return check_number("every_s", every_s, least=_SHORTEST_S, most=_LONGEST_S, rule=rule)


def _checked_time(at: Any) -> float:
    if isinstance(at, datetime):
        offset = at.utcoffset()
        if offset is None:
            raise ValueError(
                f"at={at!r} has no time zone, so it is no point in time: "
                "use at.replace(tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')), or datetime.timezone.utc"
            )
        # Not by `timestamp`, which fails at the ends of the calendar without naming the parameter.
        at = (at.replace(tzinfo=fixed_zone.utc) - _EPOCH - offset).total_seconds()
    rule = "a datetime with a time zone, or a number of seconds since the epoch that a calendar knows"
    return check_number("at", at, most=_LATEST - 1.0, rule=rule)


def _checked_zone(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"timezone must be a name such as 'Europe/Berlin', not {name!r}")
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"timezone={name!r} is not known here: give a name of the IANA database such as 'Europe/Berlin' or 'UTC' "
            "(a machine without the database needs the package tzdata)"
        ) from error
    return name


@lru_cache(maxsize=256)
def _zone(name: str) -> Any:
    return fixed_zone.utc if name == "UTC" else ZoneInfo(name)
