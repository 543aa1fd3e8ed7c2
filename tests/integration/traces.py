"""What tasks and workflows leave behind for a test to see, and how one waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from holdfast import workflow

DEADLINE_S = 30.0


def mark(path: str | os.PathLike[str], text: str = "") -> None:
    """Add a line to a file: the trace of one execution."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def put(path: str | os.PathLike[str], text: str) -> None:
    """Write a file: whoever waits for it to be there finds it whole."""
    unfinished = Path(f"{os.fspath(path)}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def marks(path: str | os.PathLike[str]) -> list[str]:
    """The traces so far."""
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def in_memory() -> int:
    """How many workflows executors hold: one that only waits is put away, and one not yet taken up is not there."""
    return sum(executor["in_memory"] for executor in workflow.platform_status()["executors"])


def wait_for(condition: Callable[[], object], what: str = "what the test waits for") -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {DEADLINE_S:g} s")
        time.sleep(0.01)


def wait_for_file(path: str | os.PathLike[str]) -> None:
    """Wait for a file: a gate that a test opens, or a trace that a task leaves."""
    wait_for(lambda: os.path.exists(path), f"the file {path}")


def wait_until_begun(workflow_id: str, task_id: str) -> None:
    """Wait for the begin of a task: an executor may take a workflow up only after `run_async` has returned."""
    wait_for(lambda: "start_time" in workflow.get_metadata(workflow_id, task_id)["stats"], f"the begin of {task_id}")
