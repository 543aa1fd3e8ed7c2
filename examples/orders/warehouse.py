"""The warehouse: it reserves, releases, sends parcels and files receipts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from examples.orders.outside import Call, Outside

PARCEL_TIME_S = 0.02


@dataclass(frozen=True)
class Warehouse:
    """Stock, parcels and receipts. Whatever is asked for twice for one order is done once."""

    outside: Outside

    def reserve(self, order_id: str, items: Mapping[str, int]) -> bool:
        """Take the items off the shelves: all of them, or none when one runs short."""
        with self.outside.operation(order_id, "reserve") as call:
            if _moved(call):
                call.say("again")
                return True
            on_hand = dict(
                call.db.execute(
                    "SELECT sku, quantity + COALESCE("
                    "(SELECT SUM(change) FROM movements WHERE movements.sku = opening.sku), 0) FROM opening"
                )
            )
            if any(on_hand[sku] < quantity for sku, quantity in items.items()):
                call.say("refused")
                return False
            rows = [(order_id, sku, -quantity) for sku, quantity in items.items()]
            call.db.executemany("INSERT INTO movements VALUES (?, 'reserve', ?, ?)", rows)
            return True

    def release(self, order_id: str) -> None:
        """Put what was reserved for an order back."""
        with self.outside.operation(order_id, "release") as call:
            if _moved(call):
                call.say("again")
                return
            call.db.execute(
                "INSERT INTO movements SELECT order_id, 'release', sku, -change FROM movements "
                "WHERE order_id = ? AND operation = 'reserve'",
                (order_id,),
            )

    def ship(self, order_id: str, sku: str, quantity: int) -> str:
        """Send one parcel and return its number."""
        time.sleep(PARCEL_TIME_S)
        with self.outside.operation(order_id, f"ship {sku}") as call:
            _insert_once(call, "INSERT OR IGNORE INTO parcels VALUES (?, ?, ?)", (order_id, sku, quantity))
        return f"parcel-{order_id}-{sku}"

    def file_receipt(self, order_id: str, outcome: str, paid_cents: int) -> None:
        """Close an order with its outcome."""
        with self.outside.operation(order_id, "receipt") as call:
            _insert_once(call, "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (order_id, outcome, paid_cents))


def _moved(call: Call) -> bool:
    query = "SELECT 1 FROM movements WHERE order_id = ? AND operation = ?"
    return call.db.execute(query, (call.order_id, call.name)).fetchone() is not None


def _insert_once(call: Call, statement: str, row: tuple[object, ...]) -> None:
    if call.db.execute(statement, row).rowcount == 0:
        call.say("again")
