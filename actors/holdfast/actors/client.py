"""The way from a client's process to the actors.

Used by drivers, tasks, actors and Serve handlers alike: everything goes by
name through Ray, so it works from any process joined to the cluster, Ray
Client included.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RaySystemError, RayTaskError

from holdfast.actors import names
from holdfast.actors.acknowledgements import acknowledgement_socket
from holdfast.actors.awaited_calls import AwaitedCaller
from holdfast.actors.direct_submission import DirectSubmission
from holdfast.actors.following import follow, follow_awaited
from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_calls import LocalCaller
from holdfast.actors.local_frames import AVAILABLE, NotHereError
from holdfast.actors.management import Closed, PlatformConfig, PlatformDescription
from holdfast.actors.operating_system import Process
from holdfast.actors.operations import Elsewhere
from holdfast.actors.platform_start import start_management, wait_until_gone
from holdfast.actors.requests import SubmitRequest
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.threads import in_thread
from holdfast.engine.errors import HoldfastError

log = logging.getLogger("holdfast")

_ENDING_S = 30.0
_ACKNOWLEDGED_S = 2.0
_UNHEARD_FOR_S = 60.0
_LOOK_EVERY_S = 0.01
_SURE_FOR_S = 0.5
"""So long a platform that was there is taken to be there still: to end it and to start another one takes longer."""
# What executors and hosts of virtual actors answer over a local socket, too.
_LOCAL = frozenset({"run", "submit", "post", "call", "take", "read"})


def fetch(reference: Any) -> Any:
    """What an actor answers. Our errors (a corrupt or full store) as they are, without what Ray wraps around them."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, HoldfastError):
            raise error.cause from None
        raise
    except RaySystemError as error:
        if isinstance(error.client_exc, HoldfastError):
            raise error.client_exc from error.client_exc.__cause__
        raise


@dataclass(frozen=True)
class Platform:
    """A running platform as seen from this process.

    Attributes:
        management: The management actor.
        config: Its configuration.
        address: Where the storage folder is.
        executors: Names of the executors.
        begun: Outside sources of which this process knows that it is fixed where their reading begins.
    """

    management: Any
    config: PlatformConfig
    address: StorageAddress
    executors: tuple[str, ...]
    begun: set[str] = field(default_factory=set)
    _handles: dict[str, Any] = field(default_factory=dict)
    _near: bool = False
    _direct: DirectSubmission | None = None
    _local: LocalCaller | None = None
    _awaited: AwaitedCaller | None = None
    _unheard_s: list[float] = field(default_factory=lambda: [-_UNHEARD_FOR_S])
    _seen_s: list[float] = field(default_factory=lambda: [time.monotonic()])

    def executor(self, name: str) -> Any:
        """The handle of an executor."""
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = ray.get_actor(name, namespace=names.NAMESPACE)
        return handle

    def start(self, request: SubmitRequest) -> ray.ObjectRef[Any] | None:
        """Have a workflow accepted and its value awaited by one call; for a process on the machine of the executors.

        Returns:
            A reference of the value, the workflow durable. None: it was refused, or belongs elsewhere, or nothing
            was heard, or this is another machine. Then ask in the ordinary way, which says what it is; the request
            counts once.
        """
        if self._direct is not None:
            name = names.executor_for(request.workflow_id, self.executors)
            executor, number = self.executor(name), self._direct.submit(request, name)
            if number is not None:
                value: ray.ObjectRef[Any] = executor.take_up.remote(number, request.workflow_id)
                return value
        return self.start_at(lambda: self.executor_for(request.workflow_id), request)

    def start_at(self, find: Callable[[], Any], request: Any) -> ray.ObjectRef[Any] | None:
        """As `start`, of whatever an actor of the platform takes by a method `start`.

        Args:
            find: Finds the actor.
            request: With a `nonce`.
        """
        if not self._hears():
            return None
        socket = acknowledgement_socket()
        if socket is None:
            self._unheard_s[0] = time.monotonic()
            return None
        reference: ray.ObjectRef[Any] = find().start.remote(request, socket.address)
        if socket.wait(request.nonce, _ACKNOWLEDGED_S):
            return reference
        done, _ = ray.wait([reference], timeout=0, fetch_local=False)
        if not done:
            # An executor that is starting again; or one that cannot reach this process: not to be waited for each time.
            self._unheard_s[0] = time.monotonic()
        return None

    @property
    def is_local(self) -> bool:
        """Whether the actors are on this machine, and answer over a local socket as long as they are up."""
        return self._local is not None

    def _hears(self) -> bool:
        return self._near and time.monotonic() - self._unheard_s[0] >= _UNHEARD_FOR_S

    def close(self) -> None:
        """Let go of what this process holds of the platform."""
        if self._direct is not None:
            self._direct.close()

    def find_executor(self, name: str) -> Any:
        """The handle of an executor; None when it is not there: one of a single workflow ends with it."""
        try:
            return ray.get_actor(name, namespace=names.NAMESPACE) if names.is_dedicated(name) else self.executor(name)
        except ValueError:
            return None

    def executor_for(self, workflow_id: str) -> Any:
        """The handle of the executor to ask first about a workflow."""
        return self.executor(names.executor_for(workflow_id, self.executors))

    def ask(self, workflow_id: str, method: str, *args: Any) -> Any:
        """Call a method of the executor that answers for a workflow; go on to another one when told to.

        Raises:
            ExecutorNotFoundError: Nobody has answered for long.
            RayActorError: The platform is gone.
        """
        return self.ask_from(lambda: self.executor_for(workflow_id), workflow_id, method, *args)

    def ask_from(self, first: Callable[[], Any], about: str, method: str, *args: Any) -> Any:
        """As `ask`, beginning with another actor than the executor of a workflow.

        Args:
            first: Finds it; a ValueError when it is not there.
            about: The id that it is about, for the error.
            method: Of that actor, and of those that it sends on to.
            *args: For the method.
        """

        def call(executor: Any) -> Any:
            try:
                if self._local is not None and method in _LOCAL:
                    with suppress(NotHereError):
                        return self._local.call(executor, method, *args)
                return fetch(getattr(executor, method).remote(*args))
            except RayActorError:
                if not self._goes_on_without():
                    raise
                return None

        return follow(about, call, lambda: self._found(first), self.find_executor)

    def _goes_on_without(self) -> bool:
        """Whether an actor that died will be back, or another in its place: whether the platform is still there."""
        # One that could not start again is made anew by the management actor, under the same name; one of a single
        # workflow has ended. A request is marked, so asking twice counts once.
        if not self.is_up():
            return False
        self._handles.clear()
        return True

    def _found(self, first: Callable[[], Any]) -> Any:
        """The actor to begin with; None when it is not there just now."""
        try:
            return first()
        except ValueError:
            if not self.is_up():
                raise
            return None

    @property
    def was_up_just_now(self) -> bool:
        """Whether this platform was there a moment ago: there can be no other by now."""
        return time.monotonic() - self._seen_s[0] < _SURE_FOR_S

    def is_up(self) -> bool:
        """Whether this very platform is there, and not another one, or none."""
        began_s = time.monotonic()
        try:
            management = ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE)
        except ValueError:
            return False
        if management != self.management:
            return False
        self._seen_s[0] = began_s
        return True

    async def ask_async(self, workflow_id: str, method: str, *args: Any) -> Any:
        """As `ask`, from an event loop, which goes on meanwhile."""
        return await self.ask_from_async(lambda: self.executor_for(workflow_id), workflow_id, method, *args)

    async def ask_from_async(self, first: Callable[[], Any], about: str, method: str, *args: Any) -> Any:
        """As `ask_from`, from an event loop, which goes on meanwhile."""
        try:
            actor = first()
        except ValueError:
            actor = None
        outcome = None if actor is None else await self._ask_awaited(actor, method, args)
        if outcome is not None and not isinstance(outcome, Elsewhere):
            return outcome
        # Rarely: another executor answers for it, or this one has to be looked for, which threads do. Who waits for
        # an answer, maybe for days, holds none of them.
        return await follow_awaited(
            about,
            lambda executor: self._ask_awaited(executor, method, args),
            lambda: in_thread(self._found, first),
            lambda name: in_thread(self.find_executor, name),
        )

    async def _ask_awaited(self, actor: Any, method: str, args: Sequence[Any]) -> Any:
        """What an actor answers; None when it is not there."""
        try:
            if self._awaited is not None and method in _LOCAL:
                with suppress(NotHereError):
                    return await self._awaited.call(actor, method, *args)
            return await getattr(actor, method).remote(*args)
        except RayTaskError as error:
            if isinstance(error.cause, HoldfastError):
                raise error.cause from None
            raise
        except RayActorError:
            if not await in_thread(self._goes_on_without):
                raise
            return None


_lock = threading.RLock()
_known: dict[str, Platform] = {}


def _cluster() -> str:
    context = ray.get_runtime_context()
    return f"{context.gcs_address}/{context.get_job_id()}/{os.getpid()}"


def knows_platform() -> bool:
    """Whether `find_platform` has it at hand: it takes no longer than to ask whether it is there, a tenth of a ms."""
    return ray.is_initialized() and _cluster() in _known


def find_platform() -> Platform | None:
    """The platform of this cluster, when there is one."""
    cluster = _cluster()
    with _lock:
        platform = _known.get(cluster)
        # Who outlives a platform, as a Serve replica, would get references from processes that are gone.
        if platform is not None and (platform.was_up_just_now or platform.is_up()):
            return platform
        try:
            management = ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE)
        except ValueError:
            return None
        try:
            description = _description(management)
        except RayActorError:
            # Being ended, or it could not open its storage: whoever started it is told why.
            return None
        except RayTaskError as error:
            if isinstance(error.cause, HoldfastError):
                # Whoever made it died before it was open, and it cannot be: whoever starts it again is told why.
                return None
            raise
        if description is None:
            # Whoever was ending the platform died in the middle of it.
            _end_actors()
            return None
        _forget()
        near, addresses = _is_here(description.address), LocalAddresses()
        platform = _known[cluster] = Platform(
            management,
            description.config,
            description.address,
            description.executors,
            _near=AVAILABLE and near,
            _direct=DirectSubmission(description.address) if near else None,
            _local=LocalCaller(_local_address, addresses) if near and _is_driver() else None,
            _awaited=AwaitedCaller(_local_address_awaited, addresses) if near else None,
        )
        return platform


def _local_address(actor: Any) -> str:
    address: str = fetch(actor.local_address.remote())
    return address


async def _local_address_awaited(actor: Any) -> str:
    address: str = await actor.local_address.remote()
    return address


def _is_driver() -> bool:
    """Whether this process runs no task: Ray gives a task's CPU to others while it waits, and has to know of it."""
    return bool(ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE)


def _is_here(address: StorageAddress) -> bool:
    """Whether this process is on the storage machine, and runs as the platform's user."""
    client: Any = ray.util.client.ray
    if client.is_connected() or ray.get_runtime_context().get_node_id() != address.node_id:
        return False
    if not address.of_this_user:
        log.info("local.other_user user=%d own=%d: this process asks through Ray", address.user, os.geteuid())
    return address.of_this_user


def _description(management: Any) -> PlatformDescription | None:
    description: PlatformDescription | None = ray.get(management.describe.remote())
    return description


def forget_platform() -> None:
    """Look the platform up anew the next time: what was known of it turned out to be gone."""
    with _lock:
        _forget()


def _forget() -> None:
    for platform in _known.values():
        platform.close()
    _known.clear()


def start_platform(config: PlatformConfig) -> Platform:
    """Start a platform in this cluster, or find the one that somebody else started meanwhile.

    Raises:
        StorageError: The storage folder cannot be used; nothing is left running.
    """
    with _lock:
        management = start_management(config)
        try:
            while not ray.get(management.open.remote()):
                _end_actors()
                management = start_management(config)
        except RayTaskError as error:
            ray.kill(management, no_restart=True)
            wait_until_gone(names.MANAGEMENT)
            if isinstance(error.cause, HoldfastError):
                raise error.cause from None
            raise
        platform = find_platform()
        assert platform is not None
        return platform


def stop_platform(platform: Platform) -> None:
    """End the platform's actors. What was running is RESUMABLE from the folder."""
    closed: Closed = ray.get(platform.management.close.remote())
    _end_actors(closed.executors)
    if ray.get_runtime_context().get_node_id() == platform.address.node_id:
        _wait_until_ended(closed.processes)
    forget_platform()


def _end_actors(executors: Iterable[str] = ()) -> None:
    """End every actor of a platform that is closed, the management actor last: while it is there no other starts."""
    listed = ray.util.list_named_actors(all_namespaces=True)
    others = {entry["name"] for entry in listed if entry["namespace"] == names.NAMESPACE} | set(executors)
    for name in (*sorted(others - {names.MANAGEMENT}), names.MANAGEMENT):
        try:
            ray.kill(ray.get_actor(name, namespace=names.NAMESPACE), no_restart=True)
        except ValueError:
            continue
        wait_until_gone(name)


def _wait_until_ended(processes: Iterable[Process]) -> None:
    """Wait until processes of this node have ended: an actor is gone for Ray a little before that."""
    deadline = time.monotonic() + _ENDING_S
    while any(process.alive for process in processes) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
