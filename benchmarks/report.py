"""From measurements to a verdict: medians, spread, and the ratio to plain Ray of the same run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.naps import ASKED_KIB, ASKED_LATE_MS, ASLEEP_S, COUNT
from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All repeats of one workload.

    Attributes:
        workload: Its name in `WORKLOADS`.
        holdfast_s: Seconds, one per repeat.
        plain_ray_s: Seconds, one per repeat.
        logged_tasks: What was found in the reopened stores, one count per repeat.
        expected_tasks: What each store had to hold.
        commits: Transactions of Holdfast's, of two flushes each, one count per repeat.
        disk_flushes: Of the whole disk meanwhile, one count per repeat, where the system tells.
        peers_s: Seconds of other engines, by name, one per repeat.
    """

    workload: str
    holdfast_s: Sequence[float]
    plain_ray_s: Sequence[float]
    logged_tasks: Sequence[int]
    expected_tasks: int
    commits: Sequence[int]
    disk_flushes: Sequence[int] = ()
    peers_s: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Holdfast's speed as a part of plain Ray's, by medians."""
        return statistics.median(self.plain_ray_s) / statistics.median(self.holdfast_s)

    @property
    def asked_speed(self) -> float:
        """The speed that was asked for, as a part of plain Ray's."""
        return WORKLOADS[self.workload].asked_speed

    @property
    def met(self) -> bool:
        """Whether the speed is what was asked for."""
        return self.speed >= self.asked_speed

    @property
    def lost(self) -> bool:
        """Whether the speed is below half of what was asked for, where that had been reached before."""
        return WORKLOADS[self.workload].reached and self.speed < self.asked_speed / 2

    @property
    def durable(self) -> bool:
        """Whether every task of every repeat was found in the reopened store."""
        return all(found == self.expected_tasks for found in self.logged_tasks)


@dataclass(frozen=True, kw_only=True)
class Naps:
    """All repeats of the sleepers, of both engines: what `benchmarks.naps` says, with the engine's name."""

    rows: Sequence[Mapping[str, Any]]

    def median(self, engine: str, figure: str) -> float:
        """Of one figure, over the repeats."""
        return float(statistics.median(row[figure] for row in self.rows if row["engine"] == engine))

    @property
    def durable(self) -> bool:
        """Whether all were found in the stores when these were opened again."""
        return all(row["found"] == COUNT for row in self.rows if row["engine"] == "holdfast")

    @property
    def met(self) -> bool:
        """Whether they are as small and as punctual as was asked for."""
        small = self.median("holdfast", "kib_each") <= ASKED_KIB
        return small and self.median("holdfast", "late_p99_ms") <= ASKED_LATE_MS


def as_table(comparisons: Sequence[Comparison], caption: str) -> Table:
    """The comparisons, for people."""
    table = Table(title="Holdfast and plain Ray", title_style="bold", caption=caption, caption_justify="left")
    table.add_column("workload")
    table.add_column("Holdfast", justify="right")
    table.add_column("plain Ray", justify="right")
    table.add_column("speed", justify="right")
    table.add_column("logged", justify="right")
    table.add_column("commits, disk's flushes", justify="right")
    table.add_column("asked")
    peers = list(dict.fromkeys(name for comparison in comparisons for name in comparison.peers_s))
    for name in peers:
        table.add_column(PEERS[name].called, justify="right")
    for comparison in comparisons:
        workload = WORKLOADS[comparison.workload]
        verdict = "[green]met[/]" if comparison.met else "[bold red]not met[/]"
        durable = "[green]all[/]" if comparison.durable else "[bold red]NOT ALL[/]"
        table.add_row(
            workload.what,
            _milliseconds(comparison.holdfast_s),
            _milliseconds(comparison.plain_ray_s),
            f"{comparison.speed:.2f}x",
            f"{durable} of {comparison.expected_tasks}",
            _counts(comparison),
            f"{comparison.asked_speed:.3g}x: {verdict}",
            *(_of_peer(comparison, name) for name in peers),
        )
    return table


def naps_as_table(naps: Naps, caption: str) -> Table:
    """The sleepers, for people."""
    title = f"{COUNT:,} workflows that sleep {ASLEEP_S:g} s each, and calls of an actor of Ray's that do"
    table = Table(title=title, title_style="bold", caption=caption, caption_justify="left")
    for name in ("", "KiB each", "late, p50", "late, p99"):
        table.add_column(name, justify="right" if name else "left")
    for engine, called in (("holdfast", "Holdfast"), ("plain_ray", "plain Ray")):
        kib, middle, last = (naps.median(engine, name) for name in ("kib_each", "late_p50_ms", "late_p99_ms"))
        table.add_row(called, f"{kib:.1f}", f"{middle:.1f} ms", f"{last:.1f} ms")
    verdict = "[green]met[/]" if naps.met else "[bold red]not met[/]"
    lost = "" if naps.durable else "; [bold red]NOT ALL were found[/]"
    table.add_row(f"asked: {verdict}{lost}", f"{ASKED_KIB:g}", "", f"{ASKED_LATE_MS:g} ms")
    return table


def _counts(comparison: Comparison) -> str:
    flushes = f"{statistics.median(comparison.disk_flushes):,.0f}" if comparison.disk_flushes else "?"
    return f"{statistics.median(comparison.commits):,.0f}, {flushes}"


def _of_peer(comparison: Comparison, name: str) -> str:
    seconds = comparison.peers_s.get(name)
    if not seconds:
        return ""
    speed = statistics.median(comparison.plain_ray_s) / statistics.median(seconds)
    return f"{1000 * statistics.median(seconds):,.1f} ms, {speed:.2f}x"


def _milliseconds(seconds: Sequence[float]) -> str:
    """Median and spread."""
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    digits = 2 if middle < 100 else 0
    return f"{middle:,.{digits}f} ms ({low:,.{digits}f}..{high:,.{digits}f})"
