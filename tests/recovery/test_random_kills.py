"""Kill -9 of workers, executors, the management actor and the listener host, at random moments from a seed.

Each run prints its seed, and `HOLDFAST_KILL_SEED=N` repeats its choices. The kills of drivers and of whole
clusters are in `test_cluster_kills.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recovery.chaos import Chaos, audit_in, seed_or

SEED = 20260


@pytest.mark.timeout(240)
def test_no_logged_task_runs_again_and_every_value_is_right_after_kills(storage: Path, tmp_path: Path) -> None:
    chaos = Chaos(audit_in(tmp_path, storage), seed_or(SEED))
    chaos.run(kills=16)


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("part", range(4))
def test_no_logged_task_runs_again_and_every_value_is_right_after_many_kills(
    part: int, storage: Path, tmp_path: Path
) -> None:
    chaos = Chaos(audit_in(tmp_path, storage), seed_or(SEED + 1 + part))
    chaos.run(kills=24)
