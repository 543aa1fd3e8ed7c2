"""Leases: who drives a workflow, under which epoch, and which workflows an executor holds.

An epoch never falls. Nothing here gives a workflow away; whoever takes a lease
has been told to.
"""

from __future__ import annotations

import orjson

from holdfast.engine.errors import StaleLeaseError
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def take_lease(txn: WriteTransaction, seq: int, executor: str) -> int:
    """Become the one that drives a workflow. Whoever held it before is refused from now on.

    Returns:
        The new epoch, to be given with every write.
    """
    raw = txn.get(layout.lease(seq))
    epoch = 1
    if raw is not None:
        held = orjson.loads(raw)
        epoch = held["epoch"] + 1
        if held["executor"] != executor:
            txn.delete(layout.active(held["executor"], seq))
    txn.put(layout.lease(seq), orjson.dumps({"epoch": epoch, "executor": executor}))
    txn.put(layout.active(executor, seq), b"")
    return epoch


def current_epoch(txn: ReadTransaction, seq: int) -> int:
    """The epoch of the last lease; 0 when there was none."""
    raw = txn.get(layout.lease(seq))
    return 0 if raw is None else int(orjson.loads(raw)["epoch"])


def holder(txn: ReadTransaction, seq: int) -> str:
    """Who has the last lease, whether or not it holds anything for it; empty when there was none."""
    raw = txn.get(layout.lease(seq))
    return "" if raw is None else str(orjson.loads(raw)["executor"])


def check_lease(txn: ReadTransaction, seq: int, epoch: int, workflow_id: str) -> None:
    """Refuse a writer that has been replaced.

    Raises:
        StaleLeaseError: The workflow is leased under another epoch, or is deleted.
    """
    current = current_epoch(txn, seq)
    if current != epoch:
        raise StaleLeaseError(workflow_id, epoch, current)


def put_away(txn: WriteTransaction, seq: int, executor: str) -> None:
    """The executor holds this workflow no longer; the epoch stays, so that the next lease is a higher one."""
    txn.delete(layout.active(executor, seq))


def hold_again(txn: WriteTransaction, seq: int, executor: str) -> None:
    """The executor holds this again under the lease that it has: undoes `put_away`."""
    txn.put(layout.active(executor, seq), b"")


def let_go(txn: WriteTransaction, seq: int) -> None:
    """Whoever holds this workflow holds it no longer: for one whose row does not tell who that is."""
    raw = txn.get(layout.lease(seq))
    if raw is not None:
        txn.delete(layout.active(orjson.loads(raw)["executor"], seq))


def held_by(txn: ReadTransaction, executor: str) -> list[int]:
    """Numbers of the workflows that an executor holds."""
    return [layout.last_part(key) for key, _ in txn.scan(layout.active(executor))]


def is_held_by(txn: ReadTransaction, seq: int, executor: str) -> bool:
    """Whether an executor holds this workflow, or is to take it up."""
    return txn.get(layout.active(executor, seq)) is not None


def holders(txn: ReadTransaction, beginning: str) -> list[str]:
    """Executors that hold a workflow, of those whose names begin so; sorted."""
    return sorted({layout.active_executor(key) for key, _ in txn.scan(layout.active_beginning(beginning))})
