"""Events of outside sources under the simulation: laws, and faults that they catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast.engine import reading
from holdfast.listeners import kafka_intake
from holdfast.storage import event_claims, event_readers, event_store, layout, subscriptions
from tests.simulation.source_world import SourceWorld, run_source_seed

SEEDS = 1_000


def test_events_reach_whoever_reads_them_whatever_crashes() -> None:
    broken = [line for seed in range(SEEDS) if (line := run_source_seed(seed)) is not None]
    assert broken == []


class ForgetfulReader(SourceWorld):
    """Loses how far it has read: the positions are written without the events now and then."""

    def ingest(self, events: Any, moves: Any) -> event_store.Ingested:
        return super().ingest(events[:-1] if self.random.random() < 0.1 else events, moves)


class RepeatingReader(SourceWorld):
    """Takes a batch in under new dedupe ids, as a reader that counts by itself would."""

    def ingest(self, events: Any, moves: Any) -> event_store.Ingested:
        if self.random.random() < 0.1:
            super().ingest(events, {})
        return super().ingest(events, moves)

    def expire(self) -> None:
        """An event is known again while it is kept: this reader, who needs that, is spared the rest."""


def _no_wake_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(event_readers, "pending_wakes", lambda txn, limit: [])


def _cursor_stands_still(patch: pytest.MonkeyPatch) -> None:
    honest = event_readers.pull

    def pull(txn: Any, row: Any, stream: Any) -> Any:
        found = honest(txn, row, stream)
        txn.delete_prefix(b"C" + row.seq.to_bytes(8, "big"))
        return found

    patch.setattr(event_readers, "pull", pull)


def _readers_are_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(event_readers, "_wait", lambda txn, row, source, selector: None)


def _positions_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    honest = event_store.ingest

    def ingest(txn: Any, name: str, events: Any, *, moves: Any, now_unix_s: float) -> Any:
        known = event_store.positions(txn, name)
        fresh = {at: (known.get(at), new) for at, (_, new) in moves.items()}
        return honest(txn, name, events, moves=fresh, now_unix_s=now_unix_s)

    patch.setattr(event_store, "ingest", ingest)


def _start_rows_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(subscriptions, "note_started", lambda txn, rule, number, repeated: None)


def _only_early_events_are_read(patch: pytest.MonkeyPatch) -> None:
    honest = event_readers._candidates
    patch.setattr(event_readers, "_candidates", lambda txn, s, sel, after: list(honest(txn, s, sel, after))[-1:])


def _limits_are_short(patch: pytest.MonkeyPatch) -> None:
    honest = reading.wait_until
    patch.setattr(reading, "wait_until", lambda task, due, step: honest(task, due - 5.0, step))


def _only_starts_are_promised(patch: pytest.MonkeyPatch) -> None:
    honest = event_claims.claims_of
    patch.setattr(event_store, "claims_of", lambda txn, source: replace(honest(txn, source), unread={}))


def _only_waits_are_promised(patch: pytest.MonkeyPatch) -> None:
    honest = event_claims.claims_of
    patch.setattr(event_store, "claims_of", lambda txn, source: replace(honest(txn, source), to_start=None))


def _next_one_counts_as_read(patch: pytest.MonkeyPatch) -> None:
    honest = event_claims.claims_of

    def claims_of(txn: Any, source: int) -> event_claims.Claims:
        claims = honest(txn, source)
        return replace(claims, unread={text: read + 1 for text, read in claims.unread.items()})

    patch.setattr(event_store, "claims_of", claims_of)


def _second_wake_row_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Of the wake rows of one batch only the first is written: who is told of it does not read the other stream."""
    honest = event_store.ingest

    class OneWake:
        def __init__(self, txn: Any) -> None:
            self._txn, self._first = txn, b""

        def __getattr__(self, name: str) -> Any:
            return getattr(self._txn, name)

        def put(self, key: bytes, value: bytes) -> None:
            if key.startswith(layout.WAKES):
                self._first = self._first or key
                if key != self._first:
                    return
            self._txn.put(key, value)

    def ingest(txn: Any, *arguments: Any, **about: Any) -> Any:
        return honest(OneWake(txn), *arguments, **about)

    patch.setattr(event_store, "ingest", ingest)


def _dedupe_without_partition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kafka_intake, "dedupe_id", lambda topic_id, partition, offset: f"{topic_id}/{offset}")


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], type[SourceWorld]]] = {
    "positions are written without their events": (lambda patch: None, ForgetfulReader),
    "wakes that were not told are forgotten": (_no_wake_rows, SourceWorld),
    "the cursor does not move": (_cursor_stands_still, SourceWorld),
    "who waits is not noted": (_readers_are_not_noted, SourceWorld),
    "a stale reader may move positions": (_positions_are_not_compared, SourceWorld),
    "what has started a workflow is not noted": (_start_rows_stay, SourceWorld),
    "the time of a wait is over too early": (_limits_are_short, SourceWorld),
    "the second wake row of one batch is lost": (_second_wake_row_is_lost, SourceWorld),
    "a message of Kafka is told apart without its partition": (_dedupe_without_partition, SourceWorld),
    "the newest event is read first": (_only_early_events_are_read, SourceWorld),
    "an event that a workflow waits for expires": (_only_starts_are_promised, SourceWorld),
    "an event that is to start a workflow expires": (_only_waits_are_promised, SourceWorld),
    "the next event that a workflow waits for expires": (_next_one_counts_as_read, SourceWorld),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_deliberate_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inject, world = FAULTS[name]
    inject(monkeypatch)
    assert any(run_source_seed(seed, world) for seed in range(SEEDS)), f"{SEEDS} schedules did not show that {name}"


def test_a_batch_that_is_taken_in_twice_counts_once() -> None:
    broken = [line for seed in range(200) if (line := run_source_seed(seed, RepeatingReader)) is not None]
    assert broken == []
