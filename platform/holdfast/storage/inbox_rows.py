"""The inboxes of workflows as rows: events in the order of their numbers, each accepted once.

An event is removed by the record that says who took it (`workflow_store`), not
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.engine.signals import EventReceived
from holdfast.engine.values import Value
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import Frame, open_frame, read_value, value_entry


def last_event(txn: ReadTransaction, seq: int) -> int:
    """Number of the last event that the workflow received; 0 for none."""
    raw = txn.get(layout.last_event(seq))
    return 0 if raw is None else layout.unpack(raw)


def has_event(txn: ReadTransaction, seq: int, dedupe_id: str) -> bool:
    """Whether an event with this dedupe id was accepted before."""
    return txn.get(layout.dedupe(seq, dedupe_id)) is not None


def took_event_of(txn: ReadTransaction, seq: int, dedupe_id: str, nonce: str) -> bool:
    """Whether it was this very request whose event was accepted under a dedupe id."""
    raw = txn.get(layout.dedupe(seq, dedupe_id))
    return raw is not None and nonce != "" and raw[8:] == nonce.encode()


def add_event(
    txn: WriteTransaction,
    seq: int,
    stream: tuple[str, str],
    value: Any,
    *,
    dedupe_id: str | None = None,
    nonce: str = "",
) -> int | None:
    """Put an event into a workflow's inbox.

    Args:
        txn: The caller's.
        seq: The workflow.
        stream: (source, key).
        value: What the waiting task gets.
        dedupe_id: Events with the same one are one; None for no check.
        nonce: Mark of the request that brings it, for `took_event_of`.

    Returns:
        Its number, or None when one with this dedupe id was accepted before.
    """
    if dedupe_id is not None and txn.get(layout.dedupe(seq, dedupe_id)) is not None:
        return None
    number = last_event(txn, seq) + 1
    txn.put(layout.last_event(seq), layout.pack(number))
    put_event(txn, seq, stream, number, value)
    if dedupe_id is not None:
        txn.put(layout.dedupe(seq, dedupe_id), layout.pack(number) + nonce.encode())
    return number


def put_event(txn: WriteTransaction, seq: int, stream: tuple[str, str], number: int, value: Any) -> None:
    """Write the row of an event that no task has taken, under its number."""
    frame = Frame()
    header = {"stream": stream, "value": value_entry(Value(value), frame)}
    txn.put(layout.event(seq, number), frame.close(header))


def read_inbox(txn: ReadTransaction, seq: int) -> Iterator[EventReceived]:
    """The events that no task has taken, in order."""
    for key, raw in txn.scan(layout.event(seq)):
        header, pieces = open_frame(raw)
        value, _ = read_value(header["value"], pieces)
        source, name = header["stream"]
        yield EventReceived(stream=(source, name), number=layout.last_part(key), value=value.base)
