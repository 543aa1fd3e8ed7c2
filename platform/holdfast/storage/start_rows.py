"""Rows of events that are yet to start a workflow or to call a virtual actor, in the order in which they came.

They are written in the transaction that takes the event in, which is also that
of its source's position. An event that is for an actor, and is known by then to
be for that one, has a second row, in the mailbox of that actor: from then on it
waits there, before it has its number among the calls, and is counted with them.
"""

from __future__ import annotations

from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction

_NUMBER_BYTES = 8


def add(txn: WriteTransaction, subscription: int, event: int, source: int, actor_id: str = "") -> None:
    """Note that an event is yet to be acted upon.

    Args:
        txn: The transaction.
        subscription: Number of the rule.
        event: Number of the event.
        source: Number of its source.
        actor_id: The actor that it is for; empty when that is not known yet, or none is called.
    """
    txn.put(layout.start(subscription, event), layout.pack(source) + actor_id.encode("utf-8", "surrogatepass"))
    if actor_id:
        txn.put(layout.message(actor_id, event, subscription), b"")


def read(raw: bytes) -> tuple[int, str]:
    """(number of the source, id of the actor or nothing) of such a row."""
    return layout.unpack(raw[:_NUMBER_BYTES]), raw[_NUMBER_BYTES:].decode("utf-8", "surrogatepass")


def remove(txn: WriteTransaction, subscription: int, event: int) -> None:
    """An event has had its effect, or will have none. Does nothing when it is not there."""
    key = layout.start(subscription, event)
    raw = txn.get(key)
    if raw is None:
        return
    _, actor_id = read(raw)
    txn.delete(key)
    if actor_id:
        txn.delete(layout.message(actor_id, event, subscription))


def remove_all(txn: WriteTransaction, subscription: int) -> None:
    """Forget all events of a rule."""
    for key, _ in list(txn.scan(layout.start(subscription))):
        remove(txn, subscription, layout.last_part(key))


def count_messages(txn: ReadTransaction, actor_id: str) -> int:
    """How many events are in an actor's mailbox that have no number among its calls yet."""
    return sum(1 for _ in txn.scan(layout.message(actor_id)))
