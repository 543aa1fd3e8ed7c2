"""Cron texts against a walk of the clock, minute by minute: where clocks change, no run is lost and none is added.

Run it as `python -m tests.simulation.cron --expressions 100000 --seed 0`.
A text that differs prints one line that tries it again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cache, lru_cache
from itertools import pairwise
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

from holdfast.listeners.schedule_triggers import Timing

ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/El_Aaiun",
    "America/Havana",
    "America/Caracas",
    "America/New_York",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Chatham",
    "UTC",
)
FIRST_YEAR, LAST_YEAR = 2000, 2029
"""Of the changes of clocks that are tried."""

TEXTS_OF_A_WALK = 20
SHORT_DAYS, LONG_DAYS = 1.5, 40
"""How far a walk goes before and after a change: the long ones see what comes once a month."""

LONG_WALK_EVERY = 50
"""Of so many walks one is long."""

_MINUTE_NAMES: tuple[str, ...] = ()
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

NextAfter = Callable[[str, str, float], "float | None"]
"""What is tried: cron text, zone and a time to the next time."""


@lru_cache(maxsize=1)
def _timing(text: str, zone: str) -> Timing:
    return Timing.of(cron=text, timezone=zone)


def next_after(text: str, zone: str, unix_s: float) -> float | None:
    """What the product says."""
    return _timing(text, zone).next_after(unix_s)


# -- the walk ----------------------------------------------------------------------------------------------------------


class Wall(NamedTuple):
    """What a clock shows, as the fields of a cron text name it; Sunday is 0."""

    minute: int
    hour: int
    day: int
    month: int
    weekday: int


class Minute(NamedTuple):
    """A minute of real time.

    Attributes:
        unix_s: Its beginning.
        wall: What the clock shows then.
        again: It showed that an hour or so before.
        left_out: What it would have shown since the minute before, had it not been set forward.
    """

    unix_s: int
    wall: Wall
    again: bool
    left_out: tuple[Wall, ...]


def walk(zone: str, first_unix_s: int, last_unix_s: int) -> list[Minute]:
    """Every minute of a stretch of time."""
    clock = _zone(zone)
    minutes: list[Minute] = []
    expected = datetime.fromtimestamp(first_unix_s, clock).replace(tzinfo=None, fold=0)
    for unix_s in range(first_unix_s, last_unix_s + 1, 60):
        shown = datetime.fromtimestamp(unix_s, clock)
        naive = shown.replace(tzinfo=None, fold=0)
        left_out = []
        while expected < naive:
            left_out.append(_wall(expected))
            expected += timedelta(minutes=1)
        minutes.append(Minute(unix_s, _wall(naive), shown.fold == 1, tuple(left_out)))
        expected = naive + timedelta(minutes=1)
    return minutes


def _wall(naive: datetime) -> Wall:
    return Wall(naive.minute, naive.hour, naive.day, naive.month, naive.isoweekday() % 7)


def _zone(name: str) -> tzinfo:
    return timezone.utc if name == "UTC" else ZoneInfo(name)


@cache
def changes(zone: str) -> tuple[int, ...]:
    """Days on which a clock is changed, by a moment of theirs; some days without, for a clock that never is."""
    clock = _zone(zone)
    begin = int(datetime(FIRST_YEAR, 1, 1, tzinfo=timezone.utc).timestamp())
    end = int(datetime(LAST_YEAR, 12, 31, tzinfo=timezone.utc).timestamp())
    offsets = [(at, datetime.fromtimestamp(at, clock).utcoffset()) for at in range(begin, end, 86_400)]
    changed = [at for (_, before), (at, after) in pairwise(offsets) if before != after]
    return tuple(changed) or (begin + 86_400 * 59, end)


# -- expressions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron text, and what it says: made together, so that nobody has to read the text."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    def names(self, wall: Wall) -> bool:
        """Whether a schedule is due when the clock shows this."""
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        _, _, day, _, weekday = self.text.split()
        by_day, by_weekday = wall.day in self.days, wall.weekday in self.weekdays
        both = day.startswith("*") or weekday.startswith("*")
        return by_day and by_weekday if both else by_day or by_weekday

    def due(self, minutes: Sequence[Minute]) -> list[int]:
        """When it is due, of these minutes."""
        real_hours = self.text.split()[1] == "*"
        found = []
        for unix_s, wall, again, left_out in minutes:
            shown = self.names(wall) and (real_hours or not again)
            if shown or (left_out and not real_hours and any(map(self.names, left_out))):
                found.append(unix_s)
        return found


def generate(random: Random, near: Wall) -> Expression:
    """A random expression, half of the time one that has to do with what the clock shows at some moment."""
    minute, minutes = _field(random, 0, 59, near.minute, _MINUTE_NAMES)
    hour, hours = _field(random, 0, 23, near.hour, ())
    day, days = _field(random, 1, 31, near.day, ())
    month, months = _field(random, 1, 12, near.month, _MONTH_NAMES)
    weekday, weekdays = _weekday_field(random, near.weekday)
    # Most texts leave days and months open; those that do not are due too seldom to say much.
    if random.random() < 0.6:
        day, days = "*", set(range(1, 32))
    if random.random() < 0.6:
        month, months = "*", set(range(1, 13))
    if random.random() < 0.6:
        weekday, weekdays = "*", set(range(7))
    text = " ".join((minute, hour, day, month, weekday))
    if random.random() < 0.1:
        text = text.upper()
    return Expression(text, *(frozenset(values) for values in (minutes, hours, days, months, weekdays)))


def _field(random: Random, lowest: int, highest: int, near: int, names: tuple[str, ...]) -> tuple[str, set[int]]:
    kind = random.choice(("*", "*", "one", "one", "list", "list", "range", "step"))
    if kind == "*":
        return "*", set(range(lowest, highest + 1))
    if kind == "one":
        value = near if random.random() < 0.5 else random.randint(lowest, highest)
        return _said(random, value, lowest, names), {value}
    if kind == "step":
        step = random.randint(1, (highest - lowest) // 2)
        return f"*/{step}", set(range(lowest, highest + 1, step))
    parts = [_range(random, lowest, highest, names) for _ in range(1 if kind == "range" else random.randint(2, 4))]
    return ",".join(text for text, _ in parts), set().union(*(values for _, values in parts))


def _range(random: Random, lowest: int, highest: int, names: tuple[str, ...]) -> tuple[str, set[int]]:
    first = random.randint(lowest, highest - 1)
    last = random.randint(first + 1, highest)
    begin, end = _said(random, first, lowest, names), _said(random, last, lowest, names)
    kind = random.choice(("one", "range", "range", "stepped", "open"))
    if kind == "one":
        return begin, {first}
    if kind == "range":
        return f"{begin}-{end}", set(range(first, last + 1))
    if kind == "stepped":
        step = random.randint(1, last - first)
        return f"{begin}-{end}/{step}", set(range(first, last + 1, step))
    step = random.randint(1, highest - first)
    return f"{begin}/{step}", set(range(first, highest + 1, step))


def _said(random: Random, value: int, lowest: int, names: tuple[str, ...]) -> str:
    return names[value - lowest] if names and random.random() < 0.5 else str(value)


def _weekday_field(random: Random, near: int) -> tuple[str, set[int]]:
    kind = random.choice(("7", "over", "plain", "plain", "plain"))
    if kind == "7":
        return "7", {0}
    if kind == "over":
        # From one weekday over Saturday to an earlier one.
        first = random.randint(1, 6)
        last = random.randint(0, first - 1)
        return f"{_DAY_NAMES[first]}-{_DAY_NAMES[last]}", {day % 7 for day in range(first, last + 8)}
    return _field(random, 0, 6, near, _DAY_NAMES)


# -- trying ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """An expression whose times are not those of the walk."""

    seed: int
    zone: str
    text: str
    detail: str

    def __str__(self) -> str:
        again = f"python -m tests.simulation.cron --expressions {TEXTS_OF_A_WALK} --seed {self.seed}"
        return f"cron: {self.text!r} in {self.zone}: {self.detail}: run  {again}"


def run_seed(seed: int, tried: NextAfter = next_after, *, texts: int = TEXTS_OF_A_WALK) -> Iterator[Difference]:
    """Random expressions around one change of clocks."""
    random = Random(seed)
    zone = random.choice(ZONES)
    changed = random.choice(changes(zone)) // 60 * 60
    days = LONG_DAYS if seed % LONG_WALK_EVERY == LONG_WALK_EVERY - 1 else SHORT_DAYS
    first = changed - int(days * 86_400) + 60 * random.randrange(720)
    minutes = walk(zone, first, changed + int(days * 86_400))
    # Minutes that are shown twice or left out, and some others.
    odd = [wall for one in minutes for wall in (*one.left_out, *((one.wall,) if one.again else ()))]
    for _ in range(texts):
        near = random.choice(odd) if odd and random.random() < 0.8 else random.choice(minutes).wall
        expression = generate(random, near)
        detail = _difference(random, expression, zone, minutes, tried)
        if detail:
            yield Difference(seed, zone, expression.text, detail)


def _difference(random: Random, expression: Expression, zone: str, minutes: list[Minute], tried: NextAfter) -> str:
    begin, end = minutes[0].unix_s, minutes[-1].unix_s
    expected = expression.due(minutes[1:])
    at: float = begin
    try:
        for due in expected:
            found = tried(expression.text, zone, at)
            if found != due:
                return f"after {_shown(at, zone)} comes {_shown(due, zone)}, not {_shown(found, zone)}"
            at = due
        found = tried(expression.text, zone, at)
        if found is not None and found <= end:
            return f"after {_shown(at, zone)} comes nothing until {_shown(end, zone)}, not {_shown(found, zone)}"
        # From anywhere, the same times.
        for _ in range(5):
            at = random.uniform(begin, end)
            due_then = next((one for one in expected if one > at), None)
            found = tried(expression.text, zone, at)
            if found != due_then and not (due_then is None and (found is None or found > end)):
                return f"after {_shown(at, zone)} comes {_shown(due_then, zone)}, not {_shown(found, zone)}"
    except ValueError as error:
        # Such as 30 February: it is refused, and must not be in the walk.
        return "" if not expected and "never comes due" in str(error) else f"it is refused: {error}"
    return ""


def _shown(unix_s: float | None, zone: str) -> str:
    return "nothing" if unix_s is None else datetime.fromtimestamp(unix_s, _zone(zone)).isoformat()


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status is 1 when there was a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cron", description=__doc__.splitlines()[0])
    parser.add_argument("--expressions", type=int, default=2_000, help="how many random cron texts")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    asked = parser.parse_args(arguments)
    begun, count, done, seed = time.monotonic(), 0, 0, asked.seed
    while done < asked.expressions:
        texts = min(TEXTS_OF_A_WALK, asked.expressions - done)
        for difference in run_seed(seed, texts=texts):
            count += 1
            print(f"\r{difference}", flush=True)
        done, seed = done + texts, seed + 1
        took = time.monotonic() - begun
        print(f"\r{done:,} of {asked.expressions:,} cron texts, {count} differ, {took:.0f} s", end="", flush=True)
    print()
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
