"""Large and deep workflows, and a full store: `python -m benchmarks.scale [NAME ...] [--shrink K]`.

Reports time, and the rate and the executor's memory (resident and anonymous, MiB) as the workflow goes on, one line of
JSON each. Memory when a tenth of the tasks is finished is what the rest is compared with: it must not grow with what is
finished. The rates compared are those of a fifth of the tasks after the first tenth, and of the last fifth.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import machine_line
from holdfast import workflow
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout, workflow_store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.workflow_row import WorkflowRow

_LOOK_EVERY_S = 0.5
_ROWS_IN_A_TRANSACTION = 20_000
_TURNS = 3
_WARM_UP_TASKS = 32
_LAYER_TASKS = 5_000


@ray.remote
def same(value: int) -> int:
    return value


@ray.remote
def _add(*values: int) -> int:
    return sum(values)


# Ray's hints know no functions of many arguments.
add: Any = _add


@ray.remote
def larger(left: int, right: int) -> int:
    return max(left, right)


@ray.remote
def go_deep(left: int) -> Any:
    return "bottom" if left == 0 else workflow.continuation(go_deep.bind(left - 1))


@ray.remote
def grow(rounds: int, total: int) -> Any:
    """Each round adds 20 tasks: 18 leaves, their sum, and the next round."""
    if rounds == 0:
        return total
    return workflow.continuation(grow.bind(rounds - 1, add.bind(total, *(same.bind(1) for _ in range(18)))))


def deep(shrink: float) -> tuple[Any, int, Any]:
    """A continuation 10,000 deep."""
    depth = round(10_000 / shrink)
    return go_deep.bind(depth), depth + 1, "bottom"


def static(shrink: float) -> tuple[Any, int, Any]:
    """A graph of 100,000 tasks, submitted at once: leaves, sums of 100 of them, and the sum of all."""
    width = round(99_000 / shrink)
    leaves: list[Any] = [same.bind(1) for _ in range(width)]
    sums: list[Any] = [add.bind(*leaves[at : at + 100]) for at in range(0, width, 100)]
    return add.bind(*sums), width + len(sums) + 1, width


def layers(shrink: float) -> tuple[Any, int, Any]:
    """A graph of 100,000 tasks in layers, submitted at once: each task takes two of the layer before."""
    depth = round(100_000 / shrink / _LAYER_TASKS)
    layer: list[Any] = [same.bind(at) for at in range(_LAYER_TASKS)]
    for _ in range(depth - 1):
        layer = [larger.bind(layer[at - 1], layer[at]) for at in range(_LAYER_TASKS)]
    # Task 0 takes the last one, too: the largest number comes round.
    reached = [max((at - back) % _LAYER_TASKS for back in range(depth)) for at in range(_LAYER_TASKS)]
    return add.bind(*layer), depth * _LAYER_TASKS + 1, sum(reached)


def dynamic(shrink: float) -> tuple[Any, int, Any]:
    """A graph that grows to 20,000 tasks."""
    rounds = round(1_000 / shrink)
    return grow.bind(rounds, 0), rounds * 20 + 1, rounds * 18


@dataclass(frozen=True, slots=True)
class Look:
    """How far a workflow has come.

    Attributes:
        at_s: When, by a clock that nobody sets.
        finished: Tasks that are in the store.
        mib: The executor's memory.
    """

    at_s: float
    finished: int
    mib: int


def run_one(folder: Path, name: str, make: Callable[[float], tuple[Any, int, Any]], shrink: float) -> dict[str, Any]:
    """Run one workflow and look at the executor's memory meanwhile."""
    executor = workflow.platform_status()["executors"][0]["pid"]
    dag, tasks, expected = make(shrink)
    storage = StorageFolder.open(str(folder), create=False)
    before_mib = resident_mib(executor)

    def look() -> Look:
        with storage.kv.read() as txn:
            row = workflow_store.find(txn, name)
            finished = 0 if row is None else sum(1 for _ in txn.scan(layout.task(row.seq)))
        return Look(time.perf_counter(), finished, resident_mib(executor))

    try:
        began = time.perf_counter()
        reference = workflow.run_async(dag, workflow_id=name)
        submitted_s = time.perf_counter() - began
        looks = [look()]
        while not ray.wait([reference], timeout=_LOOK_EVERY_S)[0]:
            looks.append(look())
        assert ray.get(reference) == expected
        took_s = time.perf_counter() - began
        looks.append(look())
    finally:
        storage.close()
    after_tenth = [one for one in looks if one.finished >= tasks / 10]
    early, late = rate(looks, 0.1 * tasks, 0.3 * tasks), rate(looks, 0.8 * tasks, tasks)
    return {
        "workload": name,
        "tasks": tasks,
        "seconds": round(took_s, 1),
        "submit_seconds": round(submitted_s, 1),
        "tasks_per_second": round(tasks / took_s),
        "mib_before": before_mib,
        "mib_after_first_tenth": after_tenth[0].mib,
        "mib_highest_after_that": max(one.mib for one in after_tenth),
        "mib_at_end": looks[-1].mib,
        "rate_early": round(early),
        "rate_late": round(late),
        "rate_ratio": round(late / early, 2),
    }


def rate(looks: Sequence[Look], first: float, last: float) -> float:
    """Tasks finished in a second, between the looks that are nearest to two counts of finished tasks."""
    begin = min(looks[:-1], key=lambda look: abs(look.finished - first))
    # Of several with as many the first.
    end = min((look for look in looks if look.at_s > begin.at_s), key=lambda look: abs(look.finished - last))
    return (end.finished - begin.finished) / (end.at_s - begin.at_s)


def full_store(folder: Path, count: int) -> dict[str, Any]:
    """What many finished workflows in the store cost: the start, `list_all("RUNNING")`, and what is submitted.

    An empty store and the full one take turns, each started anew.
    """
    full, empty = folder / "full", folder / "empty"
    make_finished(full, count)
    start_s: list[float] = []
    list_ms: list[float] = []
    submit_ms: dict[Path, list[float]] = {empty: [], full: []}
    run_ms: dict[Path, list[float]] = {empty: [], full: []}
    for turn in range(_TURNS):
        for store in (empty, full):
            began = time.perf_counter()
            workflow.init(str(store))
            started_s = time.perf_counter() - began
            graph: Any = add.bind(*(same.bind(number) for number in range(_WARM_UP_TASKS)))
            workflow.run(graph)
            sleeping = f"the one that runs, turn {turn}"
            workflow.submit(workflow.sleep(3600), workflow_id=sleeping)
            if store == full:
                start_s.append(started_s)
                list_ms += [_list_ms(sleeping) for _ in range(50)]
            run_ms[store] += [_latency_ms() for _ in range(100)]
            submit_ms[store] += [_submit_ms() for _ in range(100)]
            workflow.cancel(sleeping)
            workflow.shutdown()
    workflow.init(str(full))
    return {
        "workload": "list_all",
        "finished_workflows": count,
        "start_seconds": [round(one, 2) for one in start_s],
        "median_ms": round(statistics.median(list_ms), 2),
        "highest_ms": round(max(list_ms), 2),
        **{
            name: {
                "empty_median": round(statistics.median(taken[empty]), 2),
                "full_median": round(statistics.median(taken[full]), 2),
                "full_to_empty": round(statistics.median(taken[full]) / statistics.median(taken[empty]), 2),
            }
            for name, taken in (("submit_ms", submit_ms), ("one_task_ms", run_ms))
        },
    }


def _list_ms(running: str) -> float:
    began = time.perf_counter()
    found = workflow.list_all("RUNNING")
    taken_ms = (time.perf_counter() - began) * 1e3
    assert found == [(running, workflow.RUNNING)]
    return taken_ms


def _submit_ms() -> float:
    began = time.perf_counter()
    reference = workflow.run_async(same.bind(1))
    taken_ms = (time.perf_counter() - began) * 1e3
    assert ray.get(reference) == 1
    return taken_ms


def removal(folder: Path, count: int) -> dict[str, Any]:
    """What it costs others that a fiftieth of many finished workflows is removed."""
    make_finished(folder, count)
    over = count // 50
    began = time.perf_counter()
    workflow.init(str(folder), keep_finished=count - over)
    started_s = time.perf_counter() - began
    meanwhile_ms = []
    while workflow.platform_status()["retention"]["removed"] < over:
        meanwhile_ms.append(_latency_ms())
    removed_s = time.perf_counter() - began
    afterwards_ms = [_latency_ms() for _ in range(100)]
    return {
        "workload": "removal",
        "finished_workflows": count,
        "removed": over,
        "start_seconds": round(started_s, 2),
        "removed_after_seconds": round(removed_s, 2),
        "one_task_median_ms": {
            "meanwhile": round(statistics.median(meanwhile_ms), 2) if meanwhile_ms else None,
            "afterwards": round(statistics.median(afterwards_ms), 2),
        },
        "one_task_highest_ms": {
            "meanwhile": round(max(meanwhile_ms), 2) if meanwhile_ms else None,
            "afterwards": round(max(afterwards_ms), 2),
        },
    }


def _latency_ms() -> float:
    began = time.perf_counter()
    assert workflow.run(same.bind(1)) == 1
    return (time.perf_counter() - began) * 1e3


def make_finished(folder: Path, count: int) -> None:
    """Fill a store with finished workflows, without running them."""
    storage = StorageFolder.open(str(folder))
    now_unix_s = time.time()
    for first in range(0, count, _ROWS_IN_A_TRANSACTION):
        with storage.kv.write() as txn:
            for number in range(first, min(first + _ROWS_IN_A_TRANSACTION, count)):
                row = WorkflowRow(
                    seq=0,
                    workflow_id=f"finished-{number}",
                    status=WorkflowStatus.SUCCESSFUL,
                    executor="holdfast-executor-0",
                    nonce=f"{number:032x}",
                    ended_unix_s=now_unix_s - 2 * count + number,
                )
                workflow_store.create(txn, row)
    storage.close()


def resident_mib(pid: int) -> int:
    """Resident memory of a process, without the mapped pages of the store, which the kernel takes back at will."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) // 1024
    return 0


WORKLOADS: dict[str, Callable[[float], tuple[Any, int, Any]]] = {
    "deep": deep,
    "static": static,
    "layers": layers,
    "dynamic": dynamic,
}
STORES: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "list_all": (full_store, 1_000_000),
    "removal": (removal, 1_000_000),
}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*WORKLOADS, *STORES])}; default: all")
    parser.add_argument("--shrink", type=float, default=1, help="make each this many times smaller; 0.5: larger")
    asked = parser.parse_args()
    names = asked.names or [*WORKLOADS, *STORES]
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    print(machine_line())
    with tempfile.TemporaryDirectory(prefix="holdfast-scale-") as scratch:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            for name in names:
                folder = Path(scratch) / name
                if name in STORES:
                    measure, count = STORES[name]
                    result = measure(folder, round(count / asked.shrink))
                else:
                    workflow.init(str(folder))
                    result = run_one(folder, name, WORKLOADS[name], asked.shrink)
                workflow.shutdown()
                print(json.dumps(result), flush=True)
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
