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


def polls(began: Path, but_in: int = 0) -> set[str]:
    """Which have begun to poll; some twice, for all but a blocker move on from a loop that is held up.

    Args:
        began: Where they say so.
        but_in: A process that does not count.
    """
    return {line.partition(" ")[2] for line in marks(began) if not line.startswith(f"{but_in} ")}


def processes(began: Path) -> set[int]:
    """In which they have."""
    return {int(line.partition(" ")[0]) for line in marks(began)}


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
    until(lambda: len(polls(began)) == POLLS, "all of them poll", WITHIN_S)
    grown, more_threads = private_kib(host.pid) - memory, threads_of(host.pid) - threads
    print(f"\n{POLLS} polls: {grown / POLLS:.1f} KiB each, {more_threads} threads more ({threads} before)")
    assert the_one("listener host") == host
    assert processes(began) == {host.pid}
    # Next to what is measured (docs/semantics.md) a wide margin; a thread or a process each would be far beyond it.
    assert grown < 160 * POLLS
    assert more_threads < 20

    host.kill()
    successor = replaced("listener host", [host])
    until(lambda: len(polls(began, but_in=host.pid)) == POLLS, "all of them poll again", WITHIN_S)
    # One that took a step when the process died may be the reason, and polls apart from the others.
    assert {host.pid, successor.pid} <= processes(began)
    assert len(processes(began)) <= 3
    gate.write_text("")
    assert ray.get(reference, timeout=WITHIN_S) == POLLS
