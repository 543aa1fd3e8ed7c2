"""Long chains of tiny tasks, which a worker runs ahead of its executor, while processes of theirs are killed."""

from __future__ import annotations

import secrets
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import ray

from holdfast import workflow
from tests.recovery.processes import end, of_role, until

LINKS = 2_000
KILLS = 5
ANSWER_S = 120.0


@ray.remote(max_retries=-1)
def link(trace: str, number: int, before: str) -> str:
    """Takes what the link before gave, and gives what nobody could guess."""
    given = secrets.token_hex(8)
    with Path(trace).open("a") as file:
        file.write(f"{number} {before} {given}\n")
    return given


def begun(trace: Path) -> int:
    return trace.read_bytes().count(b"\n") if trace.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("role", "seed"), [("worker", 1), ("executor", 2)])
def test_each_link_takes_what_is_durable_and_a_death_costs_the_one_that_ran(
    role: str, seed: int, storage: Path, tmp_path: Path
) -> None:
    random, trace = Random(seed), tmp_path / "trace"
    # From then on it is known that a link is tiny.
    workflow.run(link.bind(str(tmp_path / "before"), 0, ""), workflow_id="before")
    node: Any = "nothing"
    for number in range(LINKS):
        node = link.bind(str(trace), number, node)
    value = workflow.run_async(node, workflow_id="chain")
    for mark in sorted(random.sample(range(10, LINKS - 10), KILLS)):
        until(lambda mark=mark: begun(trace) >= mark, f"link {mark} has run")
        end(until(lambda: of_role(role), f"there is a {role}"))
    result = ray.get(value, timeout=ANSWER_S)

    taken, given = defaultdict(set), defaultdict(set)
    lines = [line.split() for line in trace.read_text().splitlines()]
    for number, before, after in lines:
        taken[int(number)].add(before)
        given[int(number)].add(after)
    assert sorted(taken) == list(range(LINKS))
    # What a link has taken was durable: nobody has ever taken anything else in its place.
    assert {number: inputs for number, inputs in taken.items() if len(inputs) > 1} == {}
    assert all(taken[number] <= given[number - 1] for number in range(1, LINKS))
    assert result in given[LINKS - 1]
    assert LINKS <= len(lines) <= LINKS + KILLS
