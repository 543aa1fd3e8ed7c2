"""Tasks that share a worker because they are tiny, and those among them that are not after all."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from tests.integration.leftovers import until

pytestmark = pytest.mark.usefixtures("platform")

WAIT_S = 60.0


@ray.remote
def note(folder: Path, number: int, gate: Path | None = None, *, dies: bool = False) -> int:
    """Leaves a mark for each run; waits for a file, or ends its process the first time."""
    first = not (folder / str(number)).exists()
    with (folder / str(number)).open("a") as marks:
        marks.write(f"{os.getpid()}\n")
    if dies and first:
        os._exit(1)
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    return number


@ray.remote
def total(*numbers: int) -> int:
    return sum(numbers)


def runs_of(folder: Path) -> dict[int, list[str]]:
    return {int(one.name): one.read_text().split() for one in folder.iterdir()}


@pytest.fixture
def marks(wid: str, tmp_path: Path) -> Path:
    """A folder for marks; that the function is tiny is known."""
    warm, folder = tmp_path / "warm", tmp_path / "marks"
    warm.mkdir()
    folder.mkdir()
    workflow.run(total.bind(*(note.bind(warm, number) for number in range(40))), workflow_id=f"{wid}-warm")
    return folder


def test_many_run_in_few_ray_tasks_and_each_once(wid: str, marks: Path) -> None:
    nodes = [note.bind(marks, number) for number in range(500)]
    assert workflow.run(total.bind(*nodes), workflow_id=wid) == sum(range(500))
    runs = runs_of(marks)
    assert {number: len(pids) for number, pids in runs.items()} == dict.fromkeys(range(500), 1)


def test_one_that_takes_long_holds_nobody_up(wid: str, marks: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    nodes = [note.bind(marks, number, gate if number == 5 else None) for number in range(100)]
    reference = workflow.run_async(total.bind(*nodes), workflow_id=wid)
    until(lambda: len(runs_of(marks)) == 100, WAIT_S)
    assert workflow.get_status(wid) == "RUNNING"
    gate.touch()
    assert ray.get(reference, timeout=WAIT_S) == sum(range(100))
    assert {len(pids) for pids in runs_of(marks).values()} == {1}


def test_a_worker_that_dies_takes_only_the_task_that_ran(wid: str, marks: Path) -> None:
    nodes = [note.bind(marks, number, dies=number == 7) for number in range(60)]
    assert workflow.run(total.bind(*nodes), workflow_id=wid) == sum(range(60))
    counts = Counter({number: len(pids) for number, pids in runs_of(marks).items()})
    assert counts.pop(7) == 2
    assert set(counts.values()) == {1}


def test_one_that_follows_runs_where_its_input_was_made(wid: str, marks: Path) -> None:
    @ray.remote
    def after(number: int, folder: Path) -> int:
        with (folder / f"{1000 + number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return number + 1

    node = note.bind(marks, 0)
    for _ in range(30):
        node = after.bind(node, marks)
    assert workflow.run(node, workflow_id=f"{wid}-first") == 30
    for one in marks.iterdir():
        one.unlink()
    assert workflow.run(node, workflow_id=wid) == 30
    counts = {number: len(pids) for number, pids in runs_of(marks).items()}
    assert counts == dict.fromkeys([0, *range(1000, 1030)], 1)
