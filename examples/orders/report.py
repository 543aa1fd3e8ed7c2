"""The nightly report: a schedule that outlives the program that made it, as the workflows do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import ray
from ray.exceptions import GetTimeoutError
from rich.table import Table

from examples.orders.outside import Outside
from holdfast import workflow

SCHEDULE = "nightly-report"
CRON = "0 2 * * *"
PATIENCE_S = 60.0


class NoReportError(Exception):
    """The report was asked for and did not come."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the books said when it was made.

    Attributes:
        outcomes: Of each outcome, how many orders had it and how many cents they paid.
    """

    outcomes: Mapping[str, tuple[int, int]]

    def __str__(self) -> str:
        orders = sum(count for count, _ in self.outcomes.values())
        cents = sum(cents for _, cents in self.outcomes.values())
        return f"{orders:,} orders, {cents / 100:,.2f}"


@ray.remote(**workflow.options(task_id="report"))
def report(outside: Outside) -> Report:
    """The whole graph of the schedule: one task."""
    return read_books(outside)


def read_books(outside: Outside) -> Report:
    """Count the receipts and their money, by outcome."""
    with outside.connected() as db:
        rows = db.execute("SELECT outcome, COUNT(*), SUM(paid_cents) FROM receipts GROUP BY outcome").fetchall()
    return Report(outcomes={outcome: (count, cents) for outcome, count, cents in rows})


def schedule_report(outside: Outside) -> None:
    """Have a report made every night. The same again: no effect."""
    # "allow": one that is asked for by hand is not skipped when that happens at two at night.
    workflow.schedule(SCHEDULE, report.bind(outside), cron=CRON, overlap="allow", replace=True)


def next_night() -> datetime:
    """When the next report is due."""
    nights: list[datetime] = workflow.describe_schedule(SCHEDULE)["next_runs"]
    return nights[0]


def report_of_tonight() -> Report:
    """Have tonight's report now.

    Raises:
        NoReportError: It did not come.
    """
    run = workflow.trigger_schedule(SCHEDULE)
    if run is None:
        raise NoReportError(f"the run of {SCHEDULE} was skipped")
    try:
        made: Report = ray.get(workflow.get_output_async(run), timeout=PATIENCE_S)
    except GetTimeoutError:
        raise NoReportError(f"{run} was started and has not ended in {PATIENCE_S:g} s") from None
    return made


def as_table(made: Report) -> Table:
    """The report, for people."""
    table = Table(title="Nightly report", title_style="bold")
    table.add_column("outcome")
    table.add_column("orders", justify="right")
    table.add_column("money", justify="right")
    for outcome, (count, cents) in made.outcomes.items():
        table.add_row(outcome, f"{count:,}", f"{cents / 100:,.2f}")
    return table
