"""SIGKILL at random moments, from a seed, while workflows of every shape run."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import ray

from holdfast import workflow
from tests.recovery.audit import Audit
from tests.recovery.processes import of_role
from tests.recovery.workloads import make

AT_ONCE = 6
PAUSE_S = (0.1, 1.5)
ALL_IS_DONE_S = 150.0
# A listener's event is lost with its host three times over at most, as any task's worker is by default.
MOST_HOST_KILLS = 3


@dataclass
class Chaos:
    """Keeps some workflows running and kills what runs them.

    Attributes:
        seed: Decides the workflows, the moments and the victims (as far as the machine's own timing lets it).
        killed: How many processes of each role.
    """

    audit: Audit
    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    _expected: dict[str, Any] = field(default_factory=dict)
    _references: dict[str, Any] = field(default_factory=dict)

    def run(self, kills: int) -> None:
        """Kill so many processes, then see that every workflow comes to its value and nothing logged ran again."""
        print(f"seed {self.seed}")
        random = Random(self.seed)
        while self.killed.total() < kills:
            self._keep_busy()
            # The moment is what is random here; nothing is waited for.
            time.sleep(random.uniform(*PAUSE_S))
            self._strike(random)
        values = ray.get(list(self._references.values()), timeout=ALL_IS_DONE_S)
        found = dict(zip(self._references, values, strict=True))
        wrong = {key: (found[key], value) for key, value in self._expected.items() if found[key] != value}
        assert not wrong, f"(found, expected): {wrong}"
        assert dict(workflow.list_all()) == dict.fromkeys(self._expected, workflow.SUCCESSFUL)
        ran_again = self.audit.check(least_tasks=len(self._expected))
        print(f"killed {dict(self.killed)}, {len(found)} workflows, {len(ran_again)} tasks ran again")

    def _keep_busy(self) -> None:
        missing = AT_ONCE
        if self._references:
            _, open_ones = ray.wait(list(self._references.values()), num_returns=len(self._references), timeout=0)
            missing -= len(open_ones)
        for _ in range(missing):
            workflow_id, node, value = make(self.audit.path, len(self._expected), self.seed)
            self._expected[workflow_id] = value
            self._references[workflow_id] = workflow.run_async(node, workflow_id=workflow_id)

    def _strike(self, random: Random) -> None:
        roles = ["worker", "worker", "executor", "management"]
        if self.killed["listener host"] < MOST_HOST_KILLS:
            roles.append("listener host")
        role = random.choice(roles)
        candidates = of_role(role)
        if candidates:
            self.audit.remember_logged()
            self.killed[role] += random.choice(candidates).kill()


def seed_or(default: int) -> int:
    """The seed to use: that of the environment variable `HOLDFAST_KILL_SEED` when it is set."""
    return int(os.environ.get("HOLDFAST_KILL_SEED") or default)


def audit_in(folder: Path, storage: Path) -> Audit:
    """A fresh audit."""
    return Audit(folder / "audit.tsv", storage)
