"""All of Ray dies at once: what was acknowledged of a virtual actor takes effect on the next cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from holdfast.actors import names
from tests.recovery.actor_driver import NAMES
from tests.recovery.drivers import PROJECT
from tests.recovery.processes import descendants, end, until


def start(storage: Path, gate: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.recovery.actor_driver", str(storage), str(gate), str(count)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_the_actors_of_the_driver_are_those_of_two_hosts() -> None:
    assert {names.virtual_host_for(name, "", 2) for name in NAMES} == {names.virtual_host_name("", n) for n in (0, 1)}


def test_what_was_acknowledged_takes_effect_on_the_next_cluster(tmp_path: Path) -> None:
    storage, gate = tmp_path / "storage", tmp_path / "gate"
    first = start(storage, gate, 20)
    try:
        assert first.stdout is not None
        acknowledged = []
        for line in first.stdout:
            word, _, said = line.partition(" ")
            if word == "ACK":
                acknowledged.append(json.loads(said))
            if len(acknowledged) == 20:
                break
        assert acknowledged == list(range(20))
    finally:
        below = descendants(first.pid)
        first.kill()
        end(sorted(below, key=lambda process: process.started))
        first.communicate()
    until(lambda: not any(process.alive for process in below), "the cluster's processes end")
    gate.touch()
    second = start(storage, gate, 0)
    try:
        said, _ = second.communicate(timeout=150)
    finally:
        end([*descendants(second.pid)])
    lines = [json.loads(line.partition(" ")[2]) for line in said.splitlines() if line.startswith("LINES")]
    assert lines == [list(range(20))] * 2
