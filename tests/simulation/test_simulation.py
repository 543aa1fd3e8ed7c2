"""20,000 random schedules, on two processes, in which no law is broken."""

from __future__ import annotations

from tests.simulation.simulate import run_many

SCHEDULES = 20_000


def test_no_schedule_breaks_a_law() -> None:
    broken = [one for _, found in run_many(SCHEDULES, seed=0, workers=2) for one in found]
    assert not broken, "\n".join(map(str, broken))
