"""The way from a client's process to the actors.

Used by drivers, tasks, actors and Serve handlers alike: everything goes by
name through Ray, so it works from any process joined to the cluster, Ray
Client included.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from holdfast.actors import names
from holdfast.actors.management import ManagementActor, PlatformConfig, PlatformDescription
from holdfast.actors.operations import Elsewhere
from holdfast.actors.ray_untyped import actor_class
from holdfast.actors.storage_access import StorageAddress
from holdfast.engine.errors import HoldfastError

_ENDING_S = 30.0


@dataclass(frozen=True)
class Platform:
    """A running platform as seen from this process.

    Attributes:
        management: The management actor.
        config: Its configuration.
        address: Where the storage folder is.
        executors: Names of the executors.
    """

    management: Any
    config: PlatformConfig
    address: StorageAddress
    executors: tuple[str, ...]
    _handles: dict[str, Any] = field(default_factory=dict)

    def executor(self, name: str) -> Any:
        """The handle of an executor."""
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = ray.get_actor(name, namespace=names.NAMESPACE)
        return handle

    def executor_for(self, workflow_id: str) -> Any:
        """The handle of the executor to ask first about a workflow."""
        return self.executor(names.executor_for(workflow_id, self.executors))

    def ask(self, workflow_id: str, method: str, *args: Any) -> Any:
        """Call a method of the executor that answers for a workflow; go on to another one when told to."""
        executor = self.executor_for(workflow_id)
        while True:
            outcome = ray.get(getattr(executor, method).remote(*args))
            if not isinstance(outcome, Elsewhere):
                return outcome
            executor = self.executor(outcome.executor)


_lock = threading.RLock()
_known: dict[str, Platform] = {}


def _cluster() -> str:
    context = ray.get_runtime_context()
    return f"{context.gcs_address}/{context.get_job_id()}/{os.getpid()}"


def find_platform() -> Platform | None:
    """The platform of this cluster, when there is one."""
    cluster = _cluster()
    with _lock:
        platform = _known.get(cluster)
        if platform is not None:
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
        _known.clear()
        platform = _known[cluster] = Platform(
            management, description.config, description.address, description.executors
        )
        return platform


def _description(management: Any) -> PlatformDescription:
    reference: Any = management.describe.remote()
    description: PlatformDescription = ray.get(reference)
    return description


def forget_platform() -> None:
    """Look the platform up anew the next time: what was known of it turned out to be gone."""
    with _lock:
        _known.clear()


def start_platform(config: PlatformConfig) -> Platform:
    """Start a platform in this cluster, or find the one that somebody else started meanwhile.

    Raises:
        StorageError: The storage folder cannot be used; nothing is left running.
    """
    with _lock:
        management = (
            actor_class(ManagementActor)
            .options(
                name=names.MANAGEMENT,
                namespace=names.NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
            )
            .remote(config)
        )
        try:
            ray.get(management.open.remote(config))
        except RayTaskError as error:
            ray.kill(management, no_restart=True)
            _wait_until_gone(names.MANAGEMENT)
            if isinstance(error.cause, HoldfastError):
                raise error.cause from None
            raise
        platform = find_platform()
        assert platform is not None
        return platform


def stop_platform(platform: Platform) -> None:
    """End the platform's actors. What was running is RESUMABLE from the folder."""
    executors = ray.get(platform.management.close.remote())
    everyone = [names.MANAGEMENT, *executors]
    everyone.extend(
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == names.NAMESPACE and entry["name"] not in everyone
    )
    for name in everyone:
        try:
            ray.kill(ray.get_actor(name, namespace=names.NAMESPACE), no_restart=True)
        except ValueError:
            continue
    for name in everyone:
        _wait_until_gone(name)
    forget_platform()


def _wait_until_gone(name: str) -> None:
    """Wait until an actor that was killed is, and its process with it."""
    deadline = time.monotonic() + _ENDING_S
    while time.monotonic() < deadline:
        try:
            ray.get(ray.get_actor(name, namespace=names.NAMESPACE).__ray_ready__.remote(), timeout=1.0)
        except (ValueError, RayActorError):
            return
        except ray.exceptions.GetTimeoutError:
            continue
