"""Kill -9 of drivers, and of whole clusters with every process in them, at random moments from a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import ray

from holdfast import workflow
from tests.recovery.audit import Audit
from tests.recovery.chaos import seed_or
from tests.recovery.drivers import Driver, pause
from tests.recovery.workloads import make

SEED = 30260
WORKLOADS = 9


def expected(audit: Audit, seed: int) -> dict[str, object]:
    made = (make(audit.path, serial, seed) for serial in range(WORKLOADS))
    # As they come back out of JSON.
    return {workflow_id: list(value) if isinstance(value, tuple) else value for workflow_id, _, value in made}


class TestWholeClusters:
    def lose_clusters(self, start: Callable[..., Driver], audit: Audit, kills: int, seed: int) -> None:
        print(f"seed {seed}")
        random = Random(seed)
        for _ in range(kills):
            driver = start(workloads=WORKLOADS, seed=seed, resume="auto", then="wait")
            driver.hear("ACK")
            pause(random.uniform(0.0, 4.0))
            driver.look()
            if (audit.storage / "FORMAT").exists():
                audit.remember_logged()
            driver.kill_all()
        last = start(workloads=WORKLOADS, seed=seed, resume="auto", then="wait")
        assert last.values() == expected(audit, seed)
        audit.check(least_tasks=WORKLOADS)

    def test_every_value_is_right_after_clusters_were_lost(
        self, start_driver: Callable[..., Driver], audit: Audit
    ) -> None:
        self.lose_clusters(start_driver, audit, 2, seed_or(SEED))

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_every_value_is_right_after_many_clusters_were_lost(
        self, start_driver: Callable[..., Driver], audit: Audit
    ) -> None:
        self.lose_clusters(start_driver, audit, 8, seed_or(SEED + 1))


class TestDrivers:
    def lose_drivers(self, start: Callable[..., Driver], audit: Audit, kills: int, seed: int) -> None:
        print(f"seed {seed}")
        random = Random(seed)
        address = ray.get_runtime_context().gcs_address
        for _ in range(kills):
            driver = start(address=address, workloads=WORKLOADS, seed=seed, then="wait")
            driver.hear("ACK")
            pause(random.uniform(0.0, 1.0))
            audit.remember_logged()
            driver.kill()
        # What the drivers had no time to submit is submitted by the last one, which just leaves.
        start(address=address, workloads=WORKLOADS, seed=seed, then="exit").process.wait(60)
        found = {workflow_id: workflow.get_output(workflow_id) for workflow_id, _ in workflow.list_all()}
        assert {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()} == expected(
            audit, seed
        )
        ran_again = audit.check(least_tasks=WORKLOADS)
        assert not ran_again, "losing a driver disturbs no task"

    def test_no_task_is_disturbed_when_drivers_are_lost(
        self, storage: Path, start_driver: Callable[..., Driver], audit: Audit
    ) -> None:
        self.lose_drivers(start_driver, audit, 2, seed_or(SEED))

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_no_task_is_disturbed_when_many_drivers_are_lost(
        self, storage: Path, start_driver: Callable[..., Driver], audit: Audit
    ) -> None:
        self.lose_drivers(start_driver, audit, 6, seed_or(SEED + 1))
