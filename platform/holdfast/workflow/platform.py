"""Starting and finding the platform: the storage folder and the actors that own it in this cluster."""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from holdfast.actors.client import Platform, find_platform, start_platform, stop_platform
from holdfast.actors.management import PlatformConfig
from holdfast.actors.virtual.context import refuse_left
from holdfast.engine.given_numbers import check_number, check_whole
from holdfast.listeners.kafka_settings import connection_of_environment, parse_connections
from holdfast.storage.location import parse_location
from holdfast.storage.retention import Retention

log = logging.getLogger("holdfast")

_MOST_EXECUTORS = 4
_DEFAULT_LEASE_S = 30.0


def open_platform(
    storage: str | os.PathLike[str] | None = None,
    *,
    max_running_workflows: int | None = None,
    max_pending_workflows: int | None = None,
    executors: int | None = None,
    lease_s: float | None = None,
    keep_finished_s: float | None = None,
    keep_finished: int | None = None,
    kafka: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Open a storage folder for this cluster, as `init` says, and take nothing up again."""
    running = _limit("max_running_workflows", max_running_workflows, zero_allowed=False)
    pending = _limit("max_pending_workflows", max_pending_workflows, zero_allowed=True)
    keep = _limit("keep_finished", keep_finished, zero_allowed=True)
    keep_s = _age("keep_finished_s", keep_finished_s)
    executors = None if executors is None else check_whole("executors", executors, least=1)
    lease_s = None if lease_s is None else check_number("lease_s", lease_s, above=True)
    connections, of_environment = parse_connections(kafka), connection_of_environment()
    # Said before anything is started; where it is in the cluster is found out below.
    parse_location(storage)
    with _connected():
        platform = find_platform()
        if platform is None:
            location = _location(storage)
            if storage is None:
                log.info("workflows are stored in %s", location)
            platform = start_platform(
                PlatformConfig(
                    storage=location,
                    executors=executors or _default_executors(),
                    max_running=None if running in (None, -1) else running,
                    max_pending=None if pending in (None, -1) else pending,
                    lease_s=_DEFAULT_LEASE_S if lease_s is None else lease_s,
                    retention=Retention(
                        keep_s=None if keep_s in (None, -1) else keep_s, keep=None if keep in (None, -1) else keep
                    ),
                )
            )
        _check_same(
            platform,
            storage,
            max_running_workflows=(running, platform.config.max_running),
            max_pending_workflows=(pending, platform.config.max_pending),
            keep_finished_s=(keep_s, platform.config.retention.keep_s),
            keep_finished=(keep, platform.config.retention.keep),
        )
        if connections or of_environment is not None:
            ray.get(platform.management.connect_kafka.remote(connections, of_environment))


def shutdown() -> None:
    """Stop the platform of this cluster. What is running becomes RESUMABLE; Ray goes on.

    Semantics: returns when the platform's processes have ended and the storage folder is free. Without a platform
    it does nothing.
    """
    if ray.is_initialized():
        platform = find_platform()
        if platform is not None:
            stop_platform(platform)


def platform_status() -> dict[str, Any]:
    """The processes of the platform, and how many workflows it has.

    Returns:
        `storage` (path), `management` (`pid`, `node_id`), `executors` (a list of `name`, `pid` and `in_memory`: how
        many workflows it holds in memory, which those that only wait are not), `event_sources` (a list of
        `connection` and `pid`: the processes that read outside sources, as Kafka), `workflows` (how many there are of
        each status) and `retention` (`keep_finished_s` and `keep_finished`, None for no limit, and `removed`: how
        many workflows the management actor has removed since it started).
    """
    status: dict[str, Any] = ray.get(get_platform().management.status.remote())
    return status


def get_platform() -> Platform:
    """The platform of this cluster; started with the defaults when there is none.

    Raises:
        AttemptAbandonedError: In a virtual actor's method that was cancelled, or ran over its time.
    """
    refuse_left()
    if not ray.is_initialized():
        open_platform()
    platform = find_platform()
    if platform is None:
        open_platform()
        platform = find_platform()
    assert platform is not None
    return platform


@contextmanager
def _connected() -> Iterator[None]:
    """Joined to a cluster, or to one started here; when what follows fails, one that was started for it is ended."""
    joined = ray.is_initialized()
    if not joined:
        ray.init()
    try:
        yield
    except BaseException:
        if not joined:
            ray.shutdown()
        raise


def _default_executors() -> int:
    return max(1, min(_MOST_EXECUTORS, (os.cpu_count() or 1) // 2))


def _location(storage: str | os.PathLike[str] | None) -> str:
    client: Any = ray.util.client.ray
    if client.is_connected() and storage is not None:
        # A path of the cluster's, not of this machine: the management actor makes sense of it.
        return os.fspath(storage)
    return str(parse_location(storage))


def _limit(name: str, value: Any, *, zero_allowed: bool) -> int | None:
    if value is None:
        return None
    return check_whole(name, value, least=0 if zero_allowed else 1, also=-1, meaning="no limit")


def _age(name: str, value: Any) -> float | None:
    if value is None:
        return None
    # Minus one is told from what is out of range only once it is known to be a number.
    if not isinstance(value, bool) and isinstance(value, numbers.Real) and value == -1:
        return -1.0
    return check_number(name, value, infinite="-1 for ever")


def _check_same(
    platform: Platform,
    storage: str | os.PathLike[str] | None,
    **limits: tuple[float | None, float | None],
) -> None:
    """Refuse what is not as it was at the first init: (what is given, what is there) by name."""
    config = platform.config
    if storage is not None and (location := _location(storage)) != config.storage:
        raise ValueError(
            f"this cluster has its workflows in {config.storage} already, and not in {location}. "
            "One cluster has one storage: call workflow.shutdown() first, or leave the storage out."
        )
    for name, (given, there) in limits.items():
        if given is not None and (None if given == -1 else given) != there:
            raise ValueError(
                f"the platform runs with {name}={-1 if there is None else there} already, and not {given}. "
                "Call workflow.shutdown() first to change it, or leave it out."
            )
