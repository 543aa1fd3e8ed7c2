"""A driver that makes a virtual actor on a Ray of its own, calls it, and says what was acknowledged.

Started as `python -m tests.recovery.actor_driver STORAGE GATE COUNT`. With a COUNT of 0 it only reads.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray

from holdfast import workflow

NAMES = ("book", "books")
"""One for each host of the first cluster."""


@workflow.virtual_actor
class Book:
    def __init__(self) -> None:
        self.lines: list[int] = []

    def write(self, gate: str, number: int) -> int:
        if number >= 5:
            # The first ones are done when the cluster is lost, the others are not.
            deadline = time.monotonic() + 120
            while not Path(gate).exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self.lines.append(number)
        return len(self.lines)

    @workflow.virtual_actor.readonly
    def read(self) -> list[int]:
        return self.lines


def say(word: str, value: Any) -> None:
    print(word, json.dumps(value), flush=True)


def main(storage: str, gate: str, count: int) -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    # The first cluster has hosts that the second one does not have.
    workflow.init(storage, executors=2 if count else 1)
    if count:
        books = [Book.get_or_create(name) for name in NAMES]
        for number in range(count):
            for book in books:
                book.write.run_async(gate, number)
            say("ACK", number)
        sys.stdin.read()
    deadline = time.monotonic() + 90
    for name in NAMES:
        while workflow.get_status(name) != workflow.SUCCESSFUL:
            assert time.monotonic() < deadline, workflow.describe(name)
            time.sleep(0.05)
        say("LINES", workflow.get_actor(name).read.run())
    workflow.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
