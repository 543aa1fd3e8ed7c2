"""Thousands of listeners that poll at once: one process, and how much of it each one takes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import mark, marks
from tests.recovery.processes import replaced, the_one, until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("storage")]

POLLS = 2500
WITHIN_S = 120.0


class Patient(workflow.EventListener):
    """Polls for a file, as often as thousands of others can bear; notes in which process it begins."""

    async def poll_for_event(self, path, began, number):
        mark(began, f"{os.getpid()} {number}")
        while not os.path.exists(path):
            await asyncio.sleep(0.5)
        return Path(path).read_text()


@ray.remote(num_cpus=0)
def count(*texts):
    return len(texts)


def polled_in(pid: int, began: Path) -> set[str]:
    """Which have begun to poll in a process; some twice: all but a blocker move on from a loop that is held up."""
    return {line.partition(" ")[2] for line in marks(began) if line.startswith(f"{pid} ")}


def private_kib(pid: int) -> int:
    """What a process has in memory for itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_thousands_of_polls_share_one_process_and_survive_its_death(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    first = workflow.wait_for_event(Patient, str(tmp_path / "there"), str(tmp_path / "first"), 0)
    assert workflow.run(first) == ""
    host = the_one("listener host")
    memory, threads = private_kib(host.pid), threads_of(host.pid)
    gate, began = tmp_path / "gate", tmp_path / "began"
    waits = [workflow.wait_for_event(Patient, str(gate), str(began), number) for number in range(POLLS)]
    reference = workflow.run_async(count.bind(*waits), workflow_id="many")
    until(lambda: len(polled_in(host.pid, began)) == POLLS, "all of them poll", WITHIN_S)
    grown, more_threads = private_kib(host.pid) - memory, threads_of(host.pid) - threads
    print(f"\n{POLLS} polls: {grown / POLLS:.1f} KiB each, {more_threads} threads more ({threads} before)")
    assert the_one("listener host") == host
    # Next to what is measured (docs/semantics.md) a wide margin; a thread or a process each would be far beyond it.
    assert grown < 160 * POLLS
    assert more_threads < 20

    host.kill()
    successor = replaced("listener host", [host])
    until(lambda: len(polled_in(successor.pid, began)) == POLLS, "all of them poll again", WITHIN_S)
    assert {line.split()[0] for line in marks(began)} == {str(host.pid), str(successor.pid)}
    gate.write_text("")
    assert ray.get(reference, timeout=WITHIN_S) == POLLS
