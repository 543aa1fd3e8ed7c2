"""The processes that run virtual actors, as the management actor keeps them: some to each kind that is wanted."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.alarm import Alarm
from holdfast.actors.environment import Environments, merge_environments
from holdfast.actors.operating_system import Process
from holdfast.actors.ray_untyped import actor_class
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.virtual.forsaken import give_away
from holdfast.actors.virtual.host import VirtualActorHost
from holdfast.actors.virtual.hosting import kind_of
from holdfast.actors.virtual.requests import ActorPlace, CallView
from holdfast.engine.errors import HoldfastError
from holdfast.engine.names import was_given
from holdfast.engine.virtual_actor_errors import CallOutcomeForgottenError
from holdfast.engine.virtual_actor_records import QueuedCall
from holdfast.storage import actor_reminders, actor_store, leases
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorDescription, ActorRow, Reminder
from holdfast.storage.folder import StorageFolder

log = logging.getLogger("holdfast")

_LOOK_EVERY_S = 2.0
_ANSWERING_S = 5.0
_CLOSING_S = 20.0
_AT_ONCE = 1000
_LOOK_AGAIN_S = 0.2
_KIND = "virtual-hosts."


@dataclass(frozen=True, slots=True)
class HostPlan:
    """Who a host is.

    Attributes:
        name: Of the Ray actor.
        kind: Of the class's needs; empty for none.
    """

    name: str
    kind: str


class VirtualHosts:
    """Makes and watches them.

    Args:
        folder: The storage folder.
        address: Where it is, for them.
        platform_id: The platform.
        count: How many hosts of a kind there are, beside the one for suspects.
        lease_s: Seconds after which a process that does not answer is ended.
    """

    def __init__(
        self, folder: StorageFolder, address: StorageAddress, platform_id: str, count: int, lease_s: float
    ) -> None:
        self._folder, self._kv = folder, folder.kv
        self._address, self._platform_id, self._count, self._lease_s = address, platform_id, count, lease_s
        self._environments = Environments(folder.code)
        self._options: dict[str, dict[str, Any]] = {"": {}}
        self._hosts: dict[str, Any] = {}
        self._plans: dict[str, HostPlan] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._alarm = Alarm(self._ring)
        self._ringing: asyncio.Task[None] | None = None
        self._firing: dict[str, asyncio.Task[None]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    # -- which there are -------------------------------------------------------------------------------------------

    async def keep(self, hosting: bytes) -> str:
        """Have the hosts there that a class needs. Blocks nobody while their environment is stored.

        Args:
            hosting: What they need; empty for nothing special.

        Returns:
            Their kind.
        """
        kind = kind_of(hosting)
        if kind not in self._options:
            await asyncio.to_thread(self._store_kind, kind, hosting)
        self.keep_kind(kind)
        return kind

    def keep_kind(self, kind: str) -> None:
        """Have the hosts of a kind there that has been stored before; again: no effect."""
        for number in range(self._count):
            self._keep(HostPlan(names.virtual_host_name(kind, number), kind))

    def keep_suspects(self, kind: str) -> None:
        """Have the host there that runs alone what ran when a host of this kind died."""
        self._keep(HostPlan(names.suspects_host_name(kind), kind))

    def keep_named(self, name: str) -> None:
        """Have a host there by its name."""
        kind = _kind_in(name)
        if name == names.suspects_host_name(kind):
            self.keep_suspects(kind)
        else:
            self.keep_kind(kind)

    def _store_kind(self, kind: str, hosting: bytes) -> None:
        _, _, captured = pickle.loads(hosting)
        environment = self._environments.store(captured) if captured else ""
        digest = self._folder.code.put(hosting)
        with self._kv.write() as txn:
            store.save_setting(txn, f"{_KIND}{kind}", [digest, environment])

    def _options_of(self, kind: str) -> dict[str, Any]:
        known = self._options.get(kind)
        if known is None:
            with self._kv.read() as txn:
                stored = store.load_setting(txn, f"{_KIND}{kind}")
            if stored is None:
                raise LookupError(f"nobody has said what hosts of kind {kind!r} need")
            digest, environment = stored
            ray_options, runtime_env, _ = pickle.loads(self._folder.code.get(digest))
            known = dict(ray_options)
            own = dict(runtime_env or {})
            if environment or own:
                job = self._environments.load(environment) if environment else {}
                known["runtime_env"] = merge_environments(job, own)
            self._options[kind] = known
        return known

    def _keep(self, plan: HostPlan) -> None:
        if plan.name not in self._hosts:
            self._hosts[plan.name] = self._make(plan)
            self._plans[plan.name] = plan
            self._watches[plan.name] = asyncio.get_running_loop().create_task(self._watch(plan))

    def _make(self, plan: HostPlan) -> Any:
        return (
            actor_class(VirtualActorHost)
            .options(
                **{
                    **self._options_of(plan.kind),
                    "name": plan.name,
                    "namespace": names.NAMESPACE,
                    "get_if_exists": True,
                    "lifetime": "detached",
                    "enable_task_events": False,
                    "max_restarts": -1,
                    "max_task_retries": -1,
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(self._address.node_id, soft=False),
                }
            )
            .remote(plan.name, plan.kind, self._count, self._address, self._platform_id)
        )

    async def look(self) -> None:
        """Look again and again for hosts that have something to do and are not there, and ring for what is due."""
        self._alarm.start()
        self._ringing = asyncio.get_running_loop().create_task(self._alarm.watch())
        while True:
            try:
                await self._keep_wanted()
            except (HoldfastError, RayError) as error:
                log.error("actors of hosts that are gone cannot be given to others: %s", error)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _keep_wanted(self) -> None:
        """Have the hosts there that leases name; what those had that will not come back is given to the others."""
        with self._kv.read() as txn:
            wanted = leases.holders(txn, names.VIRTUAL_HOSTS)
        for name in wanted:
            try:
                self.keep_named(name)
            except (HoldfastError, LookupError) as error:
                # As what a class needs that cannot be read. It must not keep the others waiting.
                log.error("host of virtual actors %s cannot be made: %s", name, error)
        gone = [name for name in wanted if name not in self._hosts and self._is_over(name)]
        if gone:
            # Not on the event loop: a writer that is stopped may hold the store, and is ended from here.
            for name, seqs in (await asyncio.to_thread(self._take_from, gone)).items():
                self._tell(self._recover(name, seqs))

    def _is_over(self, name: str) -> bool:
        """Whether the others of its kind are there, and this one is not among them: there were more of them once."""
        plans = self._plans.values()
        return any(plan.kind == _kind_in(name) for plan in plans)

    def _take_from(self, gone: list[str]) -> dict[str, list[int]]:
        with self._kv.write() as txn:
            return give_away(txn, gone, self._host_of)

    def _tell(self, message: Coroutine[None, None, None]) -> None:
        # The event loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(message)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _recover(self, name: str, seqs: list[int]) -> None:
        try:
            await self.host(name).recover.remote(seqs)
        except (RayError, HoldfastError, LookupError) as error:
            log.info("host %s could not be told of %d actors, and finds them itself: %s", name, len(seqs), error)

    # -- times -----------------------------------------------------------------------------------------------------

    def note_deadline(self, due_unix_s: float) -> None:
        """A host has set a time that may be the earliest."""
        self._alarm.note(due_unix_s)

    def _ring(self) -> float | None:
        """Have actors looked at whose time has come. Returns when to look again."""
        with self._kv.read() as txn:
            rows = [(seq, actor_store.get(txn, seq)) for seq in actor_reminders.due_actors(txn, time.time(), _AT_ONCE)]
            next_due = actor_reminders.next_due(txn)
        by_host: dict[str, list[int]] = {}
        for seq, row in rows:
            # One that is not there any more is nobody's: some host removes its times.
            name = names.virtual_host_name("", 0) if row is None else self._host_of(row)
            by_host.setdefault(name, []).append(seq)
        for name, seqs in by_host.items():
            # One that is stopped, or is being started again, keeps the others waiting for nothing.
            if name not in self._firing:
                self._firing[name] = asyncio.get_running_loop().create_task(self._fire(name, seqs))
        return time.time() + _LOOK_AGAIN_S if rows else next_due

    async def _fire(self, name: str, seqs: list[int]) -> None:
        try:
            await self.host(name).fire.remote(seqs)
        except (RayError, HoldfastError, LookupError) as error:
            log.error("host %s could not be told that %d actors are due, trying again: %s", name, len(seqs), error)
        finally:
            self._firing.pop(name, None)

    def _host_of(self, row: ActorRow) -> str:
        if row.suspected:
            return names.suspects_host_name(row.spec.host)
        return names.virtual_host_for(row.actor_id, row.spec.host, self._count)

    # -- what is asked about actors --------------------------------------------------------------------------------

    def place(self, actor_id: str) -> ActorPlace | None:
        """Where an actor is to be found; None when there is none."""
        with self._kv.read() as txn:
            row = actor_store.find(txn, actor_id)
        if row is None:
            return None
        return ActorPlace(actor_id=actor_id, digest=row.spec.code, class_name=row.spec.class_name, hosts=row.spec.host)

    def describe(self, actor_id: str) -> ActorDescription | None:
        """An actor as the store knows it; None when there is none."""
        with self._kv.read() as txn:
            row = actor_store.find(txn, actor_id)
            return None if row is None else actor_store.describe(txn, row)

    def reminders(self, actor_id: str) -> list[Reminder] | None:
        """The reminders of an actor, by when they are due, without arguments; None when there is no such actor."""
        with self._kv.read() as txn:
            row = actor_store.find(txn, actor_id)
            found = None if row is None else actor_reminders.list_reminders(txn, row.seq)
        return None if found is None else [replace(one, arguments=b"") for one in found]

    def call(self, actor_id: str, name: str) -> CallView | None:
        """A writing call by its name; None when there was none.

        Raises:
            CallOutcomeForgottenError: It is not kept any more.
        """
        with self._kv.read() as txn:
            row = actor_store.find(txn, actor_id)
            number = None if row is None else actor_store.call_of_name(txn, row.seq, name)
            call = None if row is None or number is None else actor_store.get_call(txn, row.seq, number)
        if call is None:
            if row is not None and was_given(row.standing.names, name):
                raise CallOutcomeForgottenError(actor_id, name)
            return None
        ended = not isinstance(call, QueuedCall)
        spec = call.spec if isinstance(call, QueuedCall) else call
        return CallView(
            name=call.name,
            method=spec.method,
            metadata=dict(call.spec.options.metadata if isinstance(call, QueuedCall) else call.metadata),
            started_unix_s=call.started_unix_s or None,
            ended_unix_s=call.ended_unix_s if ended else None,
            number=call.number,
            nonce=spec.nonce,
        )

    # -- how they are ----------------------------------------------------------------------------------------------

    def _process(self, name: str) -> Process | None:
        with self._kv.read() as txn:
            recorded = store.load_setting(txn, names.process_setting(name))
        return None if recorded is None else Process(*recorded)

    async def _watch(self, plan: HostPlan) -> None:
        """End one that no longer answers: a stopped writer could hold the store's lock."""
        while True:
            call = asyncio.ensure_future(self._ping(plan))
            done, _ = await asyncio.wait([call], timeout=self._lease_s)
            if not done:
                process = self._process(plan.name)
                if process is not None and process.kill():
                    log.error(
                        "host of virtual actors %s has not answered for %g s: process %d was ended",
                        plan.name,
                        self._lease_s,
                        process.pid,
                    )
            await asyncio.sleep(min(_LOOK_EVERY_S, self._lease_s))

    async def _ping(self, plan: HostPlan) -> int | None:
        """Its process's id; None when it does not run at present."""
        try:
            pid: int = await self._hosts[plan.name].ping.remote()
        except ActorDiedError as error:
            # It could not start when Ray started it again, and Ray tries that once.
            log.error("host of virtual actors %s is gone for good, making it anew: %s", plan.name, error)
            self._hosts[plan.name] = self._make(plan)
            return None
        except RayError:
            # Ray is starting it again; the next ping tells.
            return None
        return pid

    def host(self, name: str) -> Any:
        """The handle of a host that is kept."""
        self.keep_named(name)
        return self._hosts[name]

    async def processes(self) -> list[dict[str, Any]]:
        """Those that answer, for people: `name` and `pid` of each."""
        calls = {name: asyncio.ensure_future(self._ping(plan)) for name, plan in self._plans.items()}
        if calls:
            await asyncio.wait(calls.values(), timeout=_ANSWERING_S)
        pids = {name: call.result() for name, call in calls.items() if call.done()}
        return [{"name": name, "pid": pid} for name, pid in pids.items() if pid is not None]

    async def close(self) -> list[Process]:
        """Have all of them let go of the folder. Returns their processes."""
        self._alarm.stop()
        if self._ringing is not None:
            self._ringing.cancel()
        for watch in self._watches.values():
            watch.cancel()
        found = [process for name in self._hosts if (process := self._process(name)) is not None]
        calls = [asyncio.ensure_future(_close(name, host)) for name, host in self._hosts.items()]
        if calls:
            await asyncio.wait(calls, timeout=_CLOSING_S)
        return found


def _kind_in(name: str) -> str:
    """The kind of a host, by its name."""
    kind, _, _ = name.removeprefix(f"{names.VIRTUAL_HOSTS}-").rpartition("-")
    return "" if kind == "default" else kind


async def _close(name: str, host: Any) -> None:
    try:
        await host.close.remote()
    except RayError as error:
        # It has ended already, which is what is wanted.
        log.info("host of virtual actors %s could not be asked to close: %s", name, error)
