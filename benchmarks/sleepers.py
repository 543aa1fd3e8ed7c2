"""Workflows that sleep, all at once: `python -m benchmarks.sleepers [--count N] [--asleep-s S] [--spread-s S]`.

Reports the memory of each (growth of the proportional set size of all processes of the cluster, and the largest
growth of one), how late they wake, how fast they are submitted, and how long the management actor takes to come
back with all of them asleep. One line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import machine_line
from holdfast import workflow
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners import TimerListener
from holdfast.storage import workflow_store
from holdfast.storage.folder import StorageFolder

_LOOK_EVERY_S = 0.2
_MOST_WAIT_S = 3600.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sleepers", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2_000, help="how many workflows")
    parser.add_argument(
        "--asleep-s", type=float, default=20.0, help="seconds from the last submission to the first wake"
    )
    parser.add_argument("--spread-s", type=float, default=0.0, help="seconds over which they wake")
    asked = parser.parse_args()
    print(json.dumps({"machine": machine_line(), **measure(asked.count, asked.asleep_s, asked.spread_s)}, indent=1))


def measure(count: int, asleep_s: float, spread_s: float) -> dict[str, Any]:
    """Let workflows sleep and wake."""
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    folder = Path(tempfile.mkdtemp()) / "storage"
    workflow.init(folder)
    try:
        for at in range(200):
            workflow.submit(workflow.sleep(0.0), workflow_id=f"warm-up-{at}")
        _wait_for(WorkflowStatus.SUCCESSFUL, 200)
        before = _memory()
        # All of one time: no other way is there to have the last asleep when the first wakes.
        submit_s = count / 300 + 5
        first_due = time.time() + submit_s + asleep_s
        dues = {f"asleep-{at}": first_due + spread_s * at / count for at in range(count)}
        begun = time.perf_counter()
        for workflow_id, due in dues.items():
            workflow.submit(workflow.wait_for_event(TimerListener, due), workflow_id=workflow_id)
        submitted_s = time.perf_counter() - begun
        late_start = time.time() > first_due
        asleep = _memory()
        restart_s = _restart_management()
        _wait_for(WorkflowStatus.SUCCESSFUL, 200 + count)
        late_ms = sorted((ended - due) * 1e3 for ended, due in _ends(folder, dues))
    finally:
        workflow.shutdown()
        ray.shutdown()
    growth = {pid: kib - before.get(pid, ("", 0))[1] for pid, (_, kib) in asleep.items()}
    largest = max(growth, key=lambda pid: growth[pid])
    return {
        "sleepers": count,
        "submitted_before_the_first_was_due": not late_start,
        "submissions_per_s": round(count / submitted_s, 1),
        "kib_each": round(sum(growth.values()) / count, 2),
        "processes_more": len(asleep) - len(before),
        "largest_growth": {"process": asleep[largest][0], "kib": growth[largest]},
        "management_restart_s": round(restart_s, 3),
        "woken": len(late_ms),
        "early": sum(ms < 0 for ms in late_ms),
        "late_p50_ms": round(statistics.median(late_ms), 1),
        "late_p99_ms": round(late_ms[int(len(late_ms) * 0.99)], 1),
        "late_max_ms": round(late_ms[-1], 1),
    }


def _ends(folder: Path, dues: dict[str, float]) -> list[tuple[float, float]]:
    """(ended, due) of each, from the store: when the event was written, in seconds since the epoch."""
    opened = StorageFolder.open(folder, create=False)
    try:
        with opened.kv.read() as txn:
            rows = ((workflow_store.find(txn, workflow_id), due) for workflow_id, due in dues.items())
            return [(row.ended_unix_s, due) for row, due in rows if row is not None and row.ended_unix_s is not None]
    finally:
        opened.close()


def _wait_for(status: WorkflowStatus, count: int) -> None:
    deadline = time.monotonic() + _MOST_WAIT_S
    while workflow.platform_status()["workflows"].get(status.value, 0) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {count} workflows were {status.value} after {_MOST_WAIT_S:g} s")
        time.sleep(_LOOK_EVERY_S)


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
            time.sleep(_LOOK_EVERY_S / 10)


def _memory() -> dict[int, tuple[str, int]]:
    """(name, proportional set size in KiB) of this process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, tuple[str, int]] = {}
    left = [os.getpid()]
    while left:
        pid = left.pop()
        left.extend(children.get(pid, ()))
        try:
            name = (Path("/proc") / str(pid) / "comm").read_text().strip()
            lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found[pid] = name, next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found


if __name__ == "__main__":
    main()
