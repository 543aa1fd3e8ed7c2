"""The typed store over any key-value store: workflows, their records, and the queue.

The one door to what is kept of workflows: leases, inboxes, timers and settings
have rooms of their own and are handed on from here. Every function works inside
a transaction of the caller's, so that what belongs together is written
together. Nothing is decided here but whether a lease holds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.graph import TaskIndex
from holdfast.engine.records import (
    EventGivenBack,
    EventTaken,
    GraphLogged,
    Record,
    TaskContinuing,
    TaskFailed,
    TaskFinished,
    TaskWaiting,
    TimerCleared,
    TimerSet,
    WorkflowEnded,
)
from holdfast.engine.run_image import RunImage
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split, Value
from holdfast.storage import layout
from holdfast.storage.inbox_rows import add_event, has_event, last_event, put_event, read_inbox, took_event_of
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.leases import (
    check_lease,
    current_epoch,
    held_by,
    holders,
    is_held_by,
    let_go,
    put_away,
    take_lease,
)
from holdfast.storage.record_codec import (
    UNREADABLE,
    Frame,
    decode_graphs,
    encode_graph,
    error_entry,
    open_frame,
    read_error,
    read_value,
    value_entry,
)
from holdfast.storage.settings import drop_setting, load_limits, load_setting, save_setting, settings_beginning
from holdfast.storage.timer_rows import drop_timer, due_timers, has_timer, next_due, timers
from holdfast.storage.workflow_row import TaskView, WorkflowRow

log = logging.getLogger("holdfast")

__all__ = [
    "add_event",
    "check_lease",
    "count",
    "count_up",
    "create",
    "current_epoch",
    "delete",
    "delete_damaged",
    "drop_setting",
    "drop_timer",
    "due_timers",
    "enqueue",
    "find",
    "find_task",
    "first_queued",
    "forget_deleted",
    "forget_failures",
    "get",
    "get_task",
    "has_event",
    "has_task",
    "has_timer",
    "held_by",
    "holders",
    "is_actors",
    "is_held_by",
    "last_event",
    "leave_queue",
    "let_go",
    "list_by_ids",
    "list_seqs",
    "list_workflows",
    "load_image",
    "load_limits",
    "load_setting",
    "next_due",
    "owns_blobs",
    "put_away",
    "read_ending",
    "read_inbox",
    "read_output",
    "read_waiting",
    "save",
    "save_setting",
    "settings_beginning",
    "take_lease",
    "timers",
    "took_event_of",
    "unlist",
    "unlist_damaged",
    "was_deleted",
    "write_records",
]

# -- workflows ---------------------------------------------------------------------------------------------------------


def find(txn: ReadTransaction, workflow_id: str) -> WorkflowRow | None:
    """The workflow of an id; None when there is none.

    Raises:
        StorageCorruptError: Its row is damaged; names the workflow.
    """
    raw = txn.get(layout.workflow_id(workflow_id))
    return None if raw is None else _read(txn, layout.unpack(raw), f"workflow {workflow_id!r}")


def knows(txn: ReadTransaction, workflow_id: str) -> bool:
    """Whether an id is taken, also by a workflow whose row cannot be read."""
    return txn.get(layout.workflow_id(workflow_id)) is not None


def get(txn: ReadTransaction, seq: int) -> WorkflowRow | None:
    """The workflow of a number; None when it has been deleted.

    Raises:
        StorageCorruptError: Its row is damaged; names the number, for the id stands in the row.
    """
    return _read(txn, seq, f"workflow number {seq}")


def is_running(txn: ReadTransaction, seq: int) -> bool:
    """Whether a workflow is there and RUNNING, without reading its row."""
    return txn.get(layout.status(WorkflowStatus.RUNNING.value, seq)) is not None


def _read(txn: ReadTransaction, seq: int, called: str) -> WorkflowRow | None:
    raw = txn.get(layout.workflow(seq))
    try:
        return None if raw is None else _decode_workflow(seq, raw)
    except UNREADABLE as error:
        fix = "Restore the folder from a backup, or give the workflow up with workflow.delete(<its id>)."
        problem = f"the row of {called} is damaged ({type(error).__name__}: {error})"
        raise StorageCorruptError("meta.lmdb", problem, fix) from error


def create(txn: WriteTransaction, row: WorkflowRow) -> WorkflowRow:
    """Add a workflow; its `seq` is given here."""
    seq = count_up(txn, "seq")
    events = txn.get(layout.counter("events"))
    row = replace(row, seq=seq, events_from=0 if events is None else layout.unpack(events))
    txn.put(layout.workflow_id(row.workflow_id), layout.pack(seq))
    txn.put(layout.blob_group(row.nonce), layout.pack(seq))
    _index(txn, row)
    save(txn, row)
    return row


def save(txn: WriteTransaction, row: WorkflowRow, *, was: WorkflowRow | None = None) -> None:
    """Write a workflow's row, and move it in the indexes when its status was another."""
    if was is not None and was.status is not row.status:
        _drop_from_index(txn, was)
        _index(txn, row)
    txn.put(layout.workflow(row.seq), _encode_workflow(row))


def _index(txn: WriteTransaction, row: WorkflowRow) -> None:
    txn.put(layout.status(row.status.value, row.seq), b"")
    _add_to_count(txn, row.status, 1)
    if row.status.ended:
        txn.put(layout.ended(row.status.value, row.ended_unix_s or 0.0, row.seq), b"")


def _drop_from_index(txn: WriteTransaction, row: WorkflowRow) -> None:
    txn.delete(layout.status(row.status.value, row.seq))
    _add_to_count(txn, row.status, -1)
    if row.status.ended:
        txn.delete(layout.ended(row.status.value, row.ended_unix_s or 0.0, row.seq))


def delete(txn: WriteTransaction, row: WorkflowRow, now_unix_s: float) -> None:
    """Remove every row of a workflow. Its blobs are the caller's to remove, afterwards."""
    unlist(txn, row, now_unix_s)
    for prefix in layout.rows_of(row.seq):
        txn.delete_prefix(prefix)


def unlist(txn: WriteTransaction, row: WorkflowRow, now_unix_s: float) -> None:
    """Remove a workflow from where it is found. What is left are rows under its number, which nobody asks for."""
    txn.delete(layout.workflow_id(row.workflow_id))
    txn.delete(layout.blob_group(row.nonce))
    txn.put(layout.deleted(row.nonce), orjson.dumps([now_unix_s]))
    _drop_from_index(txn, row)
    txn.delete(layout.active(row.executor, row.seq))
    if row.queue_number is not None:
        txn.delete(layout.queued(row.queue_number))
    txn.delete(layout.workflow(row.seq))


def was_deleted(txn: ReadTransaction, nonce: str) -> bool:
    """Whether the workflow of a submission has been deleted since this platform started."""
    return txn.get(layout.deleted(nonce)) is not None


def forget_deleted(txn: WriteTransaction) -> None:
    """Nobody is left who could send an old submission again."""
    txn.delete_prefix(layout.DELETED)


def delete_damaged(txn: WriteTransaction, workflow_id: str) -> int:
    """Remove a workflow whose row cannot be read, by its id. What it ran for is refused by its lease, which is gone.

    Returns:
        Its number.

    Semantics: its blobs, whose folder the row named, go when a platform starts on the folder the next time.
    """
    raw = txn.get(layout.workflow_id(workflow_id))
    assert raw is not None, f"there is no workflow {workflow_id!r} to be damaged"
    seq = layout.unpack(raw)
    txn.delete(layout.workflow_id(workflow_id))
    unlist_damaged(txn, seq)
    for key, value in txn.scan(layout.QUEUE):
        if value == layout.pack(seq):
            txn.delete(key)
    for prefix in layout.rows_of(seq):
        txn.delete_prefix(prefix)
    return seq


def unlist_damaged(txn: WriteTransaction, seq: int) -> None:
    """`unlist` for a workflow whose row cannot be read. Its id leads to nothing afterwards, as if it were not there."""
    for status in WorkflowStatus:
        if txn.delete(layout.status(status.value, seq)):
            _add_to_count(txn, status, -1)
    let_go(txn, seq)
    txn.delete(layout.workflow(seq))


def owns_blobs(txn: ReadTransaction, nonce: str) -> bool:
    """Whether a workflow, or a virtual actor, came of the request whose blobs lie in the folder of this name."""
    raw = txn.get(layout.blob_group(nonce))
    if not raw:
        # Empty for a schedule: the row goes with it.
        return raw is not None
    seq = layout.unpack(raw)
    return txn.get(layout.workflow(seq)) is not None or txn.get(layout.actor(seq)) is not None


def count(txn: ReadTransaction, status: WorkflowStatus) -> int:
    """How many workflows have this status."""
    raw = txn.get(layout.counter("status." + status.value))
    return 0 if raw is None else layout.unpack(raw)


def _add_to_count(txn: WriteTransaction, status: WorkflowStatus, change: int) -> None:
    txn.put(layout.counter("status." + status.value), layout.pack(count(txn, status) + change))


def is_actors(txn: ReadTransaction, workflow_id: str) -> bool:
    """Whether an id is that of a virtual actor: no workflow can have it."""
    raw = txn.get(layout.workflow_id(workflow_id))
    return raw is not None and txn.get(layout.actor(layout.unpack(raw))) is not None


def count_up(txn: WriteTransaction, name: str) -> int:
    """The next number of a counter, from 1."""
    key = layout.counter(name)
    raw = txn.get(key)
    number = 1 if raw is None else layout.unpack(raw) + 1
    txn.put(key, layout.pack(number))
    return number


def list_seqs(txn: ReadTransaction, status: WorkflowStatus, *, after: int = -1, limit: int | None = None) -> list[int]:
    """Numbers of the workflows with a status, in order of submission, from `after` (exclusive)."""
    found: list[int] = []
    for key, _ in txn.scan(layout.status(status.value), start=layout.status(status.value, after + 1)):
        if limit is not None and len(found) >= limit:
            break
        found.append(layout.last_part(key))
    return found


def list_workflows(
    txn: ReadTransaction, statuses: Collection[WorkflowStatus], *, after: int = -1, limit: int
) -> list[tuple[int, str | None, WorkflowStatus]]:
    """A page of at most `limit` (number, id, status), in order of submission; no id where the row is damaged."""
    merged: list[tuple[int, WorkflowStatus]] = []
    for status in statuses:
        merged.extend((seq, status) for seq in list_seqs(txn, status, after=after, limit=limit))
    merged.sort()
    page: list[tuple[int, str | None, WorkflowStatus]] = []
    for seq, status in merged[:limit]:
        try:
            row = get(txn, seq)
        except StorageCorruptError:
            row = None
        page.append((seq, None if row is None else row.workflow_id, status))
    return page


def _encode_workflow(row: WorkflowRow) -> bytes:
    frame = Frame()
    header: dict[str, Any] = {"id": row.workflow_id, "status": row.status.value, "executor": row.executor}
    header |= {"submitted": row.submitted_unix_s, "started": row.started_unix_s, "ended": row.ended_unix_s}
    header |= {"metadata": row.user_metadata, "nonce": row.nonce, "environment": row.environment}
    header |= {"queue": row.queue_number, "resumed_by": row.resumed_by}
    if row.events_from:
        header["events_from"] = row.events_from
    if row.dedicated:
        header["dedicated"] = True
    if row.schedule:
        header["schedule"] = row.schedule
    if row.output is not None:
        header["output"] = value_entry(row.output, frame, elsewhere=row.output_origin)
    if row.error is not None:
        header["error"], header["failed_task"] = error_entry(row.error, frame), row.failed_task_id
    return frame.close(header)


def _decode_workflow(seq: int, raw: bytes) -> WorkflowRow:
    header, pieces = open_frame(raw)
    output, origin = read_value(header["output"], pieces) if "output" in header else (None, None)
    return WorkflowRow(
        seq=seq,
        workflow_id=header["id"],
        status=WorkflowStatus(header["status"]),
        executor=header["executor"],
        user_metadata=header["metadata"],
        submitted_unix_s=header["submitted"],
        started_unix_s=header["started"],
        ended_unix_s=header["ended"],
        nonce=header["nonce"],
        resumed_by=header["resumed_by"],
        environment=header["environment"],
        dedicated=header.get("dedicated", False),
        schedule=header.get("schedule", ""),
        queue_number=header["queue"],
        events_from=header.get("events_from", 0),
        output=output,
        output_origin=origin,
        error=read_error(header["error"], pieces) if "error" in header else None,
        failed_task_id=header.get("failed_task", ""),
    )


# -- records -----------------------------------------------------------------------------------------------------------


def write_records(txn: WriteTransaction, row: WorkflowRow, records: Iterable[Record]) -> WorkflowRow:
    """Write what a step of a run recorded. Returns the workflow's row, changed when the workflow ended."""
    seq = row.seq
    for record in records:
        match record:
            case TaskFinished():
                write_finished(txn, seq, record)
            case TaskContinuing() | TaskFailed():
                txn.put(layout.task(seq, record.task), _encode_task(record))
            case GraphLogged():
                for first, piece in encode_graph(record):
                    txn.put(layout.graph(seq, first), piece)
                for offset, node in enumerate(record.nodes):
                    txn.put(layout.task_name(seq, node.task_id), layout.pack(record.first + offset))
            case TaskWaiting():
                txn.put(layout.waiting(seq, record.task), _encode_waiting(record))
            case TimerSet():
                txn.put(layout.timer(record.due_unix_s, seq, record.task), b"")
            case TimerCleared():
                txn.delete(layout.timer(record.due_unix_s, seq, record.task))
            case EventTaken():
                txn.delete(layout.event(seq, record.number))
            case EventGivenBack():
                put_event(txn, seq, record.stream, record.number, record.value)
                txn.delete(layout.task(seq, record.task))
                txn.delete(layout.waiting(seq, record.task))
            case WorkflowEnded():
                row = _end(txn, row, record)
    return row


def write_finished(txn: WriteTransaction, seq: int, record: TaskFinished) -> None:
    """Write that a task has its value: it waits for nothing any more."""
    txn.put(layout.task(seq, record.task), _encode_task(record))
    txn.delete(layout.waiting(seq, record.task))


def _end(txn: WriteTransaction, row: WorkflowRow, record: WorkflowEnded) -> WorkflowRow:
    ended = replace(
        row,
        status=record.status,
        ended_unix_s=record.ended_unix_s,
        output=record.output,
        output_origin=record.origin,
        error=record.error,
        failed_task_id=record.failed_task_id,
    )
    save(txn, ended, was=row)
    put_away(txn, row.seq, row.executor)
    txn.delete(layout.snapshot(row.seq))
    return ended


def _encode_task(record: TaskFinished | TaskContinuing | TaskFailed) -> bytes:
    frame = Frame()
    header: dict[str, Any] = {"id": record.task_id, "times": [record.started_unix_s, record.ended_unix_s]}
    match record:
        case TaskFinished():
            header["value"] = value_entry(record.value, frame, elsewhere=record.origin)
        case TaskContinuing():
            header["group"] = record.group
        case TaskFailed():
            header["error"] = error_entry(record.error, frame)
    if not isinstance(record, TaskFailed) and record.kept:
        header["kept"] = record.kept
    return frame.close(header)


def _encode_waiting(record: TaskWaiting) -> bytes:
    frame = Frame()
    header: dict[str, Any] = {"due": record.due_unix_s, "stream": record.stream}
    header |= {"deaths": record.deaths, "errors": record.errors, "started": record.started_unix_s}
    if record.event is not None:
        header["event"] = value_entry(record.event, frame)
    return frame.close(header)


def _decode_waiting(index: TaskIndex, raw: bytes) -> TaskWaiting:
    header, pieces = open_frame(raw)
    stream = header["stream"]
    return TaskWaiting(
        task=index,
        due_unix_s=header["due"],
        stream=None if stream is None else (stream[0], stream[1]),
        event=read_value(header["event"], pieces)[0] if "event" in header else None,
        deaths=header["deaths"],
        errors=header["errors"],
        started_unix_s=header["started"],
    )


# -- loading -----------------------------------------------------------------------------------------------------------


def load_image(txn: ReadTransaction, seq: int) -> RunImage:
    """The logged state of a workflow."""
    finished: dict[TaskIndex, TaskFinished] = {}
    continuing: dict[TaskIndex, TaskContinuing] = {}
    for key, raw in txn.scan(layout.task(seq)):
        ending = _decode_ending(layout.last_part(key), raw)
        if isinstance(ending, TaskFinished):
            finished[ending.task] = ending
        elif ending is not None:
            continuing[ending.task] = ending
    # What stood for an event that was given back has gone with it.
    finished = {at: one for at, one in finished.items() if one.origin is None or one.origin in finished}
    for index, record in finished.items():
        finished[index] = replace(record, value=_complete(record, finished))
    return RunImage(
        graphs=list(decode_graphs(raw for _, raw in txn.scan(layout.graph(seq)))),
        finished=finished,
        continuing=continuing,
        waiting={
            layout.last_part(key): _decode_waiting(layout.last_part(key), raw)
            for key, raw in txn.scan(layout.waiting(seq))
        },
        inbox=list(read_inbox(txn, seq)),
        last_event=last_event(txn, seq),
    )


def read_ending(txn: ReadTransaction, seq: int, index: TaskIndex) -> TaskFinished | TaskContinuing | None:
    """How a task ended; None when it has not, or failed. The base of a value may stand in another row (`origin`)."""
    raw = txn.get(layout.task(seq, index))
    return None if raw is None else _decode_ending(index, raw)


def read_waiting(txn: ReadTransaction, seq: int, index: TaskIndex) -> TaskWaiting | None:
    """What a task waits for; None when nothing is recorded."""
    raw = txn.get(layout.waiting(seq, index))
    return None if raw is None else _decode_waiting(index, raw)


def _decode_ending(index: TaskIndex, raw: bytes) -> TaskFinished | TaskContinuing | None:
    header, pieces = open_frame(raw)
    task_id, (started, ended) = header["id"], header["times"]
    if "value" in header:
        value, origin = read_value(header["value"], pieces)
        return TaskFinished(
            task=index,
            task_id=task_id,
            value=value,
            origin=origin,
            started_unix_s=started,
            ended_unix_s=ended,
            kept=tuple(header.get("kept", ())),
        )
    if "group" in header:
        return TaskContinuing(
            task=index,
            task_id=task_id,
            group=header["group"],
            started_unix_s=started,
            ended_unix_s=ended,
            kept=tuple(header.get("kept", ())),
        )
    return None


def _complete(record: TaskFinished, finished: dict[TaskIndex, TaskFinished]) -> Value:
    """A value with its base, and the values of a split, put in from the rows where they stand."""
    value = record.value
    if record.origin is not None:
        origin = finished[record.origin].value
        value = replace(value, base=origin.base, taken=origin.taken)
    if isinstance(value.base, Split):
        ready = tuple((at, _complete(finished[at], finished)) for at, _ in value.base.ready if at in finished)
        value = replace(value, base=replace(value.base, ready=ready))
    return value


def has_task(txn: ReadTransaction, seq: int, task_id: str) -> bool:
    """Whether a task of the workflow has this id."""
    return txn.get(layout.task_name(seq, task_id)) is not None


def find_task(txn: ReadTransaction, seq: int, task_id: str) -> TaskView | None:
    """A task by its id; None when the workflow has none of that id (yet)."""
    raw = txn.get(layout.task_name(seq, task_id))
    return None if raw is None else get_task(txn, seq, layout.unpack(raw))


def get_task(txn: ReadTransaction, seq: int, index: TaskIndex) -> TaskView:
    """A task by its number."""
    rows: Iterator[tuple[bytes, bytes]] = txn.scan(layout.graph(seq), start=layout.graph(seq, index), reverse=True)
    key, piece = next(rows)
    (graph,) = decode_graphs(iter((piece,)))
    view = TaskView(index=index, node=graph.nodes[index - layout.last_part(key)])
    raw = txn.get(layout.task(seq, index))
    if raw is None:
        waiting = read_waiting(txn, seq, index)
        return view if waiting is None else replace(view, started_unix_s=waiting.started_unix_s or None)
    header, pieces = open_frame(raw)
    started, ended = header["times"]
    view = replace(view, started_unix_s=started, ended_unix_s=ended)
    if "value" in header:
        return replace(view, state="finished", value=read_output(txn, seq, *read_value(header["value"], pieces)))
    if "error" in header:
        return replace(view, state="failed", error=read_error(header["error"], pieces))
    if header["group"] != index:
        # In the middle of a chain of continuations: the task that the chain began with stands for the value of all.
        value = get_task(txn, seq, header["group"]).value
        if value is not None:
            return replace(view, state="finished", value=value)
    return replace(view, state="continuing")


def read_output(txn: ReadTransaction, seq: int, value: Value, origin: TaskIndex | None) -> Value:
    """A value with everything in it that stands in other tasks' rows."""
    if origin is not None:
        base = get_task(txn, seq, origin).value
        value = replace(value, base=None if base is None else base.base)
    elif isinstance(value.base, Split):
        values = [(at, get_task(txn, seq, at).value) for at, _ in value.base.ready]
        value = replace(value, base=replace(value.base, ready=tuple((at, v) for at, v in values if v is not None)))
    return value


def forget_failures(txn: WriteTransaction, seq: int) -> None:
    """Remove what is logged of tasks that failed: the workflow is run again from there."""
    for key, raw in txn.scan(layout.task(seq)):
        if "error" in open_frame(raw)[0]:
            txn.delete(key)


# -- queue -------------------------------------------------------------------------------------------------------------


def enqueue(txn: WriteTransaction, seq: int) -> int:
    """Put a workflow at the end of the queue; its place there."""
    number = count_up(txn, "queue")
    txn.put(layout.queued(number), layout.pack(seq))
    return number


def leave_queue(txn: WriteTransaction, number: int) -> None:
    """Take a workflow out of the queue."""
    txn.delete(layout.queued(number))


def first_queued(txn: ReadTransaction) -> tuple[int, int] | None:
    """(place in the queue, workflow) of what is next; None when nothing is queued."""
    first = next(txn.scan(layout.QUEUE), None)
    return None if first is None else (layout.last_part(first[0]), layout.unpack(first[1]))


def list_by_ids(txn: ReadTransaction, seqs: Sequence[int]) -> list[WorkflowRow]:
    """The rows of these workflows that still exist. One that is damaged is left out, and the log says so."""
    rows = []
    for seq in seqs:
        try:
            row = get(txn, seq)
        except StorageCorruptError as error:
            log.error("%s", error)
            continue
        if row is not None:
            rows.append(row)
    return rows
