"""Run the benchmarks: `python -m benchmarks.run --repeat 3 --only chain,fanout --json out.jsonl`.

Each measurement has its own process, its own Ray and an empty store. Holdfast and plain Ray take turns,
and which of them goes first changes with each repeat, so that a slow minute of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import machine_line
from benchmarks.peers import PEERS, python_of
from benchmarks.report import Comparison, Naps, as_table, naps_as_table
from benchmarks.workloads import WORKLOADS

PROJECT = Path(__file__).resolve().parents[1]
MEASUREMENT_LIMIT_S = 300
NAPS = "sleepers"
REPEATS_OF_SLOW = 2


class MeasurementError(Exception):
    """A measurement did not come to its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. Returns 1 when a store had lost a task; a missed speed is only shown.

    With `--guard` also when a speed is below half of what is asked, and stays so when it is measured twice more.
    """
    asked = _parser().parse_args(arguments)
    known = [*WORKLOADS, NAPS]
    names = asked.only.split(",") if asked.only else known
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no workload {unknown[0]!r}; there are {', '.join(known)}")
    peers = [name for name in asked.peers.split(",") if name]
    if unknown := [name for name in peers if name not in PEERS]:
        raise SystemExit(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    pythons = {name: python_of(name) for name in peers}
    console = Console(stderr=True)
    machine = machine_line()
    rows: list[dict[str, Any]] = []

    def measure(repeat: int, name: str, of: int) -> None:
        console.print(f"repeat {repeat + 1} of {of}: {name}", highlight=False)
        measured = _measure_both(name, repeat, "benchmarks.naps" if name == NAPS else "benchmarks.measure")
        measured += [
            _measure_peer(peer, python, name) for peer, python in pythons.items() if name in PEERS[peer].workloads
        ]
        rows.extend({"machine": machine, "repeat": repeat, **row} for row in measured)

    for repeat in range(asked.repeat):
        for name in names:
            measure(repeat, name, asked.repeat)
    guarded = [name for name in names if name != NAPS] if asked.guard else []
    for name in [name for name in guarded if _compare(name, rows).lost]:
        # A machine has slow seconds.
        for repeat in range(asked.repeat, asked.repeat + REPEATS_OF_SLOW):
            measure(repeat, name, asked.repeat + REPEATS_OF_SLOW)
    if asked.json is not None:
        asked.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    caption = f"median (lowest..highest) of {asked.repeat}; {machine}"
    comparisons = [_compare(name, rows) for name in names if name != NAPS]
    if comparisons:
        Console().print(as_table(comparisons, caption=caption))
    naps = [Naps(rows=[row for row in rows if row["workload"] == NAPS])] if NAPS in names else []
    for one in naps:
        Console().print(naps_as_table(one, caption=caption))
    durable = all(one.durable for one in comparisons) and all(one.durable for one in naps)
    slower = [name for name in guarded if _compare(name, rows).lost]
    for name in slower:
        console.print(f"{name} is below half of what is asked, and was not before", style="bold red")
    return 0 if durable and not slower else 1


def _measure_both(name: str, repeat: int, module: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        storage = str(Path(folder) / "store")
        rows: list[dict[str, Any]] = []
        for engine in ("holdfast", "plain_ray") if repeat % 2 == 0 else ("plain_ray", "holdfast"):
            if name == NAPS:
                # It counts what it finds by itself.
                rows.append({"workload": name, "engine": engine, **_measure(module, engine, storage)})
                continue
            rows.append({"workload": name, "engine": engine, **_measure(module, engine, name, storage)})
            if engine == "holdfast":
                rows[-1].update(_measure(module, "recount", name, storage))
        return rows


def _measure_peer(peer: str, python: Path, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        seconds = _measure(f"benchmarks.peers.{peer}", name, str(Path(folder) / "store"), python=python)
    return {"workload": name, "engine": peer, **seconds}


def _measure(module: str, engine: str, *arguments: str, python: Path | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [python or sys.executable, "-m", module, engine, *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=MEASUREMENT_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise MeasurementError(f"{engine} {arguments[0]} ended with status {done.returncode}; its output is above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _compare(name: str, rows: Sequence[dict[str, Any]]) -> Comparison:
    ours = [row for row in rows if row["workload"] == name and row["engine"] == "holdfast"]
    plain = [row for row in rows if row["workload"] == name and row["engine"] == "plain_ray"]
    return Comparison(
        workload=name,
        holdfast_s=[row["seconds"] for row in ours],
        plain_ray_s=[row["seconds"] for row in plain],
        logged_tasks=[row["logged_tasks"] for row in ours],
        expected_tasks=ours[0]["expected_tasks"],
        peers_s={peer: found for peer in PEERS if (found := _seconds(rows, name, peer))},
    )


def _seconds(rows: Sequence[dict[str, Any]], name: str, engine: str) -> list[float]:
    return [row["seconds"] for row in rows if row["workload"] == name and row["engine"] == engine]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each workload (default: 3)")
    parser.add_argument("--only", default="", help=f"some of {','.join([*WORKLOADS, NAPS])} (default: all)")
    parser.add_argument("--peers", default="", help=f"other engines to measure, too: some of {','.join(PEERS)}")
    parser.add_argument("--guard", action="store_true", help="fail when a speed is below half of what is asked")
    parser.add_argument("--json", type=Path, default=None, help="file for one JSON line per measurement")
    return parser


if __name__ == "__main__":
    sys.exit(main())
