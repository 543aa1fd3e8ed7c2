"""When a task that failed is tried again, and how long after.

Pure arithmetic: the jitter comes from the caller's seed, so a replay computes
the same delay.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from holdfast.engine.plain_pickle import PlainPickle


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(PlainPickle):
    """Exponential back-off.

    Attributes:
        max_attempts: Executions in all, the first included; -1 for no limit.
        initial_s: Delay before the second attempt, in seconds.
        factor: What each further delay is multiplied by.
        max_s: Upper bound of a delay, in seconds.
        jitter: Part of the delay, 0 to 1, that is drawn at random and taken off.
    """

    max_attempts: int = 3
    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if self.max_attempts != -1 and self.max_attempts < 1:
            raise ValueError(f"max_attempts must be -1 (no limit) or at least 1, not {self.max_attempts!r}")
        for name, low in (("initial_s", 0.0), ("factor", 1.0), ("max_s", 0.0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} must be at least {low:g}, not {getattr(self, name)!r}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter!r}")

    def delay_s(self, failures: int, seed: str) -> float | None:
        """Seconds to wait after `failures` failed attempts; None when there is none left.

        Args:
            failures: Attempts that have failed so far, at least 1.
            seed: What the jitter is drawn from; the same seed gives the same delay.
        """
        if self.max_attempts != -1 and failures >= self.max_attempts:
            return None
        # Past 2**1000 a float overflows; the bound is reached long before.
        delay = min(self.max_s, self.initial_s * self.factor ** min(failures - 1, 512))
        digest = hashlib.blake2b(f"{seed}/{failures}".encode(), digest_size=8).digest()
        return delay * (1.0 - self.jitter * (int.from_bytes(digest, "big") / 2.0**64))


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
