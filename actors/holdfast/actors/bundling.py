"""How many tasks go to a worker together, and how many are out at once.

What a Ray task costs is a hundred times what a tiny task of a user's takes, so
tiny ones go in bundles; whatever may take longer goes alone, for it would make
those behind it wait while another worker is idle. What is tiny is measured: of
a function that nobody has measured a few go ahead. No Ray, no clock and no
waiting in here: times come in, bundles go out.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_T = TypeVar("_T")

TINY_S = 0.002
"""A function whose tasks take less, as a rule, may go in bundles."""

SLICE_S = 0.010
"""What a bundle is expected to take at most."""

GIVE_BACK_AFTER_S = 2 * SLICE_S
"""A worker that has taken so long gives back what it has not begun."""

OVERDUE_S = 2 * GIVE_BACK_AFTER_S
"""A bundle that has been out for so long gives up its place, whatever its worker says."""

WORTH_A_BUNDLE_S = 0.001
"""To send a bundle costs about as much as to run tasks for so long: less than that waits for the next one to go."""

MOST_TOGETHER = 64
"""Tasks of a bundle, at most."""

MOST_OUT = 1_000
"""Bundles of one kind that are out at once, at most. What waits with Ray costs more than what waits here."""

PROBE_S = 0.020
"""For so long those behind wait for the measure of the first tasks of a function. Then they go alone."""

_PLACES_PER_WORKER = 2
_FUNCTIONS_KNOWN = 4_096
_WEIGHT = 0.25


class Durations:
    """What tasks take, by their function: an average in which the latest weigh most."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()

    def note(self, function: str, seconds: float) -> None:
        """A task of this function took so long, or has taken so long and goes on."""
        before = self._known.pop(function, None)
        # One that is slow counts at once, and is forgotten slowly: a wrong guess makes others wait.
        mean = seconds if before is None or seconds > TINY_S else before + _WEIGHT * (seconds - before)
        self._known[function] = max(mean, 0.0)
        if len(self._known) > _FUNCTIONS_KNOWN:
            self._known.popitem(last=False)

    def expected_s(self, function: str) -> float | None:
        """What the next task of it is expected to take, in seconds; None when nobody has measured one."""
        return self._known.get(function)

    def is_tiny(self, function: str) -> bool:
        """Whether a task of it may share a worker."""
        return self._known.get(function, math.inf) <= TINY_S


@dataclass(slots=True, eq=False)
class Bundle(Generic[_T]):
    """Tasks that one worker runs, one after the other.

    Attributes:
        tasks: In order.
        counts: Whether it takes one of the places of bundles. One that runs longer than it was to gives it up.
        tiny: Whether its tasks are known to be.
        begun_s: When it went out.
    """

    tasks: list[_T]
    counts: bool
    tiny: bool = False
    begun_s: float = 0.0


@dataclass(slots=True)
class TaskQueue(Generic[_T]):
    """Tasks of one kind that wait, and what of them is out.

    Args:
        durations: Shared by all queues.
        function_of: What tells the function of a task; None for one that goes alone.
        wanted: Whether a task that waits is still to be run.
    """

    durations: Durations
    function_of: Callable[[_T], str | None]
    wanted: Callable[[_T], bool] = lambda _: True
    _waiting: deque[_T] = field(default_factory=deque)
    _out: int = 0
    _places_taken: int = 0
    _tiny_out: int = 0
    _staying: int = 0
    _counting: deque[Bundle[_T]] = field(default_factory=deque)
    _probing_until_s: float = -math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self._waiting and not self._out and not self._staying

    def put(self, task: _T) -> None:
        """Have one more wait."""
        self._waiting.append(task)

    def put_back(self, tasks: list[_T]) -> None:
        """Have those wait again that a worker gave back, before all others."""
        self._waiting.extendleft(reversed(tasks))

    def stays(self, bundle: Bundle[_T]) -> None:
        """The worker of a bundle is done with it, and waits a moment for what follows from that."""
        self.ended(bundle)
        self._staying += 1

    def goes_on(self, bundle: Bundle[_T], now_s: float) -> Bundle[_T]:
        """The worker of a bundle is done with it and has another, of tasks that have not waited here."""
        self.ended(bundle)
        return self._take(0, now_s, counts=True, tiny=True)

    def leaves(self) -> None:
        """A worker that stayed is gone."""
        self._staying -= 1

    def take_next(self, now_s: float) -> Bundle[_T] | None:
        """The next bundle for a worker that stays; None when there is nothing for it, and it may go."""
        self._staying -= 1
        if not self._first_wanted():
            return None
        expected_s = self._expected_s(self._waiting[0])
        if expected_s is None or expected_s > TINY_S:
            return None
        return self._take(self._how_many(1 + self._staying), now_s, counts=True, tiny=True)

    def free_place(self, bundle: Bundle[_T]) -> None:
        """A bundle takes longer than it was to: another may be out in its place."""
        if bundle.counts:
            bundle.counts = False
            self._places_taken -= 1
            self._tiny_out -= bundle.tiny

    def ended(self, bundle: Bundle[_T]) -> None:
        """A bundle is out no more."""
        self.free_place(bundle)
        self._out -= 1

    def take(self, workers: int | None, now_s: float) -> tuple[list[Bundle[_T]], float | None]:
        """What is to go out now.

        Args:
            workers: How many tasks of this kind the cluster runs at once; None when nothing limits them.
            now_s: The time by a clock that nobody sets.

        Returns:
            Bundles, and when to ask again if nothing ends before; None: not before something ends.
        """
        going: list[Bundle[_T]] = []
        self._free_overdue(now_s)
        # A few are left to the workers that stay.
        while self._first_wanted() and len(self._waiting) > self._staying and self._out < MOST_OUT:
            expected_s = self._expected_s(self._waiting[0])
            if workers is None or (expected_s is not None and expected_s > TINY_S):
                going.append(self._take(1, now_s, counts=False))
                continue
            free = self._free_places(workers, expected_s)
            if expected_s is None:
                if free <= 0 and now_s < self._probing_until_s:
                    return going, self._probing_until_s
                if self._places_taken == 0:
                    self._probing_until_s = now_s + PROBE_S
                going.append(self._take(1, now_s, counts=free > 0))
            elif free <= 0:
                return going, self._counting[0].begun_s + OVERDUE_S
            else:
                going.append(self._take(self._how_many(free), now_s, counts=True, tiny=True))
        return going, None

    def _free_overdue(self, now_s: float) -> None:
        """Have nobody wait longer for a bundle that was to be back: it may itself wait for one that waits."""
        while self._counting and (not self._counting[0].counts or now_s >= self._counting[0].begun_s + OVERDUE_S):
            bundle = self._counting.popleft()
            if bundle.counts:
                self.free_place(bundle)
                for task in bundle.tasks[:1] if not bundle.tiny else ():
                    function = self.function_of(task)
                    if function is not None:
                        self.durations.note(function, OVERDUE_S)

    def _free_places(self, workers: int, expected_s: float | None) -> int:
        """How many bundles may go out now: one, if none is out, and beside others no more than what waits is worth."""
        free = _PLACES_PER_WORKER * workers - self._places_taken
        if expected_s is None:
            return free
        worth = round(len(self._waiting) * expected_s / WORTH_A_BUNDLE_S)
        return min(free, worth if self._tiny_out else max(worth, 1))

    def _first_wanted(self) -> bool:
        """Whether there is one to run, which is then the first."""
        while self._waiting and not self.wanted(self._waiting[0]):
            self._waiting.popleft()
        return bool(self._waiting)

    def _expected_s(self, task: _T) -> float | None:
        function = self.function_of(task)
        return math.inf if function is None else self.durations.expected_s(function)

    def _how_many(self, free: int) -> int:
        """How many of the first that wait go together: no more than a fair share, and than fit into a slice."""
        share = min(math.ceil(len(self._waiting) / free), MOST_TOGETHER)
        total_s = 0.0
        for count, task in enumerate(self._waiting):
            expected_s = self._expected_s(task)
            if count == share or expected_s is None or expected_s > TINY_S:
                return count
            total_s += expected_s
            if count and total_s > SLICE_S:
                return count
        return len(self._waiting)

    def _take(self, count: int, now_s: float, *, counts: bool, tiny: bool = False) -> Bundle[_T]:
        self._out += 1
        self._places_taken += counts
        self._tiny_out += tiny
        tasks = [self._waiting.popleft() for _ in range(count)]
        bundle = Bundle([task for task in tasks if self.wanted(task)], counts, tiny, now_s)
        if counts:
            self._counting.append(bundle)
        return bundle
