"""Schedules as rows: where they stand, the graph they run, and when to look at them again.

Every function works inside a transaction of the caller's. Nothing is decided here. Rows of the due index are written
with the schedule they belong to, so that there is one for each schedule that has a time to come, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.records import GraphLogged
from holdfast.engine.schedules import DueRun, Overlap, PastRun, Schedule
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.record_codec import Blob, Frame, decode_graphs, encode_graph, open_frame

log = logging.getLogger("holdfast")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """One schedule as the store knows it.

    Attributes:
        schedule: Where it stands.
        timing: When it is due, JSON.
        nonce: Random mark of the request that defined it. Also the group of its blobs.
        digest: Hash of what it runs, to tell one definition from another.
        has_blobs: Whether there is anything in the group.
        user_metadata: What each run is given.
        environment: Hash of the runtime environment in the code store; empty for none.
        created_unix_s: When it was first defined.
    """

    schedule: Schedule
    timing: Mapping[str, Any]
    nonce: str
    digest: str
    has_blobs: bool = False
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    created_unix_s: float = 0.0


def load(txn: ReadTransaction, name: str) -> ScheduleRow | None:
    """The schedule of a name; None when there is none."""
    raw = txn.get(layout.schedule(name))
    return None if raw is None else _decode(raw)


def save(txn: WriteTransaction, row: ScheduleRow, *, was: ScheduleRow | None, now_unix_s: float) -> None:
    """Write a schedule, and when to look at it again.

    Args:
        txn: The caller's.
        row: As it is now.
        was: As it was in the store; None when it was not there.
        now_unix_s: The time, in seconds since the epoch.
    """
    name = row.schedule.name
    _leave_index(txn, was)
    due_unix_s = row.schedule.wake_unix_s
    if due_unix_s is not None:
        txn.put(layout.schedule_due(due_unix_s, name), name.encode())
    if was is None or was.nonce != row.nonce:
        # Whoever looks for blobs that belong to nobody finds that these do.
        txn.put(layout.blob_group(row.nonce), b"")
        if was is not None:
            _drop_definition(txn, was, now_unix_s)
    txn.put(layout.schedule(name), _encode(row))


def save_graph(txn: WriteTransaction, name: str, graph: Graph) -> None:
    """Write what a schedule runs, in place of what it ran before."""
    txn.delete_prefix(layout.schedule_graph(name))
    logged = GraphLogged(
        first=0, nodes=graph.nodes, sink=graph.sink, parent=None, group=graph.sink, catcher=None, scope=None
    )
    for first, piece in encode_graph(logged):
        txn.put(layout.schedule_graph(name, first), piece)


def load_graph(txn: ReadTransaction, name: str, *, blob_group: str) -> Graph:
    """What a schedule runs, its large arguments named as blobs of this group."""
    (logged,) = decode_graphs(raw for _, raw in txn.scan(layout.schedule_graph(name)))
    return Graph(nodes=tuple(_in_group(node, blob_group) for node in logged.nodes), sink=logged.sink)


def _in_group(node: NodeSpec, group: str) -> NodeSpec:
    arguments = node.arguments
    if not isinstance(arguments, Blob):
        return node
    return replace(node, arguments=Blob(f"{group}/{arguments.key.partition('/')[2]}", arguments.nbytes))


def delete(txn: WriteTransaction, row: ScheduleRow, now_unix_s: float) -> None:
    """Remove every row of a schedule. Its blobs are the caller's to remove, afterwards."""
    name = row.schedule.name
    _leave_index(txn, row)
    _drop_definition(txn, row, now_unix_s)
    txn.delete_prefix(layout.schedule_graph(name))
    txn.delete(layout.schedule(name))


def delete_damaged(txn: WriteTransaction, name: str) -> None:
    """Remove what is found of a schedule whose row cannot be read, by its name."""
    let_go(txn, name)
    txn.delete_prefix(layout.schedule_graph(name))
    txn.delete(layout.schedule(name))


def let_go(txn: WriteTransaction, name: str) -> None:
    """Have a schedule not looked at again: its row cannot be read."""
    for key, found in txn.scan(layout.SCHEDULES_DUE):
        if found.decode() == name:
            txn.delete(key)


def _drop_definition(txn: WriteTransaction, row: ScheduleRow, now_unix_s: float) -> None:
    txn.delete(layout.blob_group(row.nonce))
    # As for a submission whose workflow was deleted: the request may be sent again.
    txn.put(layout.deleted(row.nonce), orjson.dumps([now_unix_s]))


def _leave_index(txn: WriteTransaction, row: ScheduleRow | None) -> None:
    if row is None:
        return
    name = row.schedule.name
    if row.schedule.wake_unix_s is not None:
        txn.delete(layout.schedule_due(row.schedule.wake_unix_s, name))
    txn.delete(layout.schedule_due(0.0, name))


def list_all(txn: ReadTransaction) -> list[ScheduleRow]:
    """Every schedule, by name; those whose rows cannot be read are passed over, with a line in the log."""
    rows = []
    for _, raw in txn.scan(layout.SCHEDULES):
        try:
            rows.append(_decode(raw))
        except StorageCorruptError as error:
            log.error("a schedule is passed over: %s", error)
    return sorted(rows, key=lambda row: row.schedule.name)


def wake_waiting(txn: WriteTransaction) -> None:
    """Have every schedule looked at once in which a run waits: what it waits for may be gone."""
    for row in list_all(txn):
        if row.schedule.waiting:
            txn.put(layout.schedule_due(0.0, row.schedule.name), row.schedule.name.encode())


def looks(txn: ReadTransaction) -> Iterator[tuple[float, str]]:
    """(when, name) of every schedule that is to be looked at again, the earliest first; one may stand here twice."""
    for key, name in txn.scan(layout.SCHEDULES_DUE):
        yield layout.read_schedule_due(key) / 1e6, name.decode()


def due(txn: ReadTransaction, now_unix_s: float, limit: int) -> list[str]:
    """Names of the schedules that are to be looked at by now, the longest due first."""
    found: list[str] = []
    for unix_s, name in looks(txn):
        if unix_s > now_unix_s or len(found) >= limit:
            break
        found.append(name)
    return found


def next_due(txn: ReadTransaction) -> float | None:
    """When a schedule is to be looked at next, in seconds since the epoch; None when there is none."""
    first = next(looks(txn), None)
    return None if first is None else first[0]


def _encode(row: ScheduleRow) -> bytes:
    schedule = row.schedule
    header: dict[str, Any] = {"name": schedule.name, "timing": row.timing, "created": row.created_unix_s}
    header |= {"overlap": schedule.overlap.value, "catch_up_s": schedule.catch_up_s, "coalesce": schedule.coalesce}
    header |= {"next": schedule.next_due_unix_s, "paused": schedule.paused, "running": schedule.running}
    header["waiting"] = [(run.due_unix_s, run.asked) for run in schedule.waiting]
    header["past"] = [(run.due_unix_s, run.workflow_id, run.asked) for run in schedule.past]
    header |= {
        "interrupted": schedule.interrupted,
        "skipped": schedule.skipped,
        "missed_until": schedule.missed_until_unix_s,
    }
    header |= {"nonce": row.nonce, "digest": row.digest, "has_blobs": row.has_blobs}
    header |= {"metadata": row.user_metadata, "environment": row.environment}
    return Frame().close(header)


def _decode(raw: bytes) -> ScheduleRow:
    header, _ = open_frame(raw)
    return ScheduleRow(
        schedule=Schedule(
            name=header["name"],
            overlap=Overlap(header["overlap"]),
            catch_up_s=header["catch_up_s"],
            coalesce=header["coalesce"],
            next_due_unix_s=header["next"],
            paused=header["paused"],
            waiting=tuple(DueRun(due_unix_s=due, asked=asked) for due, asked in header["waiting"]),
            running=tuple(header["running"]),
            interrupted=header["interrupted"],
            past=tuple(PastRun(due_unix_s=due, workflow_id=run, asked=asked) for due, run, asked in header["past"]),
            skipped=header["skipped"],
            missed_until_unix_s=header["missed_until"],
        ),
        timing=header["timing"],
        nonce=header["nonce"],
        digest=header["digest"],
        has_blobs=header["has_blobs"],
        user_metadata=header["metadata"],
        environment=header["environment"],
        created_unix_s=header["created"],
    )
