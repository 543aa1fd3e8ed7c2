"""Waking a workflow that has slept often: `python -m benchmarks.waking [--rounds N]`. No Ray, one store on disk.

A task sleeps, works and continues with itself, so that each round leaves two more tasks behind. Reported, as JSON, is
what one wake-up takes after so many rounds: from the timer to the durable command that starts the task. Beside it
stands what it would take without a snapshot, as after a crash.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine_line
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Batch, Deliver, FireTimer, Submit
from holdfast.engine.commands import StartTask
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.records import TimerSet
from holdfast.engine.signals import TaskContinued
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload

ROUND = Graph(
    nodes=(
        NodeSpec(task_id="sleep", kind=NodeKind.SLEEP, duration_s=60.0),
        NodeSpec(task_id="work", function="f" * 32, arguments=Payload(b"x" * 100), inputs=(0,)),
    ),
    sink=1,
)
LOOKS = 9
"""How many wake-ups a figure is the median of."""


class Sleeper:
    """The workflow and its executor."""

    def __init__(self, folder: StorageFolder) -> None:
        self._cores = (ExecutorCore(folder.kv, "e"), ExecutorCore(folder.kv, "e", snapshot_saves=math.inf))
        self._note(self._cores[0].perform([Submit(workflow_id="sleeper", graph=ROUND, nonce="n")], time.time()))

    def _note(self, batch: Batch) -> None:
        for row, record in batch.logged:
            self._seq = row.seq
            if isinstance(record, TimerSet):
                self._timer = record
        for _, command in batch.commands:
            if isinstance(command, StartTask):
                self._started = command

    def turn(self, *, snapshots: bool = True) -> tuple[float, float]:
        """One round. Seconds that waking took, and that putting away took."""
        core = self._cores[0 if snapshots else 1]
        due = self._timer.due_unix_s
        begun = time.perf_counter()
        woken = core.perform([FireTimer(seq=self._seq, task=self._timer.task, due_unix_s=due)], due)
        awake = time.perf_counter()
        self._note(woken)
        task = self._started
        signal = TaskContinued(task=task.task, attempt=task.attempt, started_unix_s=due, ended_unix_s=due, graph=ROUND)
        done = time.perf_counter()
        asleep = core.perform([Deliver(seq=self._seq, signal=signal)], due)
        end = time.perf_counter()
        self._note(asleep)
        return awake - begun, end - done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20_000, help="how often the workflow has slept in the end")
    rounds = parser.parse_args().rounds
    print(machine_line())
    with tempfile.TemporaryDirectory() as root:
        folder = StorageFolder.open(Path(root) / "storage")
        sleeper = Sleeper(folder)
        slept = 0
        for look in (10, 100, 1_000, rounds):
            for _ in range(look - slept - LOOKS):
                sleeper.turn()
            woke, put_away = zip(*(sleeper.turn() for _ in range(LOOKS)), strict=True)
            sleeper.turn(snapshots=False)
            without, _ = zip(*(sleeper.turn(snapshots=False) for _ in range(LOOKS)), strict=True)
            slept = look + LOOKS + 1
            figures = {"wake_ms": woke, "wake_without_ms": without, "put_away_ms": put_away}
            medians = {name: round(statistics.median(taken_s) * 1e3, 2) for name, taken_s in figures.items()}
            print(json.dumps({"rounds": look, **medians}))
        folder.close()


if __name__ == "__main__":
    main()
