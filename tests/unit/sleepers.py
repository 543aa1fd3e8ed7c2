"""Sleeping workflows in a store in memory, and the real core of the executor that wakes them."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import FireTimer, Submit
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.memory import MemoryStore

EXECUTOR = "executor-0"


class Sleepers:
    """Workflows that wait for a time each.

    Attributes:
        kv: The store.
        core: Their executor.
    """

    def __init__(self) -> None:
        self.kv = MemoryStore()
        self.core = ExecutorCore(self.kv, EXECUTOR)
        self._made = 0

    def add(self, *dues_unix_s: float, now_unix_s: float) -> None:
        """Submit a workflow for each of these times."""
        for due_unix_s in dues_unix_s:
            self._made += 1
            node = NodeSpec(task_id="sleep", kind=NodeKind.SLEEP, duration_s=due_unix_s - now_unix_s)
            name = f"sleeper-{self._made}"
            submit = Submit(workflow_id=name, nonce=name, graph=Graph(nodes=(node,), sink=0))
            self.core.perform([submit], now_unix_s)

    def fire(self, timers: Sequence[tuple[float, int, int]], now_unix_s: float) -> None:
        """What the executor does when it is told."""
        self.core.perform([FireTimer(seq=seq, task=task, due_unix_s=due) for due, seq, task in timers], now_unix_s)

    def ends(self) -> list[float]:
        """When those ended that have, in order of submission."""
        with self.kv.read() as txn:
            rows = store.list_by_ids(txn, store.list_seqs(txn, WorkflowStatus.SUCCESSFUL))
        return [row.ended_unix_s for row in rows if row.ended_unix_s is not None]
