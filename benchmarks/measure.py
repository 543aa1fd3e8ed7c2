"""One measurement, in a process of its own: `python -m benchmarks.measure ENGINE WORKLOAD STORAGE`.

ENGINE is `holdfast`, `plain_ray`, or `recount`, which opens the store of an earlier `holdfast` run on a
Ray of its own and counts what was logged. Prints one line of JSON, last.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from typing import Any

import ray

from benchmarks.flushes import count
from benchmarks.tasks import noop, total
from benchmarks.workloads import WORKLOADS, Workload, durable_noop, durable_total
from holdfast import workflow

WARM_UP_TASKS = 32


def main(engine: str, workload_name: str, storage: str) -> dict[str, float | int | None]:
    """Measure, or recount."""
    workload = WORKLOADS[workload_name]
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if engine == "plain_ray":
            ray.get(total.remote(*(noop.remote(at) for at in range(WARM_UP_TASKS))))
            return {"seconds": workload.plain_ray()}
        workflow.init(storage)
        try:
            if engine == "recount":
                return {"logged_tasks": count_logged(workload), "expected_tasks": expected(workload)}
            # As for plain Ray: what starts with the first work only is started before the clock is.
            graph: Any = durable_total.bind(*(durable_noop.bind(at) for at in range(WARM_UP_TASKS)))
            workflow.run(graph, workflow_id="warm-up")
            before = count(storage)
            seconds = workload.holdfast()
            return {"seconds": seconds, **asdict(count(storage).since(before))}
        finally:
            workflow.shutdown()
    finally:
        ray.shutdown()


def expected(workload: Workload) -> int:
    """How many logged tasks a run of the workload leaves."""
    return sum(sum(tasks.values()) for tasks in workload.tasks_per_workflow.values())


def count_logged(workload: Workload) -> int:
    """Count the tasks whose result can be read back from the store."""
    finished = {workflow_id for workflow_id, _ in workflow.list_all("SUCCESSFUL")}
    refs = [
        workflow.get_output_async(workflow_id, task_id=name if number == 0 else f"{name}_{number}")
        for workflow_id, tasks in workload.tasks_per_workflow.items()
        if workflow_id in finished
        for name, count in tasks.items()
        for number in range(count)
    ]
    # A result that is not there raises here, and the run counts as not durable.
    return len(ray.get(refs))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4])))
