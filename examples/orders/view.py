"""What one sees while the orders run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from examples.orders.outside import Outside
from examples.orders.process import OUTCOMES

PLAIN_LINE_INTERVAL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the orders are, as the outside world sees it."""

    total: int
    submitted: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    parcels: int = 0
    charge_failures: int = 0
    charge_timeouts: int = 0
    repeated_calls: int = 0
    killed: int = 0

    @property
    def closed(self) -> int:
        """Orders with a receipt."""
        return sum(self.outcomes.values())

    @property
    def line(self) -> str:
        """All of it on one line."""
        counts = ", ".join(f"{self.outcomes.get(outcome, 0)} {outcome}" for outcome in OUTCOMES)
        return (
            f"{self.closed}/{self.total} closed ({counts}); {self.parcels} parcels; "
            f"{self.charge_failures} charges failed, {self.charge_timeouts} timed out, {self.killed} processes killed"
        )


def look(outside: Outside, *, total: int, submitted: int, killed: int) -> Progress:
    """Read the progress off the outside world."""
    with outside.connected() as db:
        outcomes = dict(db.execute("SELECT outcome, COUNT(*) FROM receipts GROUP BY outcome"))
        said = Counter(dict(db.execute("SELECT said, COUNT(*) FROM calls GROUP BY said")))
        (parcels,) = db.execute("SELECT COUNT(*) FROM parcels").fetchone()
    return Progress(
        total=total,
        submitted=submitted,
        outcomes=outcomes,
        parcels=parcels,
        charge_failures=said["failed"],
        charge_timeouts=said["hung"],
        repeated_calls=said["again"],
        killed=killed,
    )


class View:
    """Shows progress. Use it as a context manager: a live table has to be taken off the terminal again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=8, redirect_stdout=False, redirect_stderr=False)
            if console.is_terminal
            else None
        )
        self._last_line = ""
        self._last_line_at_s = float("-inf")

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Bring the picture up to date. May be called as often as one likes."""
        if self._live is not None:
            self._live.update(_picture(progress))
            return
        now_s = time.monotonic()
        due = now_s - self._last_line_at_s >= PLAIN_LINE_INTERVAL_S or progress.closed == progress.total
        if due and progress.line != self._last_line:
            self._last_line, self._last_line_at_s = progress.line, now_s
            self._console.print(progress.line, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """Say something that stays on the screen."""
        self._console.print(text, style=style, highlight=False, soft_wrap=True)


def _picture(progress: Progress) -> Group:
    table = Table(show_header=False, box=None, padding=(0, 2))
    for outcome in OUTCOMES:
        table.add_row(outcome, str(progress.outcomes.get(outcome, 0)))
    table.add_row("on their way", str(progress.submitted - progress.closed))
    table.add_section()
    table.add_row("parcels sent", str(progress.parcels))
    table.add_row("charges that failed, tried again", str(progress.charge_failures))
    table.add_row("charges that timed out, tried again", str(progress.charge_timeouts))
    table.add_row("calls repeated after a crash or time-out", str(progress.repeated_calls))
    table.add_row("processes killed", str(progress.killed), style="bold red" if progress.killed else "")
    bar = ProgressBar(total=max(progress.total, 1), completed=progress.closed, width=60)
    return Group(f"{progress.closed} of {progress.total} orders closed", Padding(bar, (0, 0, 1, 0)), table)
