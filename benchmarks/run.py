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
from collections.abc import Mapping, Sequence
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
INTERRUPTED = 130
WIDE = 180
"""Columns of a table that goes into a file."""


class MeasurementError(Exception):
    """A measurement did not come to its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and show what was measured, also when it is interrupted.

    Returns:
        1 when a store had lost a task, or a measurement failed; a missed speed is only shown. With `--guard` also when
        a speed is below half of what is asked, and stays so when it is measured twice more. 130 after Ctrl-C.
    """
    asked = _parser().parse_args(arguments)
    known = [*WORKLOADS, NAPS]
    names = asked.only.split(",") if asked.only else known
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no workload {unknown[0]!r}; there are {', '.join(known)}")
    peers = [name for name in asked.peers.split(",") if name]
    if unknown := [name for name in peers if name not in PEERS]:
        raise SystemExit(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    series = _Series(names, {name: python_of(name) for name in peers}, asked.json)
    try:
        for repeat in range(asked.repeat):
            for name in names:
                series.measure(repeat, name, asked.repeat)
        if asked.guard:
            for name in series.slow():
                # A machine has slow seconds.
                for repeat in range(asked.repeat, asked.repeat + REPEATS_OF_SLOW):
                    series.measure(repeat, name, asked.repeat + REPEATS_OF_SLOW)
    except KeyboardInterrupt:
        series.show()
        return INTERRUPTED
    good = series.show()
    slower = series.slow() if asked.guard else []
    for name in slower:
        series.console.print(f"{name} is below half of what is asked, and was not before", style="bold red")
    return 0 if good and not slower else 1


class _Series:
    """What has been measured so far.

    Args:
        names: Of the workloads.
        peers: Other engines, and the Python of each.
        file: Where a JSON line of each measurement goes as soon as it is made; None for nowhere.
    """

    def __init__(self, names: Sequence[str], peers: Mapping[str, Path], file: Path | None) -> None:
        self.console = Console(stderr=True)
        self._names, self._peers, self._file = names, peers, file
        self._machine = machine_line()
        self._rows: list[dict[str, Any]] = []
        self._failed: dict[str, None] = {}
        if file is not None:
            file.write_text("")

    def measure(self, repeat: int, name: str, of: int) -> None:
        """Measure a workload once, with all engines, and say what came of it. One that failed is not tried again."""
        if name in self._failed:
            return
        self.console.print(f"repeat {repeat + 1} of {of}: {name}", highlight=False)
        try:
            measured = _measure_both(name, repeat, "benchmarks.naps" if name == NAPS else "benchmarks.measure")
            measured += [
                _measure_peer(peer, python, name)
                for peer, python in self._peers.items()
                if name in PEERS[peer].workloads
            ]
        except (MeasurementError, subprocess.TimeoutExpired) as error:
            self._failed[name] = None
            self.console.print(f"{name} could not be measured: {error}", style="bold red")
            return
        rows = [{"machine": self._machine, "repeat": repeat, **row} for row in measured]
        self._rows.extend(rows)
        if self._file is not None:
            with self._file.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        if name != NAPS:
            once = _compare(name, rows)
            self.console.print(f"  {once.speed:.2f}x plain Ray, {once.asked_speed:.3g}x asked", highlight=False)

    def slow(self) -> list[str]:
        """Workloads that are below half of what is asked, and were not before."""
        return [one.workload for one in self._comparisons() if one.lost]

    def show(self) -> bool:
        """Print the tables. Returns whether all was measured, and nothing lost."""
        repeats = 1 + max((row["repeat"] for row in self._rows), default=0)
        caption = f"median (lowest..highest) of {repeats} at most; {self._machine}"
        comparisons = self._comparisons()
        out = Console(width=None if sys.stdout.isatty() else WIDE)
        if comparisons:
            out.print(as_table(comparisons, caption=caption))
        slept = [row for row in self._rows if row["workload"] == NAPS]
        naps = [Naps(rows=slept)] if slept else []
        for one in naps:
            out.print(naps_as_table(one, caption=caption))
        durable = all(one.durable for one in comparisons) and all(one.durable for one in naps)
        return durable and not self._failed

    def _comparisons(self) -> list[Comparison]:
        measured = {row["workload"] for row in self._rows}
        return [_compare(name, self._rows) for name in self._names if name in measured and name != NAPS]


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
        commits=[row["commits"] for row in ours],
        disk_flushes=[row["disk_flushes"] for row in ours if row["disk_flushes"] is not None],
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
    parser.add_argument(
        "--json", type=Path, default=None, help="file for one JSON line per measurement, written as they are made"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
