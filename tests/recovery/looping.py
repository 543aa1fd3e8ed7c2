"""A workflow that sleeps, works and continues with itself, driven over a store that counts what is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Batch, Deliver, FireTimer, Recover, Submit
from holdfast.engine.commands import StartTask
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.records import TimerSet
from holdfast.engine.signals import TaskContinued, TaskReturned
from holdfast.storage.interface import KeyValueStore, ReadTransaction, WriteTransaction
from holdfast.storage.payload import Payload

NIGHT_S = 10.0


class CountingTransaction:
    """A transaction that counts the rows it gives out."""

    def __init__(self, txn: WriteTransaction) -> None:
        self.rows = 0
        self._txn = txn
        self.put, self.delete, self.delete_prefix = txn.put, txn.delete, txn.delete_prefix

    def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return self._txn.get(key)

    def scan(
        self, prefix: bytes, *, start: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in self._txn.scan(prefix, start=start, reverse=reverse):
            self.rows += 1
            yield row


class CountingStore:
    """A store that knows how many rows its last write transaction read."""

    def __init__(self, kv: KeyValueStore) -> None:
        self.url, self.rows = kv.url, 0
        self._kv = kv

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        with self._kv.read() as txn:
            yield txn

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        with self._kv.write() as txn:
            counting = CountingTransaction(txn)
            yield counting
            self.rows = counting.rows

    def close(self) -> None:
        self._kv.close()


class Loop:
    """The workflow, and the executor that drives it.

    Attributes:
        core: The executor; another one may be put in its place, as after a crash.
        now_unix_s: The time.
        rounds: How often it has slept.
        task_ids: Ids of the tasks that ran, in order.
    """

    def __init__(self, core: ExecutorCore, *, named: bool = False) -> None:
        self.core = core
        self.now_unix_s = 1_700_000_000.0
        self.rounds = 0
        self.task_ids: list[str] = []
        self._named = named
        batch = core.perform([Submit(workflow_id="loop", graph=self.graph(), nonce="n")], self.now_unix_s)
        self._note(batch)

    def graph(self) -> Graph:
        """Sleep, then work."""
        task_id = f"night {self.rounds}" if self._named else "work"
        sleep = NodeSpec(task_id="sleep", kind=NodeKind.SLEEP, duration_s=NIGHT_S)
        return Graph(nodes=(sleep, NodeSpec(task_id=task_id, function="f" * 32, inputs=(0,))), sink=1)

    def wake(self) -> None:
        """The sleep is over."""
        self.now_unix_s = self._timer.due_unix_s
        fire = FireTimer(seq=self.seq, task=self._timer.task, due_unix_s=self._timer.due_unix_s)
        self._note(self.core.perform([fire], self.now_unix_s))

    def go_on(self) -> None:
        """The task that works returns the loop once more, and all sleeps."""
        self.rounds += 1
        about = {"task": self.started.task, "attempt": self.started.attempt, "started_unix_s": self.now_unix_s}
        signal = TaskContinued(**about, ended_unix_s=self.now_unix_s, graph=self.graph())
        self._note(self.core.perform([Deliver(seq=self.seq, signal=signal)], self.now_unix_s))

    def recover(self) -> int:
        """Another process has the executor's name now and takes up what it held; the task that it starts."""
        self._note(self.core.perform([Recover(seq=self.seq)], self.now_unix_s))
        return self.started.task

    def stop(self) -> Batch:
        """The task that works returns a value."""
        about = {"task": self.started.task, "attempt": self.started.attempt, "started_unix_s": self.now_unix_s}
        signal = TaskReturned(**about, ended_unix_s=self.now_unix_s, value=Payload(b"the end"))
        return self.core.perform([Deliver(seq=self.seq, signal=signal)], self.now_unix_s)

    def turn(self, rounds: int) -> None:
        """Go round and round, and sleep."""
        for _ in range(rounds):
            self.wake()
            self.go_on()

    def _note(self, batch: Batch) -> None:
        for row, record in batch.logged:
            self.seq = row.seq
            if isinstance(record, TimerSet):
                self._timer = record
        for _, command in batch.commands:
            if isinstance(command, StartTask):
                self.started = command
                self.task_ids.append(command.node.task_id)
