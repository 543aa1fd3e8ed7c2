"""The orders as they arrive: a CSV file, in which some rows are wrong.

A wrong row is a value, not an exception: the rest of the file is good and must not wait for it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ["order_id", "customer", "items", "total_cents"]

PRICE_CENTS: Mapping[str, int] = {
    "chair": 8900,
    "clock": 3900,
    "desk": 24900,
    "lamp": 4900,
    "mirror": 9900,
    "plant": 2500,
    "rug": 12900,
    "shelf": 7900,
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One order that makes sense."""

    order_id: str
    customer: str
    items: Mapping[str, int]
    total_cents: int


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that was skipped, by its line in the file and the reason."""

    line: int
    reason: str


def read_orders(path: Path) -> tuple[list[Order], list[BadRow]]:
    """Read the file, good rows and bad ones, each in the order of the file."""
    orders: list[Order] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        if next(rows, None) != COLUMNS:
            raise ValueError(f"{path}, line 1: the columns must be {','.join(COLUMNS)}")
        for row in rows:
            try:
                order = _order(row)
                if order.order_id in seen:
                    raise ValueError(f"{order.order_id} is already on line {seen[order.order_id]}")
            except ValueError as problem:
                bad.append(BadRow(line=rows.line_num, reason=str(problem)))
            else:
                seen[order.order_id] = rows.line_num
                orders.append(order)
    return orders, bad


def _order(row: list[str]) -> Order:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} columns where {len(COLUMNS)} belong")
    order_id, customer, item_words, total = row
    if not customer:
        raise ValueError(f"{order_id} has no customer")
    items = dict(_item(word) for word in item_words.split())
    if not items:
        raise ValueError(f"{order_id} orders nothing")
    due_cents = sum(PRICE_CENTS[sku] * quantity for sku, quantity in items.items())
    if total != str(due_cents):
        raise ValueError(f"the total of {order_id} is given as {total} but its items cost {due_cents}")
    return Order(order_id=order_id, customer=customer, items=items, total_cents=due_cents)


def _item(word: str) -> tuple[str, int]:
    sku, _, quantity = word.partition(":")
    if sku not in PRICE_CENTS:
        raise ValueError(f"there is no article {sku!r}")
    if not quantity.isdecimal() or int(quantity) == 0:
        raise ValueError(f"the quantity of {sku} must be a whole number of at least 1, not {quantity!r}")
    return sku, int(quantity)
