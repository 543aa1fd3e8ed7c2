"""Snapshots of runs that were put away: kept, found good or stale, and loaded with the records they need.

A snapshot carries the epoch of the lease it was written under. Records are
written under a lease only, and every load takes a higher one, so a snapshot is
good exactly for the load that takes the very next epoch. Nothing has to be
removed when a run is taken up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from holdfast.engine.graph import TaskIndex
from holdfast.engine.records import GraphLogged, TaskContinuing, TaskFinished, TaskWaiting
from holdfast.engine.run_image import RunImage
from holdfast.engine.snapshot import Snapshot
from holdfast.engine.values import Split, Value
from holdfast.storage import layout
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import decode_graphs


def save_snapshot(txn: WriteTransaction, seq: int, epoch: int, snapshot: Snapshot) -> None:
    """Keep what is live of a run, for who loads it next.

    Args:
        txn: The one in which the run is put away.
        seq: The workflow.
        epoch: The lease that the run was held under.
        snapshot: What is live.
    """
    entry = {
        "epoch": epoch,
        "live": snapshot.live,
        "kept": list(snapshot.kept.items()),
        "outer": list(snapshot.outer_scope.items()),
        "names": snapshot.names,
        "next": snapshot.next_index,
        "root": snapshot.root,
        "unread": snapshot.unread,
        "read": snapshot.read,
        "named": snapshot.named,
    }
    txn.put(layout.snapshot(seq), orjson.dumps(entry))


def load_snapshot(txn: ReadTransaction, seq: int, epoch: int) -> Snapshot | None:
    """The snapshot to load a run from under a new lease; None when none can be relied on.

    Args:
        txn: Any.
        seq: The workflow.
        epoch: The lease that the run is loaded under.
    """
    raw = txn.get(layout.snapshot(seq))
    if raw is None:
        return None
    try:
        entry = orjson.loads(raw)
        written_under, snapshot = entry["epoch"], _read(entry)
    except (ValueError, KeyError, TypeError):
        # Damaged: the records tell the same, only slower.
        return None
    return snapshot if _is_good(written_under, epoch) else None


def _read(entry: dict[str, Any]) -> Snapshot:
    return Snapshot(
        live=tuple(entry["live"]),
        kept=dict(entry["kept"]),
        outer_scope=dict(entry["outer"]),
        names=entry["names"],
        next_index=entry["next"],
        root=entry["root"],
        # An earlier version wrote none, and counted uses otherwise: its snapshots are not relied on.
        unread=tuple(entry["unread"]),
        read=tuple(entry["read"]),
        named=tuple(entry["named"]),
    )


def _is_good(written_under: int, epoch: int) -> bool:
    return written_under == epoch - 1


def load_run(txn: ReadTransaction, seq: int, epoch: int) -> RunImage:
    """The logged state of a workflow, for who has just leased it under an epoch.

    Semantics: costs what is live, after a snapshot; else what was ever recorded.
    """
    snapshot = load_snapshot(txn, seq, epoch)
    return store.load_image(txn, seq) if snapshot is None else _load_live(txn, seq, snapshot)


def _load_live(txn: ReadTransaction, seq: int, snapshot: Snapshot) -> RunImage:
    finished: dict[TaskIndex, TaskFinished] = {}
    continuing: dict[TaskIndex, TaskContinuing] = {}
    waiting: dict[TaskIndex, TaskWaiting] = {}
    whole: dict[TaskIndex, TaskFinished] = {}
    for index in snapshot.live:
        match store.read_ending(txn, seq, index):
            case TaskFinished() as done:
                finished[index] = _complete(txn, seq, done, whole)
            case TaskContinuing() as record:
                continuing[index] = record
            case None:
                wait = store.read_waiting(txn, seq, index)
                if wait is not None:
                    waiting[index] = wait
    return RunImage(
        graphs=_pieces(txn, seq, snapshot.live),
        finished=finished,
        continuing=continuing,
        waiting=waiting,
        inbox=list(store.read_inbox(txn, seq)),
        last_event=store.last_event(txn, seq),
        snapshot=snapshot,
    )


def _pieces(txn: ReadTransaction, seq: int, live: tuple[TaskIndex, ...]) -> list[GraphLogged]:
    """The pieces of graphs in which these tasks stand, each as if it were a graph of its own."""
    pieces: list[GraphLogged] = []
    for index in live:
        if pieces and index < pieces[-1].first + len(pieces[-1].nodes):
            continue
        key, raw = next(txn.scan(layout.graph(seq), start=layout.graph(seq, index), reverse=True))
        (piece,) = decode_graphs(iter((raw,)))
        pieces.append(replace(piece, first=layout.last_part(key)))
    return pieces


def _complete(txn: ReadTransaction, seq: int, done: TaskFinished, whole: dict[TaskIndex, TaskFinished]) -> TaskFinished:
    """A result with what of it stands in the rows of other tasks, each of which is read once."""
    if done.task in whole:
        return whole[done.task]
    value = done.value
    if done.origin is not None:
        origin = _value_at(txn, seq, done.origin, whole)
        value = replace(value, base=origin.base, taken=origin.taken)
    elif isinstance(value.base, Split):
        ready = tuple((at, _value_at(txn, seq, at, whole)) for at, _ in value.base.ready)
        value = replace(value, base=replace(value.base, ready=ready))
    whole[done.task] = replace(done, value=value)
    return whole[done.task]


def _value_at(txn: ReadTransaction, seq: int, index: TaskIndex, whole: dict[TaskIndex, TaskFinished]) -> Value:
    done = store.read_ending(txn, seq, index)
    assert isinstance(done, TaskFinished), f"a result of workflow {seq} names task {index}, which has none"
    return _complete(txn, seq, done, whole).value
