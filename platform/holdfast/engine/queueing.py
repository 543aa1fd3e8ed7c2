"""Whether a workflow may start now, has to queue, or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Admission(Enum):
    """What becomes of a workflow that asks to run."""

    ADMITTED = "run it now"
    QUEUED = "keep it until a place is free"
    REFUSED = "the queue is full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many workflows may run and wait at once; None for no limit."""

    max_running: int | None = None
    max_pending: int | None = None

    def decide(self, *, running: int, pending: int, ran_before: bool = False) -> Admission:
        """Decide for one more workflow.

        Args:
            running: How many run.
            pending: How many wait.
            ran_before: It had its place already and lost it with the cluster.

        Semantics: first come, first served: with others waiting, it waits too. What ran before the others began to
            wait does not wait behind them.
        """
        if self.may_start(running=running) and (pending == 0 or self.max_running is None or ran_before):
            return Admission.ADMITTED
        if self.max_pending is None or pending < self.max_pending:
            return Admission.QUEUED
        return Admission.REFUSED

    def may_start(self, *, running: int) -> bool:
        """Whether there is a place for one more."""
        return self.max_running is None or running < self.max_running
