"""Tasks that run until a test lets them end, so that nothing depends on how long something takes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray

from holdfast import workflow
from holdfast.workflow.http_event_provider import HTTPListener
from tests.recovery.audit import note


@ray.remote(max_retries=-1)
def behind_a_gate(audit: str, gate: str) -> str:
    """Run until the file `gate` is there."""
    note(audit)
    while not Path(gate).exists():
        time.sleep(0.02)
    return "through"


@ray.remote(max_retries=-1)
def after(audit: str, before: Any) -> str:
    note(audit)
    return f"after {before}"


def gate_then_after(audit: Path, gate: Path) -> Any:
    """Two tasks: the first runs until the gate is open, the second takes its value: "after through"."""
    return after.bind(str(audit), behind_a_gate.bind(str(audit), str(gate)))


def hear_and_tell(audit: str) -> Any:
    """Wait for the event "news"; the value is "after ('news', <payload>)"."""
    return after.bind(audit, workflow.wait_for_event(HTTPListener, event_key="news"))
