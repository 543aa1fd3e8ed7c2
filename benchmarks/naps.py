"""Many that sleep at once, each for some seconds from when it was asked for: `python -m benchmarks.naps ENGINE FOLDER`.

The engine is `holdfast` or `plain_ray` (calls of one asynchronous actor, which a crash would lose). One line of JSON:
the memory of each, which is the growth of the proportional set size of all processes of the cluster, and how late
they woke. For Holdfast also how many were found in the store when it was opened again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.memory import Memory, memory_of_all
from holdfast import workflow
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store
from holdfast.storage.folder import StorageFolder

COUNT = 2_000
ASLEEP_S = 20.0
ASKED_KIB = 4.0
ASKED_LATE_MS = 50.0

_WARM_UP = 200
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 60.0


def main(engine: str, folder: str) -> dict[str, Any]:
    """Measure."""
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return _plain_ray() if engine == "plain_ray" else _holdfast(folder)
    finally:
        ray.shutdown()


def _holdfast(folder: str) -> dict[str, Any]:
    workflow.init(folder)
    try:
        for at in range(_WARM_UP):
            workflow.submit(workflow.sleep(0.0), workflow_id=f"warm-up-{at}")
        _wait_until_ended(folder, _WARM_UP)
        before, asked_unix_s = memory_of_all(), []
        for at in range(COUNT):
            workflow.submit(workflow.sleep(ASLEEP_S), workflow_id=f"nap-{at}")
            asked_unix_s.append(time.time())
        asleep = memory_of_all()
        _check_asleep(asked_unix_s)
        _wait_until_ended(folder, _WARM_UP + COUNT)
    finally:
        workflow.shutdown()
    opened = StorageFolder.open(folder, create=False)
    try:
        with opened.kv.read() as txn:
            rows = [workflow_store.find(txn, f"nap-{at}") for at in range(COUNT)]
    finally:
        opened.close()
    ended = [row.ended_unix_s for row in rows if row is not None and row.status is WorkflowStatus.SUCCESSFUL]
    late_s = [(end or 0.0) - asked - ASLEEP_S for end, asked in zip(ended, asked_unix_s, strict=True)]
    return {**_figures(before, asleep, late_s), "found": len(ended)}


def _wait_until_ended(folder: str, count: int) -> None:
    opened, deadline_s = StorageFolder.open(folder, create=False), time.monotonic() + ASLEEP_S + _PATIENCE_S
    try:
        while True:
            with opened.kv.read() as txn:
                ended = workflow_store.count(txn, WorkflowStatus.SUCCESSFUL)
            if ended >= count:
                return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{ended} of {count} workflows have ended")
            time.sleep(_LOOK_EVERY_S)
    finally:
        opened.close()


class _Bed:
    """Who calls it sleeps here."""

    async def nap(self, seconds: float) -> float:
        """When the sleeper woke, in seconds since the epoch."""
        await asyncio.sleep(seconds)
        return time.time()


# Ray's hints know no actor classes.
Bed: Any = ray.remote(num_cpus=0)(_Bed)


def _plain_ray() -> dict[str, Any]:
    bed = Bed.options(max_concurrency=2 * COUNT).remote()
    ray.get([bed.nap.remote(0.0) for _ in range(_WARM_UP)])
    before, asked_unix_s, refs = memory_of_all(), [], []
    for _ in range(COUNT):
        refs.append(bed.nap.remote(ASLEEP_S))
        asked_unix_s.append(time.time())
    asleep = memory_of_all()
    _check_asleep(asked_unix_s)
    late_s = [end - asked - ASLEEP_S for end, asked in zip(ray.get(refs), asked_unix_s, strict=True)]
    return _figures(before, asleep, late_s)


def _check_asleep(asked_unix_s: list[float]) -> None:
    if time.time() > asked_unix_s[0] + ASLEEP_S:
        raise AssertionError(f"the first woke before the last of {COUNT} was asleep: the machine is too slow for this")


def _figures(before: dict[int, Memory], asleep: dict[int, Memory], late_s: list[float]) -> dict[str, Any]:
    growth_kib = sum(one.kib - (before[pid].kib if pid in before else 0) for pid, one in asleep.items())
    late_ms = sorted(late * 1e3 for late in late_s)
    return {
        "kib_each": round(growth_kib / COUNT, 2),
        "processes_more": len(asleep.keys() - before.keys()),
        "late_p50_ms": round(late_ms[len(late_ms) // 2], 1),
        "late_p99_ms": round(late_ms[int(len(late_ms) * 0.99)], 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], str(Path(sys.argv[2])))))
