"""The workloads on Ray's own workflow: `python -m benchmarks.peers.ray_workflow WORKLOAD FOLDER`."""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray import workflow

from benchmarks import sizes
from benchmarks.tasks import fill, grow, noop, total

_WARM_UP_TASKS = 32


def latency() -> float:
    """Median seconds of a workflow of one task."""
    return statistics.median(_timed(partial(_check, at, noop.bind(at))) for at in range(sizes.LATENCY_RUNS))


def chain() -> float:
    """Seconds for tasks of which each takes the result of the one before."""

    def work() -> None:
        node = noop.bind(1)
        for _ in range(sizes.CHAIN_LENGTH - 1):
            node = noop.bind(node)
        _check(1, node)

    return _timed(work)


def fanout() -> float:
    """Seconds for many tasks side by side, and their sum."""

    def work() -> None:
        nodes = (noop.bind(at) for at in range(sizes.FANOUT_WIDTH))
        _check(sum(range(sizes.FANOUT_WIDTH)), total.bind(*nodes))

    return _timed(work)


def many() -> float:
    """Seconds for many workflows of one task, all at once."""

    def work() -> None:
        refs = [workflow.run_async(noop.bind(at)) for at in range(sizes.MANY_WORKFLOWS)]
        assert ray.get(refs) == list(range(sizes.MANY_WORKFLOWS))

    return _timed(work)


def arrays() -> float:
    """Seconds for tasks of which each makes a large array of the one before."""

    def work() -> None:
        node = fill.bind()
        for _ in range(sizes.ARRAYS - 1):
            node = grow.bind(node)
        assert int(workflow.run(node)[-1]) == sizes.ARRAYS

    return _timed(work)


def _check(expected: Any, node: Any) -> None:
    found = workflow.run(node)
    assert found == expected, f"{found!r} in place of {expected!r}"


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


WORKLOADS = {one.__name__: one for one in (latency, chain, fanout, many, arrays)}


def main(workload: str, folder: str) -> dict[str, float]:
    """Measure."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Each warns that it is to be removed.
    os.environ["PYTHONWARNINGS"] = "ignore"
    ray.init(
        address="local",
        storage=f"file://{folder}",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.disable(logging.WARNING)
    try:
        workflow.run(total.bind(*(noop.bind(at) for at in range(_WARM_UP_TASKS))))
        return {"seconds": WORKLOADS[workload]()}
    finally:
        ray.shutdown()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
