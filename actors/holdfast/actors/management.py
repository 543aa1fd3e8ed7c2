"""The management actor: owns the storage folder for a cluster, and the executors that write to it.

One to a cluster, named and detached. It runs no user code and drives no
workflow: executors do. It spawns them, watches them, wakes them when timers
come due, and answers questions about what is in the store. When it dies and
Ray starts it again, it reads the store and finds its executors by name: what
they drive is not disturbed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import ray
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.executor import Executor
from holdfast.actors.executor_core import lose_cluster
from holdfast.actors.ray_untyped import actor_class, remote
from holdfast.actors.storage_access import StorageAddress
from holdfast.engine.errors import HoldfastError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.platform_lock import PlatformLock
from holdfast.storage.workflow_row import TaskView, WorkflowRow

log = logging.getLogger("holdfast")

_PING_EVERY_S = 2.0
_ALARM = "alarm"
_TIMERS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfig:
    """How a platform is set up.

    Attributes:
        storage: Absolute path of the storage folder.
        executors: How many executors.
        max_running, max_pending: Limits on workflows; None for no limit.
        lease_s: Seconds after which an executor that does not answer is ended and its workflows are taken up anew.
    """

    storage: str
    executors: int
    max_running: int | None = None
    max_pending: int | None = None
    lease_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformDescription:
    """What clients need to know of a platform.

    Attributes:
        config: Its configuration.
        address: Where the storage folder is.
        executors: Names of the executors, in order.
    """

    config: PlatformConfig
    address: StorageAddress
    executors: tuple[str, ...]


@remote(num_cpus=0, max_concurrency=10_000)
class ManagementActor:
    """Owns the storage folder. Decides nothing about a workflow: the engine does, in its executor.

    Args:
        config: Set by whoever made the platform; the same after a restart.
    """

    def __init__(self, config: PlatformConfig) -> None:
        self._config = config
        self._folder: StorageFolder | None = None
        self._executors: dict[str, Any] = {}
        self._pids: dict[str, int] = {}
        self._heard_unix_s: dict[str, float] = {}
        self._scheduler = AsyncIOScheduler(timezone=timezone.utc)
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()
        context = ray.get_runtime_context()
        self._node_id: str = context.get_node_id()
        self._platform_id = f"{self._node_id}-{context.get_actor_id()}"
        if context.was_current_actor_reconstructed:
            self._open()

    async def open(self, config: PlatformConfig) -> PlatformConfig:
        """Open the storage and start; again: no effect.

        Returns:
            The configuration in force, which is another's when the platform was there already.

        Raises:
            StorageError: The folder cannot be used.
        """
        if self._folder is None:
            self._config = config
            self._open()
        return self._config

    def _open(self) -> None:
        config = self._config
        folder = StorageFolder.open(config.storage)
        lock = PlatformLock(folder.path)
        try:
            lock.acquire(self._platform_id)
            with folder.kv.read() as txn:
                known = store.load_setting(txn, "platform_id")
            if known != self._platform_id:
                lose_cluster(folder.kv)
            with folder.kv.write() as txn:
                store.save_setting(txn, "platform_id", self._platform_id)
                store.save_setting(
                    txn, "limits", {"max_running": config.max_running, "max_pending": config.max_pending}
                )
        except HoldfastError:
            lock.release()
            folder.close()
            raise
        self._folder, self._lock = folder, lock
        self._config = config = replace(config, storage=str(folder.path))
        self._address = StorageAddress(str(folder.path), self._node_id, self._platform_id[-16:])
        for number in range(config.executors):
            name = names.executor_name(number)
            self._executors[name] = self._executor(name)
            self._heard_unix_s[name] = time.time()
        self._scheduler.start()
        self._set_alarm()
        self._opened.set()
        watch = asyncio.get_running_loop().create_task(self._watch_executors())
        self._tasks.add(watch)

    def _executor(self, name: str) -> Any:
        return (
            actor_class(Executor)
            .options(
                name=name,
                namespace=names.NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._node_id, soft=False),
            )
            .remote(name, self._address, self._platform_id)
        )

    @property
    def _kv(self) -> Any:
        assert self._folder is not None
        return self._folder.kv

    # -- asked by clients ----------------------------------------------------------------------------------------

    async def describe(self) -> PlatformDescription:
        """What clients need to know; once the storage is open."""
        await self._opened.wait()
        return PlatformDescription(config=self._config, address=self._address, executors=tuple(self._executors))

    async def list_workflows(
        self, statuses: Collection[WorkflowStatus], after: int, limit: int
    ) -> list[tuple[int, str, WorkflowStatus]]:
        """A page of (number, id, status), in order of submission."""
        with self._kv.read() as txn:
            return store.list_workflows(txn, statuses, after=after, limit=limit)

    async def workflow(self, workflow_id: str) -> WorkflowRow | None:
        """A workflow as the store knows it, without its values."""
        with self._kv.read() as txn:
            row = store.find(txn, workflow_id)
        # Values need not travel, and some could not.
        return None if row is None else replace(row, output=None, error=None)

    async def task(self, seq: int, task_id: str) -> TaskView | None:
        """A task as the store knows it, without its values."""
        with self._kv.read() as txn:
            view = store.find_task(txn, seq, task_id)
        if view is None:
            return None
        return replace(view, value=None, error=None, node=replace(view.node, arguments=b""))

    async def task_ids(self, seq: int, indexes: Sequence[int]) -> list[str]:
        """Ids of tasks by number."""
        with self._kv.read() as txn:
            return [store.get_task(txn, seq, index).node.task_id for index in indexes]

    async def resumable(self, include_failed: bool) -> list[tuple[str, WorkflowStatus]]:
        """(id, status) of what can be taken up: what ran before what waited in the queue."""
        order = [WorkflowStatus.RESUMABLE, WorkflowStatus.PENDING]
        if include_failed:
            order.insert(1, WorkflowStatus.FAILED)
        found: list[tuple[str, WorkflowStatus]] = []
        with self._kv.read() as txn:
            for status in order:
                rows = store.list_by_ids(txn, store.list_seqs(txn, status))
                found.extend((row.workflow_id, row.status) for row in rows)
        return found

    async def status(self) -> dict[str, Any]:
        """The processes of the platform, for people."""
        for name, executor in self._executors.items():
            self._pids[name] = await executor.ping.remote()
        return {
            "storage": str(self._config.storage),
            "management": {"pid": os.getpid(), "node_id": self._node_id},
            "executors": [{"name": name, "pid": pid} for name, pid in self._pids.items()],
        }

    async def close(self) -> list[str]:
        """Let go of the folder; names of the actors that are to be ended with this one."""
        for task in self._tasks:
            task.cancel()
        if self._scheduler.get_job(_ALARM) is not None:
            self._scheduler.remove_job(_ALARM)
        await asyncio.gather(
            *(executor.close.remote() for executor in self._executors.values()), return_exceptions=True
        )
        self._lock.release()
        return list(self._executors)

    # -- timers --------------------------------------------------------------------------------------------------

    async def note_deadline(self, due_unix_s: float) -> None:
        """An executor has set a timer that may be the earliest."""
        alarm = self._scheduler.get_job(_ALARM)
        if alarm is None or due_unix_s < alarm.next_run_time.timestamp():
            self._ring_at(due_unix_s)

    def _set_alarm(self, not_before_unix_s: float = 0.0) -> None:
        with self._kv.read() as txn:
            due_unix_s = store.next_due(txn)
        if due_unix_s is not None:
            self._ring_at(max(due_unix_s, not_before_unix_s))

    def _ring_at(self, due_unix_s: float) -> None:
        self._scheduler.add_job(
            self._ring,
            "date",
            run_date=datetime.fromtimestamp(due_unix_s, tz=timezone.utc),
            id=_ALARM,
            replace_existing=True,
            misfire_grace_time=None,
            max_instances=1_000,
        )

    async def _ring(self) -> None:
        """Wake the executors whose timers have come due. The rows are theirs to remove, with what the wake writes."""
        with self._kv.read() as txn:
            due = store.due_timers(txn, time.time(), _TIMERS_AT_ONCE)
            rows = {seq: store.get(txn, seq) for seq in {seq for _, seq, _ in due}}
        by_executor: dict[str, list[tuple[float, int, int]]] = {}
        for due_unix_s, seq, task in due:
            row = rows[seq]
            executor = (
                row.executor if row is not None and row.executor in self._executors else next(iter(self._executors))
            )
            by_executor.setdefault(executor, []).append((due_unix_s, seq, task))
        calls = [self._executors[executor].fire.remote(timers) for executor, timers in by_executor.items()]
        if calls:
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    log.error("timers could not be fired, trying again: %s", outcome)
        # What could not be fired is still there: look again, but not at once.
        self._set_alarm(time.time() + (0.2 if due else 0.0) if len(due) < _TIMERS_AT_ONCE else 0.0)

    # -- executors -----------------------------------------------------------------------------------------------

    async def _watch_executors(self) -> None:
        """End an executor that no longer answers: a stopped writer could hold the store's lock."""
        while True:
            for name, executor in self._executors.items():
                call = asyncio.ensure_future(_ping(executor))
                done, _ = await asyncio.wait([call], timeout=self._config.lease_s)
                if done:
                    pid = call.result()
                    if pid is not None:
                        self._pids[name], self._heard_unix_s[name] = pid, time.time()
                elif name in self._pids:
                    log.error(
                        "executor %s has not answered for %g s: ending process %d",
                        name,
                        self._config.lease_s,
                        self._pids[name],
                    )
                    _end_process(self._pids.pop(name))
            await asyncio.sleep(_PING_EVERY_S)


async def _ping(executor: Any) -> int | None:
    try:
        pid: int = await executor.ping.remote()
    except (RayActorError, RayError):
        # Ray is starting it again; the next ping tells.
        return None
    return pid


def _end_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        log.info("process %d had ended already", pid)
