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
import math
import os
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.executor import Executor
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operating_system import Process, this_process
from holdfast.actors.ray_untyped import actor_class, remote
from holdfast.actors.ringing import Ringing
from holdfast.actors.schedule_messages import ScheduleView
from holdfast.actors.source_hosts import SourceHosts, SourceReport
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.virtual.hosts import VirtualHosts
from holdfast.actors.virtual.requests import ActorPlace, CallView
from holdfast.engine.errors import HoldfastError, StorageError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.kafka_settings import KafkaSettings
from holdfast.storage import actor_store, schedule_store, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorDescription, ActorView, Reminder
from holdfast.storage.answered import forget_answers
from holdfast.storage.code_garbage import collect_code
from holdfast.storage.dead_letters import DeadLetter
from holdfast.storage.folder import StorageFolder
from holdfast.storage.garbage import collect_garbage
from holdfast.storage.platform_lock import PlatformLock, was_last_held_by
from holdfast.storage.retention import Retention, is_something_over, remove_finished
from holdfast.storage.schedule_store import ScheduleRow
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_row import TaskView, WorkflowRow

log = logging.getLogger("holdfast")

_PING_EVERY_S = 2.0
_CLOSING_S = 15.0
_REMOVE_EVERY_S = 1.0
_BREATH_S = 0.01
_ROWS_AT_ONCE = 500
# Ray repeats a call when the process that did it has come back, which takes seconds.
_REPEATED_WITHIN_S = 3600.0
_FORGET_EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfig:
    """How a platform is set up.

    Attributes:
        storage: Absolute path of the storage folder.
        executors: How many executors.
        max_running, max_pending: Limits on workflows; None for no limit.
        lease_s: Seconds after which an executor that does not answer is ended and its workflows are taken up anew.
        retention: How long workflows are kept that have ended.
    """

    storage: str
    executors: int
    max_running: int | None = None
    max_pending: int | None = None
    lease_s: float = 30.0
    retention: Retention = field(default_factory=Retention)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What a platform that has let go of its folder leaves to be ended.

    Attributes:
        executors: Names of the executors.
        processes: All of its processes, on the node of the folder.
    """

    executors: tuple[str, ...]
    processes: tuple[Process, ...]


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
        self._processes: dict[str, Process] = {}
        self._ringing: Ringing | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()
        self._closed = False
        # When an executor was last ended, by the monotonic clock.
        self._ended = -math.inf
        self._removed = 0
        context = ray.get_runtime_context()
        self._node_id: str = context.get_node_id()
        # Given to those it makes: to look it up by name is to load its class.
        self._handle = context.current_actor
        self._platform_id = f"{self._node_id}-{context.get_actor_id()}"
        if was_last_held_by(config.storage, self._platform_id):
            # Ray has started this actor again. The first time, whoever starts the platform is told what is the matter.
            self._open()

    async def open(self) -> bool:
        """Open the storage and start; again: no effect.

        Returns:
            Whether it is open; False when it was closed and waits to be ended.

        Raises:
            StorageError: The folder cannot be used.
        """
        if self._folder is None:
            self._open()
        return not self._closed

    def _open(self) -> None:
        config = self._config
        folder = StorageFolder.open(config.storage)
        lock = PlatformLock(folder.path)
        try:
            lock.acquire(self._platform_id)
            with folder.kv.read() as txn:
                known = store.load_setting(txn, "platform_id")
            if known != self._platform_id:
                lose_cluster(folder.kv, [names.executor_name(number) for number in range(config.executors)])
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
        self._address = StorageAddress(str(folder.path), self._node_id, self._platform_id[-16:], os.geteuid())
        for number in range(config.executors):
            name = names.executor_name(number)
            self._executors[name] = self._executor(name)
        with folder.kv.read() as txn:
            dedicated = store.holders(txn, names.DEDICATED)
        for name in dedicated:
            self._executors[name] = self._executor(name)
        self._recall_processes()
        self._sources = SourceHosts(folder.kv, self._address, self._platform_id, config.executors, config.lease_s)
        self._ringing = Ringing(folder.kv, self._executors)
        self._ringing.start()
        self._virtual = VirtualHosts(folder, self._address, self._platform_id, config.executors, config.lease_s)
        self._opened.set()
        self._keep(self._say_who_i_am())
        for name in self._executors:
            self._keep(self._watch(name))
        self._keep(self._watch_dedicated())
        self._keep(self._remove_what_is_over())
        self._keep(self._sources.keep())
        self._keep(self._virtual.look())
        if known != self._platform_id:
            # Whoever wrote before is gone; what is written from now on is younger than this.
            self._keep(self._collect_garbage(time.time()))

    async def _say_who_i_am(self) -> None:
        """Write this process down: executors end it when it stops to answer.

        In a thread, as all it writes while it has executors: a stopped one may hold the store's lock, and it is the
        event loop that ends that one.
        """
        process, setting = this_process(), names.process_setting(names.MANAGEMENT)

        def save() -> None:
            with self._kv.write() as txn:
                store.save_setting(txn, setting, [process.pid, process.started])

        try:
            await asyncio.to_thread(save)
        except StorageError as error:
            log.warning("the management actor has not written down its process: %s", error)

    async def _collect_garbage(self, before_unix_s: float) -> None:
        assert self._folder is not None
        removed = await asyncio.to_thread(collect_garbage, self._folder, before_unix_s)
        try:
            removed += await asyncio.to_thread(collect_code, self._folder, before_unix_s)
        except StorageError as error:
            log.warning("storage.code_not_collected error=%s", error)
        if removed:
            log.info("garbage collected removed=%d", removed)

    async def _remove_what_is_over(self) -> None:
        """Remove workflows whose time is over, and what was kept for requests that nobody can repeat any more."""
        forgotten_s = time.monotonic()
        while True:
            began_s = time.monotonic()
            # Not on the event loop: a writer that is stopped may hold the store, and is ended from here.
            more = await asyncio.to_thread(self._remove_a_little)
            if began_s - forgotten_s > _FORGET_EVERY_S:
                forgotten_s = began_s
                await self._forget_answers()
            # As much time for others as was taken: an old backlog must not keep the executors from writing.
            await asyncio.sleep(max(_BREATH_S, time.monotonic() - began_s) if more else _REMOVE_EVERY_S)

    def _remove_a_little(self) -> bool:
        """Remove about as many rows as one transaction should touch, and old copies in memory.

        Returns:
            Whether there are more rows to be removed.
        """
        folder, retention = self._folder, self._config.retention
        assert folder is not None
        folder.blobs.copies.drop_old()
        try:
            with folder.kv.read() as txn:
                if not is_something_over(txn, retention, time.time()):
                    return False
            with folder.kv.write() as txn:
                removed = remove_finished(txn, retention, time.time(), _ROWS_AT_ONCE)
            for group in removed.blob_groups:
                folder.blobs.delete_group(group)
        except StorageError as error:
            log.error("finished workflows could not be removed, trying again: %s", error)
            return False
        self._removed += removed.workflows
        return True

    async def _forget_answers(self) -> None:
        after: bytes | None = b""
        while after is not None:
            after = await asyncio.to_thread(self._forget_some_answers, after)
            await asyncio.sleep(_BREATH_S)

    def _forget_some_answers(self, after: bytes) -> bytes | None:
        try:
            with self._kv.write() as txn:
                following, _ = forget_answers(txn, time.time() - _REPEATED_WITHIN_S, after, _ROWS_AT_ONCE)
        except StorageError as error:
            log.error("answers of old requests could not be removed, trying again later: %s", error)
            return None
        return following

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        # The event loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _recall_processes(self) -> None:
        """Which processes the executors were when they started: one that does not answer can be ended all the same."""
        with self._kv.read() as txn:
            for name in self._executors:
                recorded = store.load_setting(txn, names.process_setting(name))
                if recorded is not None:
                    self._processes[name] = Process(*recorded)

    def _executor(self, name: str) -> Any:
        return (
            actor_class(Executor)
            .options(
                name=name,
                namespace=names.NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                # What we say to each other is no task of the user's, and Ray would keep 4 KiB of each call.
                enable_task_events=False,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._node_id, soft=False),
            )
            .remote(name, self._address, self._platform_id, self._config.lease_s, self._handle)
        )

    @property
    def _kv(self) -> Any:
        assert self._folder is not None
        return self._folder.kv

    # -- asked by executors --------------------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        return this_process().pid

    # -- asked by clients ----------------------------------------------------------------------------------------

    async def describe(self) -> PlatformDescription | None:
        """What clients need to know. None: it was closed, and whoever was to end it has not.

        Raises:
            StorageError: It is not open yet, whoever made it may have died, and the folder cannot be used.
        """
        if not await self.open():
            return None
        pool = tuple(name for name in self._executors if not names.is_dedicated(name))
        return PlatformDescription(config=self._config, address=self._address, executors=pool)

    async def list_workflows(
        self, statuses: Collection[WorkflowStatus], after: int, limit: int
    ) -> list[tuple[int, str | None, WorkflowStatus]]:
        """A page of (number, id, status), in order of submission; the id is None when the row is damaged."""
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

    async def schedules(self) -> list[ScheduleRow]:
        """Every schedule, by name."""
        with self._kv.read() as txn:
            return schedule_store.list_all(txn)

    async def schedule(self, name: str) -> ScheduleView | None:
        """A schedule as the store knows it; None when there is none."""
        with self._kv.read() as txn:
            row = schedule_store.load(txn, name)
            if row is None:
                return None
            found = {past.workflow_id: store.find(txn, past.workflow_id) for past in row.schedule.past}
        return ScheduleView(row=row, statuses={wid: one.status for wid, one in found.items() if one is not None})

    async def status(self) -> dict[str, Any]:
        """The processes of the platform, for people."""
        found = await asyncio.gather(*(_status_of(name, executor) for name, executor in self._executors.items()))
        with self._kv.read() as txn:
            counts = {status.value: store.count(txn, status) for status in WorkflowStatus if status.value != "NONE"}
        retention = self._config.retention
        return {
            "storage": str(self._config.storage),
            "management": {"pid": this_process().pid, "node_id": self._node_id},
            "executors": [entry for entry in found if entry is not None],
            "event_sources": await self._sources.processes(),
            "virtual_actor_hosts": await self._virtual.processes(),
            "workflows": counts,
            "retention": {
                "keep_finished_s": retention.keep_s,
                "keep_finished": retention.keep,
                "removed": self._removed,
            },
        }

    async def close(self) -> Closed:
        """Let go of the folder. What ran has been ended when this returns."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._ringing is not None:
            self._ringing.stop()
        sources = await self._sources.close() if self._folder is not None else []
        hosts = await self._virtual.close() if self._folder is not None else []
        calls = {name: asyncio.ensure_future(_close(executor)) for name, executor in self._executors.items()}
        if calls:
            await asyncio.wait(calls.values(), timeout=_CLOSING_S)
        for name, call in calls.items():
            if not call.done() and name in self._processes:
                self._processes[name].kill()
        if self._folder is not None:
            self._recall_processes()
            self._folder.blobs.copies.clear()
            self._lock.release()
        return Closed(
            executors=tuple(self._executors),
            processes=(*self._processes.values(), *sources, *hosts, this_process()),
        )

    # -- timers --------------------------------------------------------------------------------------------------

    async def note_deadline(self, due_unix_s: float) -> None:
        """An executor has set a timer that may be the earliest."""
        await self._opened.wait()
        assert self._ringing is not None
        self._ringing.note(due_unix_s)

    # -- sources -------------------------------------------------------------------------------------------------

    async def list_subscriptions(self) -> list[Subscription]:
        """The rules by which events start workflows."""
        with self._kv.read() as txn:
            return subscriptions.list_subscriptions(txn)

    async def note_source(self, source: str) -> None:
        """Somebody waits for events of a source that nobody had asked for before."""
        await self._opened.wait()
        log.info("source wanted name=%s", source)
        await self._sources.note(source)

    async def begin_sources(self, sources: Mapping[str, bool], within_s: float) -> list[str]:
        """Fix where the reading of sources begins. Returns those that did not answer in time."""
        await self._opened.wait()
        return await self._sources.begin(sources, within_s)

    async def connect_kafka(self, given: Mapping[str, KafkaSettings], default: KafkaSettings | None) -> None:
        """Use these connections from now on; `default` is what an environment says."""
        await self._opened.wait()
        await self._sources.connect(given, default)

    async def source_reports(self) -> list[SourceReport]:
        """All outside sources, and how reading them goes."""
        await self._opened.wait()
        return await self._sources.reports()

    async def dead_letters(self, source: str | None, after: int, limit: int) -> list[DeadLetter]:
        """Dead letters, in the order in which they came."""
        await self._opened.wait()
        return self._sources.letters(source, after, limit)

    async def dead_letter(self, number: int) -> DeadLetter:
        """A dead letter."""
        await self._opened.wait()
        return self._sources.letter(number)

    async def drop_dead_letter(self, number: int) -> None:
        """Forget a dead letter."""
        await self._opened.wait()
        self._sources.drop(number)

    async def replay_dead_letter(self, number: int, value: bytes | None) -> None:
        """Try a dead letter again; then it is none any more."""
        await self._opened.wait()
        await self._sources.replay(number, value)

    async def note_virtual_deadline(self, due_unix_s: float) -> None:
        """A host has set a time that may be the earliest."""
        await self._opened.wait()
        self._virtual.note_deadline(due_unix_s)

    # -- virtual actors ------------------------------------------------------------------------------------------

    async def keep_virtual_hosts(self, hosting: bytes) -> str:
        """Have the hosts there that a class needs; their kind."""
        await self._opened.wait()
        return await self._virtual.keep(hosting)

    async def keep_virtual_hosts_of(self, kind: str) -> None:
        """Have the hosts of a kind there."""
        await self._opened.wait()
        self._virtual.keep_kind(kind)

    async def keep_virtual_host(self, name: str) -> None:
        """Have a host there."""
        await self._opened.wait()
        self._virtual.keep_named(name)

    async def virtual_actor_place(self, actor_id: str) -> ActorPlace | None:
        """Where an actor is to be found; None when there is none."""
        return self._virtual.place(actor_id)

    async def virtual_actor(self, actor_id: str) -> ActorDescription | None:
        """An actor as the store knows it; None when there is none."""
        return self._virtual.describe(actor_id)

    async def virtual_actor_call(self, actor_id: str, name: str) -> CallView | None:
        """A writing call of an actor by its name; None when it is not known."""
        return self._virtual.call(actor_id, name)

    async def virtual_actor_reminders(self, actor_id: str) -> list[Reminder] | None:
        """The reminders of an actor; None when there is no such actor."""
        return self._virtual.reminders(actor_id)

    async def list_virtual_actors(self, class_name: str | None, prefix: str, after: str, limit: int) -> list[ActorView]:
        """A page of actors by id."""
        with self._kv.read() as txn:
            return actor_store.list_actors(txn, class_name=class_name, prefix=prefix, after=after, limit=limit)

    async def list_virtual_actors_by_status(
        self, statuses: Collection[WorkflowStatus], after: int, limit: int
    ) -> list[tuple[int, str | None, WorkflowStatus]]:
        """A page of (number, id, status), in the order in which they were made."""
        with self._kv.read() as txn:
            return actor_store.list_by_status(txn, statuses, after=after, limit=limit)

    async def code(self, digest: str) -> bytes:
        """A class's code."""
        assert self._folder is not None
        return await asyncio.to_thread(self._folder.code.get, digest)

    # -- executors -----------------------------------------------------------------------------------------------

    async def keep_executor(self, name: str) -> None:
        """Start the executor of one workflow, and keep it up until the workflow has ended; again: no effect."""
        await self._opened.wait()
        if name not in self._executors:
            self._executors[name] = self._executor(name)
            self._keep(self._watch(name))

    async def _watch_dedicated(self) -> None:
        """Have an executor of its own for each workflow that asked for one, and for no other."""
        while True:
            with self._kv.read() as txn:
                wanted = store.holders(txn, names.DEDICATED)
            for name in wanted:
                # Whoever handed the workflow over may have died before it could say so.
                await self.keep_executor(name)
            for name in [name for name in self._executors if names.is_dedicated(name) and name not in wanted]:
                self._keep(self._end_dedicated(name, self._executors.pop(name)))
            await self._forget_ended_executors()
            await asyncio.sleep(_PING_EVERY_S)

    async def _forget_ended_executors(self) -> None:
        """Drop what is written down of executors of one workflow that are gone, however they ended."""
        with self._kv.read() as txn:
            recorded = store.settings_beginning(txn, names.process_setting(names.DEDICATED))
        gone = [
            setting
            for setting, process in recorded.items()
            if names.process_executor(setting) not in self._executors and not Process(*process).alive
        ]
        if gone:
            # Not on the event loop: a writer that is stopped may hold the store, and is ended from here.
            await asyncio.to_thread(self._drop_settings, gone)

    def _drop_settings(self, settings: Sequence[str]) -> None:
        try:
            with self._kv.write() as txn:
                for setting in settings:
                    store.drop_setting(txn, setting)
        except StorageError as error:
            log.warning("what is written down of %d executors that are gone stays for now: %s", len(settings), error)

    async def _end_dedicated(self, name: str, executor: Any) -> None:
        process = self._processes.pop(name, None)
        closing = asyncio.ensure_future(_close(executor))
        await asyncio.wait([closing], timeout=self._config.lease_s)
        ray.kill(executor, no_restart=True)
        if not closing.done() and process is not None:
            # Nobody watches it any more, and it may have been stopped in its last write.
            process.kill()
        log.info("executor ended with its workflow name=%s", name)

    async def _watch(self, name: str) -> None:
        """End an executor that no longer answers: a stopped writer could hold the store's lock."""
        seen: int | None = None
        while name in self._executors:
            asked = time.monotonic()
            call = asyncio.ensure_future(self._ping(name))
            done, _ = await asyncio.wait([call], timeout=self._config.lease_s)
            if done:
                pid = call.result()
                if pid is not None and pid != seen:
                    seen = pid
                    self._recall_processes()
                    # What died may not have told the others what it had given them.
                    for other in self._executors:
                        self._keep(self._look_again(other))
            else:
                self._recall_processes()
                process = self._processes.get(name)
                if process is not None and not self._waits_for_another(process, asked) and process.kill():
                    self._ended = time.monotonic()
                    log.error(
                        "executor %s has not answered for %g s: process %d was ended",
                        name,
                        self._config.lease_s,
                        process.pid,
                    )
            await asyncio.sleep(min(_PING_EVERY_S, self._config.lease_s))

    def _waits_for_another(self, process: Process, since: float) -> bool:
        """Whether an executor may not have answered because it waits for the lock of one that is, or was, stopped."""
        if process.stopped:
            return False
        return self._ended > since or any(other.stopped for other in self._processes.values())

    async def _ping(self, name: str) -> int | None:
        executor = self._executors.get(name)
        if executor is None:
            return None
        try:
            pid: int = await executor.ping.remote()
        except ActorDiedError as error:
            if name not in self._executors:
                return None
            # It could not open the storage when Ray started it again, and Ray tries that once.
            log.error("executor %s is gone for good, making it anew: %s", name, error)
            self._executors[name] = self._executor(name)
            return None
        except RayError:
            # Ray is starting it again; the next ping tells.
            return None
        return pid

    async def _look_again(self, name: str) -> None:
        executor = self._executors.get(name)
        if executor is None:
            return
        try:
            await executor.look_again.remote()
        except RayError as error:
            log.info("executor %s will look for its workflows when it is back: %s", name, error)


async def _status_of(name: str, executor: Any) -> dict[str, Any] | None:
    try:
        pid, held = await asyncio.gather(executor.ping.remote(), executor.in_memory.remote())
    except ActorDiedError:
        # It has ended with its workflow.
        return None
    return {"name": name, "pid": pid, "in_memory": held}


async def _close(executor: Any) -> None:
    try:
        await executor.close.remote()
    except RayError as error:
        # It has ended already, which is what is wanted.
        log.info("an executor could not be asked to close: %s", error)
