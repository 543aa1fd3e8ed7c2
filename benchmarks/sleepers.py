"""Workflows that sleep, all at once: `python -m benchmarks.sleepers [--count N] [--asleep-s S] [--spread-s S]`.

Reports the memory of each (growth of the proportional set size of all processes of the cluster, and the largest
growth of one), how fast they are submitted, how long the management actor takes to come back with all of them asleep,
and how late they wake: by the time in their rows, which is when the transaction that woke them began, and as another
process saw it in the store, which is after that was durable. One line of JSON; progress on the error output.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import machine_line
from benchmarks.memory import memory_of_all
from holdfast import workflow
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners import TimerListener
from holdfast.storage import workflow_store
from holdfast.storage.folder import StorageFolder

_LOOK_EVERY_S = 0.002
_TELL_EVERY_S = 10.0
_MOST_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who sleeps until when.

    Attributes:
        count: How many workflows.
        first_due_unix_s: When the first wakes.
        spread_s: Seconds over which they wake.
    """

    count: int
    first_due_unix_s: float
    spread_s: float

    def due(self, at: int) -> float:
        """When one is to wake: computed, for a list of all would count as memory of theirs."""
        return self.first_due_unix_s + self.spread_s * at / self.count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sleepers", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2_000, help="how many workflows")
    parser.add_argument(
        "--asleep-s", type=float, default=20.0, help="seconds from the last submission to the first wake"
    )
    parser.add_argument("--spread-s", type=float, default=0.0, help="seconds over which they wake")
    parser.add_argument("--rate", type=float, default=300.0, help="submissions a second to be expected, rather less")
    asked = parser.parse_args()
    figures = measure(asked.count, asked.asleep_s, asked.spread_s, asked.rate)
    print(json.dumps({"machine": machine_line(), **figures}, indent=1))


def measure(count: int, asleep_s: float, spread_s: float, rate: float = 300.0) -> dict[str, Any]:
    """Let workflows sleep and wake."""
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    folder = Path(tempfile.mkdtemp()) / "storage"
    workflow.init(folder)
    opened = StorageFolder.open(folder, create=False)
    try:
        for at in range(200):
            workflow.submit(workflow.sleep(0.0), workflow_id=f"warm-up-{at}")
        _see_ended(opened, 200)
        before = memory_of_all()
        # All of one time: no other way is there to have the last asleep when the first wakes.
        plan = Plan(count=count, first_due_unix_s=time.time() + count / rate + 5 + asleep_s, spread_s=spread_s)
        submitted_s = _submit(plan)
        late_start = time.time() > plan.first_due_unix_s
        asleep = memory_of_all()
        restart_s = _restart_management()
        in_time = time.time() < plan.first_due_unix_s
        seen = _see_ended(opened, 200 + count)
        ends = _ends(opened, plan)
    finally:
        opened.close()
        workflow.shutdown()
        ray.shutdown()
    growth = {pid: one.kib - (before[pid].kib if pid in before else 0) for pid, one in asleep.items()}
    largest = max(growth, key=lambda pid: growth[pid])
    return {
        "sleepers": count,
        "submitted_before_the_first_was_due": not late_start,
        "restarted_before_the_first_was_due": in_time,
        "submissions_per_s": round(count / submitted_s, 1),
        "kib_each": round(sum(growth.values()) / count, 2),
        "processes_more": len(asleep) - len(before),
        "largest_growth": {"process": asleep[largest].name, "kib": growth[largest]},
        "management_restart_s": round(restart_s, 3),
        "woken": len(ends),
        "early": sum(ended < plan.due(at) for at, ended in ends.items()),
        "late_ms": _late_ms([ended - plan.due(at) for at, ended in ends.items()]),
        # The first that was seen awake is held against the first that was due, and so on.
        "seen_late_ms": _late_ms([unix_s - plan.due(at) for at, unix_s in enumerate(seen[200:])]),
    }


def _late_ms(late_s: list[float]) -> dict[str, float]:
    late_ms = sorted(late * 1e3 for late in late_s)
    found = {"p50": statistics.median(late_ms), "p99": late_ms[int(len(late_ms) * 0.99)], "max": late_ms[-1]}
    return {name: round(late, 1) for name, late in found.items()}


def _submit(plan: Plan) -> float:
    """Seconds that it took."""
    begun = told = time.perf_counter()
    for at in range(plan.count):
        workflow.submit(workflow.wait_for_event(TimerListener, plan.due(at)), workflow_id=f"asleep-{at}")
        if time.perf_counter() - told > _TELL_EVERY_S:
            told = time.perf_counter()
            _tell(f"{at + 1:,} of {plan.count:,} submitted, {(at + 1) / (told - begun):,.0f} a second")
    return time.perf_counter() - begun


def _see_ended(opened: StorageFolder, count: int) -> list[float]:
    """When the first, the second ... workflow that has ended was seen to, in seconds since the epoch."""
    seen: list[float] = []
    deadline = told = time.monotonic()
    deadline += _MOST_WAIT_S
    while len(seen) < count:
        with opened.kv.read() as txn:
            ended = workflow_store.count(txn, WorkflowStatus.SUCCESSFUL)
        seen.extend([time.time()] * (ended - len(seen)))
        if time.monotonic() > deadline:
            raise TimeoutError(f"{ended} of {count} workflows had ended after {_MOST_WAIT_S:g} s")
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            _tell(f"{ended:,} of {count:,} awake")
        time.sleep(_LOOK_EVERY_S)
    return seen


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ends(opened: StorageFolder, plan: Plan) -> dict[int, float]:
    """When each ended, from its row: when the event was written, in seconds since the epoch."""
    with opened.kv.read() as txn:
        rows = ((at, workflow_store.find(txn, f"asleep-{at}")) for at in range(plan.count))
        return {at: row.ended_unix_s for at, row in rows if row is not None and row.ended_unix_s is not None}


def _restart_management() -> float:
    """Seconds from killing the management actor until its successor answers."""
    pid = workflow.platform_status()["management"]["pid"]
    begun = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            if workflow.platform_status()["management"]["pid"] != pid:
                return time.perf_counter() - begun
        except ray.exceptions.RayActorError:
            time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main()
