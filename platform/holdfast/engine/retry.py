"""When a task that failed is tried again, and how long after.

Pure arithmetic: the jitter comes from the caller's seed, so a replay computes
the same delay.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass
from typing import Any

from holdfast.engine.given_numbers import FARTHEST_UNIX_S, check_number, check_unbounded, check_whole
from holdfast.engine.plain_pickle import PlainPickle

_LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(PlainPickle):
    """Exponential back-off.

    Attributes:
        max_attempts: Executions in all, the first included; -1 for no limit.
        initial_s: Delay before the second attempt, in seconds.
        factor: What each further delay is multiplied by.
        max_s: Upper bound of a delay, in seconds; infinity for none.
        jitter: Part of the delay, 0 to 1, that is drawn at random and taken off.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        checked = {
            "max_attempts": check_whole("max_attempts", self.max_attempts, least=1, also=-1, meaning="no limit"),
            "initial_s": check_number("initial_s", self.initial_s),
            "factor": check_number("factor", self.factor, least=1.0, most=sys.float_info.max, unit=""),
            "max_s": check_unbounded("max_s", self.max_s),
            "jitter": check_number("jitter", self.jitter, most=1.0, unit="", rule="a number between 0 and 1"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def stored(max_attempts: int, initial_s: Any, factor: Any, max_s: Any, jitter: float) -> RetryPolicy:
        """Read the policy of a row. In old rows infinity is None, and numbers may be of any size."""
        return RetryPolicy(
            max_attempts=max_attempts,
            initial_s=FARTHEST_UNIX_S if initial_s is None else min(initial_s, FARTHEST_UNIX_S),
            factor=sys.float_info.max if factor is None else factor,
            max_s=math.inf if max_s is None else max_s,
            jitter=jitter,
        )

    def delay_s(self, failures: int, seed: str) -> float | None:
        """Seconds to wait after `failures` failed attempts; None when there is none left.

        Args:
            failures: Attempts that have failed so far, at least 1.
            seed: What the jitter is drawn from; the same seed gives the same delay.
        """
        if self.max_attempts != -1 and failures >= self.max_attempts:
            return None
        delay = min(self.max_s, _grown(self.initial_s, self.factor, failures - 1))
        digest = hashlib.blake2b(f"{seed}/{failures}".encode(), digest_size=8).digest()
        return delay * (1.0 - self.jitter * (int.from_bytes(digest, "big") / 2.0**64))


def _grown(initial_s: float, factor: float, times: int) -> float:
    """`initial_s * factor**times`; infinity for what no float holds."""
    if initial_s == 0.0:
        return 0.0
    try:
        return initial_s * factor**times
    except OverflowError:
        # The power alone is too large. By a very small first delay it may still give one below the bound.
        exponent = math.log(initial_s) + times * math.log(factor)
        return math.exp(exponent) if exponent < _LARGEST_EXPONENT else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget(PlainPickle):
    """Retries without a delay, as Ray counts them.

    Attributes:
        deaths: How many worker deaths are forgiven; -1 for any number.
        errors: How many exceptions are forgiven; -1 for any number.
        shared: One counter for both (the DAG API): `deaths` is then the whole budget and
            `errors` only says whether exceptions may draw on it (non-zero) or not (0).
    """

    deaths: int = 3
    errors: int = 0
    shared: bool = True

    def allows(self, *, deaths: int, errors: int, last_was_death: bool) -> bool:
        """Whether one more attempt is allowed after so many deaths and errors (the last one included)."""
        if self.shared:
            if not last_was_death and self.errors == 0:
                return False
            return self.deaths == -1 or deaths + errors <= self.deaths
        used, budget = (deaths, self.deaths) if last_was_death else (errors, self.errors)
        return budget == -1 or used <= budget
