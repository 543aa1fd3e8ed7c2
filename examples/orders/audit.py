"""The audit: what the outside world's books say, held against the orders and against Holdfast's status.

Each finding is one question with what should be and what is. The books are read, never the logs of
the program that is being audited.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.table import Table

from examples.orders.orders_file import Order
from examples.orders.outside import OPENING_STOCK, Outside
from examples.orders.process import OUTCOMES, SHIPPED
from examples.orders.report import Report

# The stage an operation belongs to. A stage begins only when the one before it was logged, so a call of an
# earlier stage after one of a later stage is a logged task that was run again.
STAGE_SQL = "CASE operation WHEN 'reserve' THEN 1 WHEN 'charge' THEN 2 WHEN 'receipt' THEN 4 ELSE 3 END"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One question of the audit."""

    question: str
    expected: object
    found: object

    @property
    def passed(self) -> bool:
        """Whether the books are as they should be."""
        return self.expected == self.found


def audit(outside: Outside, orders: Iterable[Order], statuses: Mapping[str, str], nightly: Report) -> list[Finding]:
    """Hold the books against the orders.

    Args:
        outside: The world with the books.
        orders: Every good order of the file.
        statuses: Holdfast's status of each workflow, by order id.
        nightly: The nightly report, which was made when all was done.
    """
    wanted = {order.order_id: order for order in orders}
    with outside.connected() as db:
        receipts: dict[str, str] = dict(db.execute("SELECT order_id, outcome FROM receipts"))
        shipped = [wanted[order_id] for order_id, outcome in receipts.items() if outcome == SHIPPED]
        return [
            Finding(question="orders with a receipt", expected=len(wanted), found=len(receipts.keys() & wanted.keys())),
            Finding(question="receipts nobody ordered", expected=0, found=len(receipts.keys() - wanted.keys())),
            Finding(
                question="orders with an outcome that is none",
                expected=0,
                found=sum(outcome not in OUTCOMES for outcome in receipts.values()),
            ),
            Finding(
                question="workflows that are SUCCESSFUL",
                expected=len(wanted),
                found=sum(statuses.get(order_id) == "SUCCESSFUL" for order_id in wanted),
            ),
            Finding(
                question="money kept, in cents, is that of the shipped orders",
                expected=sum(order.total_cents for order in shipped),
                found=_number(db, "SELECT COALESCE(SUM(cents), 0) FROM payments"),
            ),
            Finding(
                question="money on receipts, in cents",
                expected=sum(order.total_cents for order in shipped),
                found=_number(db, "SELECT COALESCE(SUM(paid_cents), 0) FROM receipts"),
            ),
            Finding(
                question="stock left is what the shipped orders leave",
                expected={
                    sku: opening - sum(order.items.get(sku, 0) for order in shipped)
                    for sku, opening in OPENING_STOCK.items()
                },
                found=_stock_left(db),
            ),
            Finding(
                question="pieces sent in parcels",
                expected=sum(sum(order.items.values()) for order in shipped),
                found=_number(db, "SELECT COALESCE(SUM(quantity), 0) FROM parcels"),
            ),
            Finding(
                question="parcels of orders that were not shipped",
                expected=0,
                found=_number(
                    db,
                    "SELECT COUNT(*) FROM parcels WHERE order_id NOT IN "
                    f"(SELECT order_id FROM receipts WHERE outcome = '{SHIPPED}')",
                ),
            ),
            Finding(
                question="operations that took effect twice",
                expected=0,
                found=_number(
                    db,
                    "SELECT COUNT(*) FROM (SELECT 1 FROM calls WHERE said IN ('done', 'hung') "
                    "GROUP BY order_id, operation HAVING COUNT(*) > 1)",
                ),
            ),
            Finding(question="logged tasks that were run again", expected=0, found=_logged_and_run_again(db)),
            Finding(
                question="the nightly report",
                expected=_due_report(wanted, receipts),
                found=nightly,
            ),
        ]


def as_table(findings: Iterable[Finding]) -> Table:
    """The findings, for people."""
    table = Table(title="Audit", title_style="bold")
    table.add_column("what")
    table.add_column("should be", justify="right")
    table.add_column("is", justify="right")
    table.add_column("")
    for finding in findings:
        mark = "[green]ok[/]" if finding.passed else "[bold red]WRONG[/]"
        table.add_row(finding.question, _short(finding.expected), _short(finding.found), mark)
    return table


def _due_report(orders: Mapping[str, Order], receipts: Mapping[str, str]) -> Report:
    """What the nightly report should say: the outcomes of the receipts, and the money of the orders."""
    outcomes: dict[str, tuple[int, int]] = {}
    for order_id, outcome in receipts.items():
        count, cents = outcomes.get(outcome, (0, 0))
        paid = orders[order_id].total_cents if outcome == SHIPPED and order_id in orders else 0
        outcomes[outcome] = (count + 1, cents + paid)
    return Report(outcomes=outcomes)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{sum(value.values()):,} pieces"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(db: sqlite3.Connection, query: str) -> int:
    (number,) = db.execute(query).fetchone()
    return int(number)


def _stock_left(db: sqlite3.Connection) -> dict[str, int]:
    query = (
        "SELECT sku, quantity + COALESCE((SELECT SUM(change) FROM movements WHERE movements.sku = opening.sku), 0) "
        "FROM opening"
    )
    return dict(db.execute(query))


def _logged_and_run_again(db: sqlite3.Connection) -> int:
    return _number(
        db,
        f"WITH staged AS (SELECT order_id, seq, {STAGE_SQL} AS stage FROM calls) "
        "SELECT COUNT(*) FROM staged AS late WHERE EXISTS (SELECT 1 FROM staged AS early WHERE "
        "early.order_id = late.order_id AND early.stage > late.stage AND early.seq < late.seq)",
    )
