"""Expenses that somebody has to approve over HTTP, within a time limit.

    python -m examples.approval            # posts the answers itself
    python -m examples.approval --by-hand  # waits a minute for yours, and says how to post them

An expense that waits holds no process: it is a row on disk, and so is its time limit. The answer may come before
anybody waits for it, and may be sent twice; whoever is late gets a 409.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import urllib.error
import urllib.request
from typing import Any

import ray
from ray import serve

from holdfast import workflow
from holdfast.serve import start_http_events
from holdfast.workflow.http_event_provider import HTTPListener


@ray.remote(num_cpus=0)
def announce(expense_id: str, euros: int) -> str:
    # Here a mail would go out to whoever decides.
    return f"{expense_id} ({euros} EUR)"


@ray.remote(num_cpus=0)
def decide(announced: str, split: tuple[list[Any], list[Any]]) -> str:
    (first,), _ = split
    if first is None:
        # The sleep was over first, and its value is None.
        return f"{announced}: refused, nobody answered in time"
    _, answer = first
    return f"{announced}: {'approved' if answer['approved'] else 'refused'} by {answer['by']}"


def expense(expense_id: str, euros: int, limit_s: float) -> Any:
    """The graph of an expense: whichever comes first, the answer or the end of the time."""
    answer = workflow.wait_for_event(HTTPListener, event_key="answer")
    return decide.bind(announce.bind(expense_id, euros), workflow.wait([answer, workflow.sleep(limit_s)]))


def post(url: str, workflow_id: str, payload: dict[str, Any], idempotency_key: str) -> int:
    """Post an answer, as anybody could with curl. Returns the HTTP status."""
    request = urllib.request.Request(
        f"{url}/send_event/{workflow_id}",
        data=json.dumps({"event_key": "answer", "event_payload": payload}).encode(),
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def main() -> None:
    """Three expenses: one approved, one refused, one that nobody answers."""
    parser = argparse.ArgumentParser(description="Approval by HTTP with a time limit.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--by-hand", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(tempfile.mkdtemp(prefix="holdfast-approval-"))
    try:
        url = start_http_events(port=given.port)
        # Those that are answered below have all the time they need; by hand, each has a minute.
        limits_s = {"hotel": 3600.0, "yacht": 3600.0, "train": 1.0}
        answers = {
            name: workflow.run_async(expense(name, euros, 60.0 if given.by_hand else limits_s[name]), workflow_id=name)
            for name, euros in (("hotel", 240), ("yacht", 99000), ("train", 80))
        }
        if given.by_hand:
            print(f"curl -X POST {url}/send_event/hotel -H 'Content-Type: application/json' \\")
            print('    -d \'{"event_key": "answer", "event_payload": {"approved": true, "by": "me"}}\'', flush=True)
        else:
            print("hotel, posted:", post(url, "hotel", {"approved": True, "by": "Ada"}, "a-1"))
            print("hotel, posted again:", post(url, "hotel", {"approved": True, "by": "Ada"}, "a-1"))
            print("yacht, posted:", post(url, "yacht", {"approved": False, "by": "Grace"}, "g-1"))
        for reference in answers.values():
            print(ray.get(reference), flush=True)
        print("train, posted too late:", post(url, "train", {"approved": True, "by": "Ada"}, "a-2"))
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        workflow.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
