"""A driver in a process of its own, to be killed: `python -m tests.recovery.driver <orders as JSON>`.

It says on its standard output, line by line, what has been acknowledged to it. See `drivers.py` for the orders.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

import ray

from holdfast import workflow
from tests.recovery.gates import behind_a_gate, hear_and_tell
from tests.recovery.workloads import make


def say(*words: object) -> None:
    print(*words, flush=True)


def main(orders: dict) -> None:
    if orders["address"] is None:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(address=orders["address"], log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(orders["storage"], max_running_workflows=orders["max_running"], resume=orders["resume"])
    audit = Path(orders["audit"])
    known = dict(workflow.list_all())
    for serial in range(orders["workloads"]):
        workflow_id, node, _ = make(audit, serial, orders["seed"])
        if workflow_id not in known:
            workflow.run_async(node, workflow_id=workflow_id)
        say("ACK", workflow_id)
    for workflow_id in orders["gated"]:
        workflow.run_async(behind_a_gate.bind(str(audit), orders["gate"]), workflow_id=workflow_id)
        say("ACK", workflow_id)
    for workflow_id in orders["events"]:
        workflow.run_async(hear_and_tell(str(audit)), workflow_id=workflow_id)
        workflow.send_event(workflow_id, "news", f"for {workflow_id}")
        say("ACK", workflow_id)
    if orders["then"] == "wait":
        for workflow_id in sorted(dict(workflow.list_all())):
            say("VALUE", json.dumps([workflow_id, workflow.get_output(workflow_id)]))
    say("DONE")
    if orders["then"] == "stay":
        threading.Event().wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
