"""How workflows came out, for whoever waits: values, or the errors to raise.

User values and errors leave here sealed: they become themselves in the process
that asked.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable
from typing import Any

from holdfast.actors.local_frames import asked_here
from holdfast.actors.nodes import TaskRefNode
from holdfast.actors.operations import Elsewhere
from holdfast.actors.sealed import Answer, InFile, Sealed, SealedError
from holdfast.actors.storage_access import object_blob
from holdfast.actors.values import render
from holdfast.engine.errors import (
    HoldfastError,
    OutputNotAvailableError,
    WorkflowCancellationError,
    WorkflowExecutionError,
)
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split, Value
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import ReadTransaction
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring
from holdfast.storage.workflow_row import WorkflowRow

_NONE = Payload(pickle.dumps(None, 5))


class SealedSplit:
    """The value of a `wait` on its way through an actor."""

    def __init__(self, ready: list[Any], remaining: list[TaskRefNode], caught: bool, wraps: int) -> None:
        self._parts = (ready, remaining, caught, wraps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _split, self._parts


def _split(ready: list[Any], remaining: list[TaskRefNode], caught: bool, wraps: int) -> Any:
    return render((ready, remaining), caught=caught, wraps=wraps)


class Answers:
    """Answers from the store, and tells who waits for one that is not there yet.

    Args:
        folder: The storage folder.
        executor: Name of the executor that this belongs to.
    """

    def __init__(self, folder: StorageFolder, executor: str) -> None:
        self._folder, self._executor = folder, executor
        self._waiting: dict[int, list[asyncio.Future[WorkflowRow | None]]] = {}
        self._waiting_for_task: dict[int, list[asyncio.Future[WorkflowRow | None]]] = {}

    def ended(self, row: WorkflowRow) -> None:
        """A workflow has come to its end."""
        _wake(self._waiting.pop(row.seq, ()), row)
        _wake(self._waiting_for_task.pop(row.seq, ()))

    def task_ended(self, row: WorkflowRow) -> None:
        """A task of this workflow has its value."""
        if row.seq in self._waiting_for_task:
            _wake(self._waiting_for_task.pop(row.seq))

    async def wait(self, workflow_id: str, task_id: str | None = None, *, run: bool = True) -> Answer | Elsewhere:
        """The answer, when there is one.

        Args:
            workflow_id: The workflow.
            task_id: One of its tasks, in place of the whole.
            run: Asked for by who runs the workflow: a failure is then an execution error.
        """
        while True:
            # Between reading and waiting nothing else runs on this event loop, so no end is missed.
            with self._folder.kv.read() as txn:
                row = store.find(txn, workflow_id)
                if row is None:
                    return Answer(error=ValueError(f"No such workflow_id {workflow_id!r}"))
                answer = self._task_answer(txn, row, task_id) if task_id else self._workflow_answer(txn, row, run)
            if answer is not None:
                return answer
            if row.executor != self._executor:
                return Elsewhere(executor=row.executor)
            waiter: asyncio.Future[WorkflowRow | None] = asyncio.get_running_loop().create_future()
            waiting = self._waiting_for_task if task_id else self._waiting
            waiting.setdefault(row.seq, []).append(waiter)
            ended = await waiter
            if ended is not None and ended.status is WorkflowStatus.SUCCESSFUL and ended.output is not None:
                # As it was committed just now: no need to read it back.
                return self._sealed(ended.output, ended)

    def _workflow_answer(self, txn: ReadTransaction, row: WorkflowRow, run: bool) -> Answer | None:
        if row.status.active:
            return None
        if row.status is WorkflowStatus.SUCCESSFUL:
            assert row.output is not None
            return self._sealed(store.read_output(txn, row.seq, row.output, row.output_origin), row)
        return Answer(error=_error_of(row, run))

    def _task_answer(self, txn: ReadTransaction, row: WorkflowRow, task_id: str) -> Answer | None:
        view = store.find_task(txn, row.seq, task_id)
        if view is not None and view.value is not None:
            return self._sealed(view.value, row)
        if row.status.active:
            return None
        if view is None:
            return Answer(error=ValueError(f"No such task_id {task_id!r} in workflow {row.workflow_id!r}"))
        error = view.error if view.error is not None else row.error
        detail = f"Task {task_id!r} did not finish: the workflow is {row.status.value}."
        return Answer(error=_failure(OutputNotAvailableError, row, detail, error))

    def _sealed(self, value: Value, row: WorkflowRow) -> Answer:
        return Answer(value=self._seal(value, row))

    def _seal(self, value: Value, row: WorkflowRow) -> Any:
        base, objects = value.base, {}
        if isinstance(base, Split):
            ready = [self._seal(one, row) for _, one in base.ready]
            remaining = [TaskRefNode(row.workflow_id, at, task_id) for at, task_id in base.remaining]
            return SealedSplit(ready, remaining, value.caught, value.wraps)
        if isinstance(base, HoldfastError):
            base = Payload(pickle.dumps(base, 5))
            return Sealed(base, wraps=value.wraps, caught=False) if not value.caught else SealedCaught(base, value)
        if isinstance(base, Referring):
            objects = {key: self._folder.blobs.read(object_blob(row.nonce, key)) for key in base.objects}
            base = base.base
        payload: Payload | InFile
        if isinstance(base, Blob):
            blobs = self._folder.blobs
            here = asked_here.get() and blobs.exists(base.key)
            payload = InFile(str(blobs.root), base.key, base.nbytes) if here else blobs.read(base.key)
        else:
            payload = _NONE if base is None else base
        what = f"a value of workflow {row.workflow_id!r}"
        return Sealed(payload, objects, caught=value.caught, wraps=value.wraps, what=what)


class SealedCaught:
    """An error of Holdfast's own that `catch_exceptions` made a value."""

    def __init__(self, error: Payload, value: Value) -> None:
        self._parts = (bytes(error.inband), value.wraps)

    def __reduce__(self) -> tuple[Any, ...]:
        return _caught, self._parts


def _caught(error: bytes, wraps: int) -> Any:
    return render(pickle.loads(error), caught=True, wraps=wraps)


def _failure(kind: type[WorkflowExecutionError], row: WorkflowRow, detail: str, error: Any) -> WorkflowExecutionError:
    failure = kind(row.workflow_id, detail, SealedError(error) if isinstance(error, Payload) else error)
    # It has its cause again where it is unpickled. Here Ray would only write it, still sealed, into its own text.
    failure.__cause__ = None
    return failure


def _error_of(row: WorkflowRow, run: bool) -> Exception:
    if row.status is WorkflowStatus.CANCELED:
        return WorkflowCancellationError(row.workflow_id)
    if row.status is WorkflowStatus.FAILED:
        kind = WorkflowExecutionError if run else OutputNotAvailableError
        detail = f"Task {row.failed_task_id!r} failed." if row.failed_task_id else str(row.error)
        return _failure(kind, row, detail, row.error)
    return ValueError(
        f"Workflow[id={row.workflow_id}] is {row.status.value} and has no output: "
        f"take it up again with workflow.resume({row.workflow_id!r})."
    )


def _wake(waiters: Iterable[asyncio.Future[WorkflowRow | None]], row: WorkflowRow | None = None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(row)
