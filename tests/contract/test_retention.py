"""Workflows whose time is over go, the oldest first and a little at a time; what is active or young stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import Accepted, Cancel, Delete, Deliver, Resume, Submit
from holdfast.engine.errors import WorkflowNotFoundError
from holdfast.engine.graph import Graph, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryBudget
from holdfast.engine.signals import TaskRaised, TaskReturned
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload
from holdfast.storage.retention import LEAST_AGE_S, Retention, is_something_over, remove_finished

START_UNIX_S = 1_700_000_000.0
LONG_AFTER_UNIX_S = START_UNIX_S + 1e6
ONCE = NodeSpec(task_id="a", options=TaskOptions(budget=RetryBudget(deaths=0, errors=0)))
ALL = 10_000


class Platform:
    """Workflows that end one second after the other, in order of their numbers."""

    def __init__(self, kv: KeyValueStore) -> None:
        self.kv, self.core, self.now_unix_s = kv, ExecutorCore(kv, "executor"), START_UNIX_S

    def submit(self, *, tasks: int = 1) -> int:
        number = 0
        with self.kv.read() as txn:
            raw = txn.get(layout.counter("seq"))
            number = 1 if raw is None else layout.unpack(raw) + 1
        nodes = tuple(replace(ONCE, task_id=f"t{task}") for task in range(tasks))
        submit = Submit(workflow_id=f"w{number}", graph=Graph(nodes=nodes, sink=tasks - 1), nonce=f"{number:x}")
        (outcome,) = self.core.perform([submit], self.now_unix_s).outcomes
        assert isinstance(outcome, Accepted)
        assert outcome.seq == number
        return number

    def end(self, seq: int, how: str = "SUCCESSFUL", *, tasks: int = 1) -> None:
        self.now_unix_s += 1.0
        about = {"attempt": 1, "started_unix_s": self.now_unix_s, "ended_unix_s": self.now_unix_s}
        value = Payload(b"value")
        if how == "CANCELED":
            self.core.perform([Cancel(workflow_id=f"w{seq}")], self.now_unix_s)
        elif how == "FAILED":
            self.core.perform([Deliver(seq=seq, signal=TaskRaised(task=0, error=value, **about))], self.now_unix_s)
        else:
            signals = [TaskReturned(task=task, value=value, **about) for task in range(tasks)]
            self.core.perform([Deliver(seq=seq, signal=signal) for signal in signals], self.now_unix_s)
        assert self.status(seq) == how

    def ended(self, *how: str) -> list[int]:
        """Workflows that ended so, one after the other; their numbers."""
        seqs = [self.submit() for _ in how]
        for seq, one in zip(seqs, how, strict=True):
            self.end(seq, one)
        return seqs

    def status(self, seq: int) -> str:
        with self.kv.read() as txn:
            row = store.get(txn, seq)
        return "" if row is None else row.status.value

    def remove(self, now_unix_s: float, rows: int = ALL, **kept: float) -> list[str]:
        """One transaction; the folders of blobs that can go."""
        with self.kv.write() as txn:
            return remove_finished(txn, Retention(**kept), now_unix_s, rows).blob_groups  # type: ignore[arg-type]

    def there(self) -> list[int]:
        with self.kv.read() as txn:
            found = [seq for seq, _, _ in store.list_workflows(txn, list(WorkflowStatus), limit=1_000)]
            assert len(found) == sum(store.count(txn, status) for status in WorkflowStatus)
        return found

    def keys(self) -> list[bytes]:
        """All rows but counters, settings and marks of what was deleted."""
        with self.kv.read() as txn:
            return [key for key, _ in txn.scan(b"") if key[:1] not in (b"c", b"m", b"j")]


@pytest.fixture
def platform(store: KeyValueStore) -> Platform:
    return Platform(store)


def test_everything_is_kept_by_default(platform: Platform) -> None:
    seqs = platform.ended("SUCCESSFUL", "FAILED", "CANCELED")
    assert platform.remove(LONG_AFTER_UNIX_S) == []
    assert platform.there() == seqs


def test_what_ended_before_its_time_was_over_goes_whatever_its_end_was(platform: Platform) -> None:
    seqs = platform.ended("SUCCESSFUL", "FAILED", "CANCELED", "SUCCESSFUL", "FAILED", "CANCELED")
    platform.remove(START_UNIX_S + 3.5 + 100, keep_s=100.0)
    assert platform.there() == seqs[3:]


def test_nothing_is_left_of_what_was_removed_and_its_blobs_can_go(platform: Platform) -> None:
    platform.ended("SUCCESSFUL", "FAILED", "CANCELED")
    assert sorted(platform.remove(LONG_AFTER_UNIX_S, keep_s=1.0)) == ["1", "2", "3"]
    assert platform.keys() == []
    with platform.kv.read() as txn:
        assert not is_something_over(txn, Retention(keep_s=1.0, keep=0), LONG_AFTER_UNIX_S)


def test_the_last_ones_are_kept_by_count_and_failed_ones_are_not_counted(platform: Platform) -> None:
    seqs = platform.ended("SUCCESSFUL", "FAILED", "CANCELED", "SUCCESSFUL", "CANCELED")
    platform.remove(LONG_AFTER_UNIX_S, keep=2)
    assert platform.there() == [seqs[1], *seqs[3:]]
    platform.remove(LONG_AFTER_UNIX_S, keep=0)
    assert platform.there() == [seqs[1]]


def test_by_age_and_by_count_at_once(platform: Platform) -> None:
    seqs = platform.ended("FAILED", "SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL", "FAILED")
    # By age the first two go. Of the others that are counted, the last two stay.
    platform.remove(START_UNIX_S + 2.5 + 100, keep_s=100.0, keep=2)
    assert platform.there() == seqs[3:]


def test_what_is_active_or_resumable_stays(platform: Platform, store: KeyValueStore) -> None:
    running = platform.submit()
    platform.remove(LONG_AFTER_UNIX_S, keep_s=0.0, keep=0)
    lose_cluster(store, ["executor"])
    platform.remove(LONG_AFTER_UNIX_S, keep_s=0.0, keep=0)
    assert platform.status(running) == "RESUMABLE"


def test_what_has_only_just_ended_stays(platform: Platform) -> None:
    (seq,) = platform.ended("SUCCESSFUL")
    platform.remove(platform.now_unix_s + LEAST_AGE_S - 0.1, keep_s=0.0, keep=0)
    assert platform.there() == [seq]
    platform.remove(platform.now_unix_s + LEAST_AGE_S + 0.1, keep_s=0.0, keep=0)
    assert platform.there() == []


def test_a_failed_one_that_is_resumed_is_active_again_and_counts_from_its_new_end(platform: Platform) -> None:
    (seq,) = platform.ended("FAILED")
    platform.now_unix_s += 1_000.0
    platform.core.perform([Resume(workflow_id=f"w{seq}")], platform.now_unix_s)
    platform.remove(platform.now_unix_s, keep_s=100.0)
    assert platform.status(seq) == "RUNNING"
    platform.end(seq)
    platform.remove(platform.now_unix_s + 50.0, keep_s=100.0)
    assert platform.status(seq) == "SUCCESSFUL"
    platform.remove(platform.now_unix_s + 150.0, keep_s=100.0)
    assert platform.keys() == []


def test_a_failed_one_that_is_cancelled_keeps_the_time_of_its_end(platform: Platform) -> None:
    (seq,) = platform.ended("FAILED")
    ended_unix_s = platform.now_unix_s
    platform.now_unix_s += 1_000.0
    platform.core.perform([Cancel(workflow_id=f"w{seq}")], platform.now_unix_s)
    assert platform.status(seq) == "CANCELED"
    platform.remove(ended_unix_s + 100.5, keep_s=100.0)
    assert platform.keys() == []


def test_cancelling_what_has_succeeded_changes_nothing(platform: Platform) -> None:
    (seq,) = platform.ended("SUCCESSFUL")
    with platform.kv.read() as txn:
        before = dict(txn.scan(b""))
    platform.core.perform([Cancel(workflow_id=f"w{seq}")], platform.now_unix_s + 10)
    with platform.kv.read() as txn:
        assert dict(txn.scan(b"")) == before


def test_what_was_deleted_by_hand_leaves_nothing_in_the_index(platform: Platform) -> None:
    for seq in platform.ended("SUCCESSFUL", "FAILED", "CANCELED"):
        platform.core.perform([Delete(workflow_id=f"w{seq}")], platform.now_unix_s)
    assert platform.keys() == []


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_a_large_workflow_goes_in_several_transactions_and_is_gone_from_the_first_one_on(
    platform: Platform, rows: int
) -> None:
    seq = platform.submit(tasks=40)
    platform.end(seq, tasks=40)
    removed: list[str] = []
    transactions = 0
    while True:
        with platform.kv.read() as txn:
            if not is_something_over(txn, Retention(keep_s=1.0), LONG_AFTER_UNIX_S):
                break
        before = len(platform.keys())
        removed += platform.remove(LONG_AFTER_UNIX_S, rows, keep_s=1.0)
        transactions += 1
        assert before - len(platform.keys()) <= rows + 10
        assert platform.there() == []
        # The id is free at once, and what is left of the old one disturbs nobody.
        if transactions == 1:
            again = platform.submit(tasks=2)
            assert again != seq
            platform.core.perform([Cancel(workflow_id=f"w{again}")], platform.now_unix_s)
            platform.core.perform([Delete(workflow_id=f"w{again}")], platform.now_unix_s)
    assert transactions > 1
    assert removed == [f"{seq:x}"]
    assert platform.keys() == []


def test_a_submission_that_is_repeated_after_its_workflow_was_removed_does_not_run_again(platform: Platform) -> None:
    (seq,) = platform.ended("SUCCESSFUL")
    platform.remove(LONG_AFTER_UNIX_S, keep_s=1.0)
    submit = Submit(workflow_id=f"w{seq}", graph=Graph(nodes=(ONCE,), sink=0), nonce=f"{seq:x}")
    (outcome,) = platform.core.perform([submit], LONG_AFTER_UNIX_S).outcomes
    assert isinstance(outcome, WorkflowNotFoundError)


def test_a_damaged_one_goes_when_its_time_is_over_and_holds_up_nobody(platform: Platform) -> None:
    first, damaged, last = platform.ended("SUCCESSFUL", "SUCCESSFUL", "SUCCESSFUL")
    with platform.kv.write() as txn:
        txn.put(layout.workflow(damaged), b"damaged")
    assert platform.remove(LONG_AFTER_UNIX_S, keep_s=1.0) == [f"{first:x}", f"{last:x}"]
    assert platform.there() == []
    with platform.kv.read() as txn:
        assert not is_something_over(txn, Retention(keep_s=1.0), LONG_AFTER_UNIX_S)
        assert store.find(txn, f"w{damaged}") is None
        assert not store.owns_blobs(txn, f"{damaged:x}")


def test_one_that_was_deleted_while_it_was_damaged_holds_up_nobody(platform: Platform) -> None:
    damaged, last = platform.ended("SUCCESSFUL", "SUCCESSFUL")
    with platform.kv.write() as txn:
        txn.put(layout.workflow(damaged), b"damaged")
    platform.core.perform([Delete(workflow_id=f"w{damaged}")], platform.now_unix_s)
    assert platform.remove(LONG_AFTER_UNIX_S, keep_s=1.0) == [f"{last:x}"]
    with platform.kv.read() as txn:
        assert not is_something_over(txn, Retention(keep_s=1.0), LONG_AFTER_UNIX_S)


class Counting:
    """Counts what is read in a transaction."""

    def __init__(self, count: Callable[[], None], txn: object) -> None:
        self._count, self._txn = count, txn

    def scan(self, *arguments: object, **about: object) -> object:
        for entry in self._txn.scan(*arguments, **about):  # type: ignore[attr-defined]
            self._count()
            yield entry

    def __getattr__(self, name: str) -> object:
        return getattr(self._txn, name)


def test_what_it_costs_to_look_does_not_follow_how_many_are_kept(platform: Platform, tmp_path: Path) -> None:
    platform.ended(*["SUCCESSFUL"] * 200)
    looked = 0

    def count() -> None:
        nonlocal looked
        looked += 1

    with platform.kv.read() as txn:
        counting = Counting(count, txn)
        assert not is_something_over(counting, Retention(keep_s=1e9, keep=200), LONG_AFTER_UNIX_S)  # type: ignore[arg-type]
        assert is_something_over(counting, Retention(keep=150), LONG_AFTER_UNIX_S)  # type: ignore[arg-type]
    assert looked < 10
