"""A driver that takes events over HTTP: `python -m tests.recovery.http_driver <storage> <port>`, to be killed.

It opens the folder, takes up what is there, and serves. The workflow `waits` wants two events, the first of them late.
"""

from __future__ import annotations

import logging
import sys
import threading

import ray

from holdfast import workflow
from holdfast.serve import start_http_events
from holdfast.workflow.http_event_provider import HTTPListener


@ray.remote(num_cpus=0)
def both(*events):
    return list(events)


@ray.remote(num_cpus=0)
def then(go):
    """Only now somebody waits for `early`."""
    return workflow.continuation(both.bind(go, workflow.wait_for_event(HTTPListener, event_key="early")))


def main(storage: str, port: int) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(storage, resume="auto")
    if not workflow.list_all():
        workflow.run_async(then.bind(workflow.wait_for_event(HTTPListener, event_key="go")), workflow_id="waits")
    start_http_events(port=port)
    print("SERVES", flush=True)
    print("VALUE", workflow.get_output("waits"), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
