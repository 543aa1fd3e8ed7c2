"""Workflows that read the streams of outside sources: how far each has read, who waits, and who is to be woken.

A workflow's executor pulls: the event, the cursor and what the workflow makes
of it are one transaction of the executor's. Rows here are never needed for
correctness of what is read, but for `cursor`: who waits is a hint for whoever
takes events in, and a stale hint costs one look.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from holdfast.engine.selectors import Selector, parse_selector
from holdfast.storage import layout
from holdfast.storage.beginnings import oldest_unix_s
from holdfast.storage.event_store import (
    Source,
    StoredEvent,
    events_after,
    events_of_key_after,
    find_source,
    last_number,
    need_source,
)
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.workflow_row import WorkflowRow
from holdfast.storage.workflow_store import list_by_ids

Stream = tuple[str, str]


def pull(txn: WriteTransaction, row: WorkflowRow, stream: Stream) -> tuple[StoredEvent | None, str | None]:
    """The next event of a stream for a workflow, once; the cursor moves with it.

    Args:
        txn: The transaction in which the workflow takes it.
        row: The workflow.
        stream: (source, text of a selector).

    Returns:
        The event, or None when there is none yet: then the workflow stands among those that wait. And the name of
        the source, when nobody had asked for it before: whoever reads such sources has to be told.
    """
    name, text = stream
    selector = parse_selector(text)
    source, new = need_source(txn, name, _wanted_since(txn, row), decoded=not selector.raw)
    key = layout.cursor(row.seq, source.number, text)
    raw = txn.get(key)
    known = row.events_from if raw is None else int(orjson.loads(raw)["at"])
    seen = known
    found: StoredEvent | None = None
    for event in _candidates(txn, source, selector, known):
        seen = event.number
        if _selects(selector, event, row, source):
            found = event
            break
    if found is None:
        # What has been looked at need not be looked at again. Whoever takes events in is in no transaction now.
        seen = max(seen, last_number(txn))
        _wait(txn, row, source, selector)
    else:
        txn.delete(layout.readers(source.number, text, row.seq))
    if raw is None or seen != known:
        txn.put(key, orjson.dumps({"at": seen, "stream": stream}))
    _not_told_of(txn, row.seq, source.number, text)
    return found, name if new else None


def stop_waiting(txn: WriteTransaction, seq: int, stream: Stream) -> None:
    """No task of the workflow waits on this stream any more. How far it has read is kept."""
    source = find_source(txn, stream[0])
    if source is not None:
        txn.delete(layout.readers(source.number, stream[1], seq))
        _not_told_of(txn, seq, source.number, stream[1])


def _not_told_of(txn: WriteTransaction, seq: int, source: int, text: str) -> None:
    for row in (layout.wake, layout.unread):
        txn.delete(row(seq, source, text))


def leave_unread(txn: WriteTransaction, seq: int) -> None:
    """Note that no executor drives a workflow at present: its events stay for when it is resumed."""
    for key, raw in list(txn.scan(layout.wake(seq))):
        _, text = _stream(raw)
        txn.put(layout.unread(seq, layout.wake_source(key), text), raw)
        txn.delete(key)


def forget_reader(txn: WriteTransaction, seq: int, *, cursors: bool) -> None:
    """A workflow has ended, or is to be deleted.

    Args:
        txn: The transaction.
        seq: The workflow.
        cursors: Forget how far it has read, too: it will not be resumed.
    """
    rows = [(key, raw) for key, raw in txn.scan(layout.cursor(seq))]
    for key, raw in rows:
        stop_waiting(txn, seq, _stream(raw))
        if cursors:
            txn.delete(key)


def woken(txn: ReadTransaction, seq: int) -> list[Stream]:
    """The streams on which there is an event for a workflow that waits."""
    return [_stream(raw) for _, raw in txn.scan(layout.wake(seq))]


def pending_wakes(txn: ReadTransaction, limit: int) -> list[tuple[str, int]]:
    """(executor, number) of workflows that are to be woken: whoever was to tell them may have died.

    Args:
        txn: The transaction.
        limit: At most so many.
    """
    seqs: dict[int, None] = {}
    for key, _ in txn.scan(layout.WAKES):
        seqs[layout.wake_seq(key)] = None
        if len(seqs) >= limit:
            break
    return executors_of(txn, seqs)


def executors_of(txn: ReadTransaction, seqs: dict[int, None] | tuple[int, ...]) -> list[tuple[str, int]]:
    """(executor, number) of the workflows of these numbers that there are."""
    return [(row.executor, row.seq) for row in list_by_ids(txn, tuple(seqs))]


def _stream(raw: bytes) -> Stream:
    source, text = orjson.loads(raw)["stream"]
    return source, text


def _wait(txn: WriteTransaction, row: WorkflowRow, source: Source, selector: Selector) -> None:
    text = selector.text
    if selector.where is not None:
        names = sorted(selector.where)
        txn.put(layout.field_set(source.number, orjson.dumps(names).decode()), orjson.dumps(names))
    txn.put(layout.readers(source.number, text, row.seq), orjson.dumps({"stream": (source.name, text)}))


def _candidates(txn: ReadTransaction, source: Source, selector: Selector, after: int) -> Iterator[StoredEvent]:
    if selector.key is not None:
        return events_of_key_after(txn, source.number, selector.key, after)
    return events_after(txn, source.number, after)


def _selects(selector: Selector, event: StoredEvent, row: WorkflowRow, source: Source) -> bool:
    if event.before_use:
        # The number says that it came later, but it had been there before the source was first used.
        younger = source.begun_seq is not None and row.seq > source.begun_seq
        if younger or event.time_unix_s < row.submitted_unix_s:
            return False
    fields = event.fields() if selector.where is not None else None
    return selector.matches(event.key, fields, undecodable=event.undecodable)


def _wanted_since(txn: ReadTransaction, row: WorkflowRow) -> float:
    """From when on events of a new source are wanted: since the oldest workflow that may still ask for them."""
    oldest = oldest_unix_s(txn)
    return row.submitted_unix_s if oldest is None else min(oldest, row.submitted_unix_s)
