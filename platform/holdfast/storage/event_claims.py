"""Finds the events of a source that a reader or a rule is still to get: they are not removed, however old.

An event is promised while a row names what it is for: one that is yet to start a workflow or to call a virtual actor,
and one that a workflow that waits has not read yet. Nothing is removed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Holds the claims of readers and rules to the events of one source.

    Attributes:
        to_start: Number of the first event that is yet to start a workflow or to call an actor; None for none.
        unread: By text of a selector: the number after which some workflow has not read what it selects.
    """

    to_start: int | None
    unread: Mapping[str, int]

    def hold(self, number: int, selected_by: Iterable[str]) -> bool:
        """Whether a reader or a rule is still to get an event.

        Args:
            number: Its number.
            selected_by: The texts of all selectors that select it.
        """
        if self.to_start is not None and number >= self.to_start:
            return True
        return bool(self.unread) and any(number > self.unread.get(text, number) for text in selected_by)


def claims_of(txn: ReadTransaction, source: int) -> Claims:
    """Read the claims to the events of a source, by its number."""
    unread: dict[str, int] = {}
    for rows in (layout.WAKES, layout.UNREAD):
        for key, raw in txn.scan(rows):
            if layout.wake_source(key) != source:
                continue
            text = orjson.loads(raw)["stream"][1]
            cursor = txn.get(layout.cursor(layout.wake_seq(key), source, text))
            read = 0 if cursor is None else int(orjson.loads(cursor)["at"])
            unread[text] = min(read, unread.get(text, read))
    return Claims(to_start=_first_to_start(txn, source), unread=unread)


def _first_to_start(txn: ReadTransaction, source: int) -> int | None:
    first: int | None = None
    for key, _ in txn.scan(layout.subscribers(source)):
        row = next(txn.scan(layout.start(layout.last_part(key))), None)
        if row is not None:
            number = layout.last_part(row[0])
            first = number if first is None else min(first, number)
    return first
