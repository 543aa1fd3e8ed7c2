"""Each deliberate fault is caught by a law within a bounded number of seeds."""

from __future__ import annotations

import pytest

from tests.simulation.faults import FAULTS, Fault
from tests.simulation.simulate import Broken, run_seed, run_town_seed

MOST_SEEDS = 3_000


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_deliberate_fault_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.inject(monkeypatch)
    assert first_broken(fault) is not None, f"{MOST_SEEDS} schedules did not show that {fault.name}"


def test_without_a_fault_the_same_seeds_break_nothing() -> None:
    assert first_broken(Fault("nothing is wrong"), seeds=500) is None
    assert first_broken(Fault("nothing is wrong", in_town=True), seeds=50) is None


def first_broken(fault: Fault, seeds: int = MOST_SEEDS) -> Broken | None:
    """What the first seed that shows the fault broke."""
    runs = (run_town_seed(seed) if fault.in_town else run_seed(seed, fault.make) for seed in range(seeds))
    return next((broken for broken in runs if broken is not None), None)
