"""The audit: what ran, by a file outside of Holdfast, held against what was logged, by the store.

A task may run more than once only as long as no result of it is logged. So

1. the attempt whose result is logged is the last one: no line of a task is later than the end of that attempt, and
   one lies within it;
2. of a task that was found logged at some moment (before a kill) no line is later than that moment.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast import workflow
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.workflow.workflow_context import get_current_task_id, get_current_workflow_id

TaskKey = tuple[str, str]
"""Workflow id and task id."""


def note(path: str) -> None:
    """Called by a task: append one line, in one write."""
    line = f"{time.time()!r}\t{get_current_workflow_id()}\t{get_current_task_id()}\t{os.getpid()}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def runs(path: Path) -> dict[TaskKey, list[float]]:
    """When each task ran: the beginnings of its attempts, in seconds since the epoch."""
    found: dict[TaskKey, list[float]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            at, workflow_id, task_id, _ = line.split("\t")
            found.setdefault((workflow_id, task_id), []).append(float(at))
    return found


@dataclass(frozen=True)
class Logged:
    """Of the attempt whose result is in the store."""

    started_unix_s: float
    ended_unix_s: float


def logged(storage: Path) -> dict[TaskKey, Logged]:
    """The tasks whose results are in the store, read from the folder itself."""
    folder = StorageFolder.open(storage, create=False)
    try:
        found: dict[TaskKey, Logged] = {}
        with folder.kv.read() as txn:
            everything = frozenset(workflow.WorkflowStatus) - {workflow.WorkflowStatus.NONE}
            for seq, workflow_id, _ in store.list_workflows(txn, everything, limit=1_000_000):
                image = store.load_image(txn, seq)
                for record in (*image.continuing.values(), *image.finished.values()):
                    found[workflow_id, record.task_id] = Logged(record.started_unix_s, record.ended_unix_s)
        return found
    finally:
        folder.close()


@dataclass
class Audit:
    """One audit file and the folder it is held against."""

    path: Path
    storage: Path
    _moments: list[tuple[float, frozenset[TaskKey]]] = field(default_factory=list)

    def remember_logged(self) -> None:
        """Take down what is logged now: none of it may run from here on."""
        found = frozenset(logged(self.storage))
        self._moments.append((time.time(), found))

    def check(self, *, least_tasks: int = 1) -> Mapping[TaskKey, int]:
        """Hold the file against the store.

        Returns:
            How often the tasks ran that ran more than once.

        Raises:
            AssertionError: A logged task ran again; or fewer tasks ran than should have, so that nothing is shown.
        """
        ran, in_store = runs(self.path), logged(self.storage)
        assert len(ran) >= least_tasks, f"only {len(ran)} tasks ran"
        _refuse(
            (key, at)
            for key, times in ran.items()
            if key in in_store
            for at in times
            if at > in_store[key].ended_unix_s
        )
        unaccounted = [
            key
            for key, times in ran.items()
            if key in in_store
            and not any(in_store[key].started_unix_s <= at <= in_store[key].ended_unix_s for at in times)
        ]
        assert not unaccounted, f"logged, but no line tells of the attempt: {unaccounted[:5]}"
        for moment, known in self._moments:
            _refuse((key, at) for key in known for at in ran.get(key, ()) if at > moment)
        return Counter({key: len(times) for key, times in ran.items() if len(times) > 1})


def _refuse(again: Iterable[tuple[TaskKey, float]]) -> None:
    found = list(again)
    assert not found, f"{len(found)} logged tasks ran again: {found[:5]}"
