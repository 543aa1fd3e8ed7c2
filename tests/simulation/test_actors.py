"""Random days of virtual actors, by seed, in which no law is broken; and deliberate faults that the laws must catch."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.actor_faults import FAULTS, ActorFault
from tests.simulation.simulate import run_actor_seed

SEEDS = 1500
MOST_SEEDS = 1500


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Reminders that are held back say so, many thousands of times."""
    log = logging.getLogger("holdfast")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


def test_no_day_of_virtual_actors_breaks_a_law() -> None:
    broken = [str(found) for seed in range(SEEDS) if (found := run_actor_seed(seed)) is not None]
    assert not broken, "\n".join(broken[:20])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_deliberate_fault_of_virtual_actors_is_caught(fault: ActorFault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.inject(monkeypatch)
    tried = (run_actor_seed(seed, fault.make) for seed in range(MOST_SEEDS))
    found = next((broken for broken in tried if broken is not None), None)
    assert found is not None, f"{MOST_SEEDS} days did not show that {fault.name}"
    assert found.law != "the engine raises nothing", f"not a law but an error caught it: {found}"
