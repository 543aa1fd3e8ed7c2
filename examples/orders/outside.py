"""The world that Holdfast does not own, as one SQLite file outside Holdfast's storage.

`payments` and `warehouse` work on it. Each operation takes effect once per order, as good services do
for one idempotency key, and each call is written down, also the failed and the repeated ones: so an
audit can tell what happened from what was merely tried. Nothing in here knows of workflows.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

OPENING_STOCK: Mapping[str, int] = {
    "chair": 400,
    "clock": 400,
    "desk": 130,
    "lamp": 400,
    "mirror": 90,
    "plant": 400,
    "rug": 400,
    "shelf": 400,
}

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, order_id TEXT, operation TEXT, said TEXT);
CREATE INDEX IF NOT EXISTS calls_of_an_order ON calls (order_id, operation);
CREATE TABLE IF NOT EXISTS opening (sku TEXT PRIMARY KEY, quantity INTEGER);
CREATE TABLE IF NOT EXISTS movements (
    order_id TEXT, operation TEXT, sku TEXT, change INTEGER, PRIMARY KEY (order_id, operation, sku));
CREATE TABLE IF NOT EXISTS payments (
    order_id TEXT, operation TEXT, cents INTEGER, at_unix_s REAL, PRIMARY KEY (order_id, operation));
CREATE TABLE IF NOT EXISTS confirmed (order_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS parcels (order_id TEXT, sku TEXT, quantity INTEGER, PRIMARY KEY (order_id, sku));
CREATE TABLE IF NOT EXISTS receipts (order_id TEXT PRIMARY KEY, outcome TEXT, paid_cents INTEGER);
"""


@dataclass(frozen=True)
class Outside:
    """The outside world at a file. Cheap to make, and safe to send to any process of the machine."""

    path: str

    def open_for_business(self) -> None:
        """Make the file and fill the shelves, unless that was done before."""
        with self.connected() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            with db:
                db.executemany("INSERT OR IGNORE INTO opening VALUES (?, ?)", OPENING_STOCK.items())

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that waits its turn and is closed in the end."""
        with closing(sqlite3.connect(self.path, timeout=30.0)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            yield db

    @contextmanager
    def operation(self, order_id: str, name: str) -> Iterator[Call]:
        """One transaction that writes the call down and, in its body, does what was asked for."""
        with self.connected() as db, db:
            # Taken at once: two calls for one order must not both find that nothing was done yet.
            db.execute("BEGIN IMMEDIATE")
            written = db.execute(
                "INSERT INTO calls (order_id, operation, said) VALUES (?, ?, 'done')", (order_id, name)
            )
            assert written.lastrowid is not None
            yield Call(db=db, order_id=order_id, name=name, seq=written.lastrowid)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that is being answered, within its transaction."""

    db: sqlite3.Connection
    order_id: str
    name: str
    seq: int

    @property
    def attempt(self) -> int:
        """How many calls for this operation of this order there were, this one included."""
        query = "SELECT COUNT(*) FROM calls WHERE order_id = ? AND operation = ?"
        (count,) = self.db.execute(query, (self.order_id, self.name)).fetchone()
        return int(count)

    def say(self, said: str) -> None:
        """Write down how the call went, where it was not simply done."""
        self.db.execute("UPDATE calls SET said = ? WHERE seq = ?", (said, self.seq))


def lot(order_id: str, what: str) -> int:
    """A number below 100 that is the same in every run, so that every run has the same accidents."""
    return int.from_bytes(hashlib.blake2b(f"{what}/{order_id}".encode(), digest_size=4).digest(), "big") % 100
