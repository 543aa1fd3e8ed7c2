"""The way from a caller's process to the hosts of virtual actors.

Used by drivers, tasks, Serve handlers and methods of other actors alike. A call
goes straight to the host that the actor's id says; one that has the actor no
more sends on to the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from holdfast.actors import names
from holdfast.actors.client import Platform, fetch
from holdfast.actors.sealed import Answer
from holdfast.actors.threads import in_thread
from holdfast.actors.virtual.operations import ActorDone
from holdfast.actors.virtual.requests import ActorPlace, CallRequest, Taken
from holdfast.engine.errors import HoldfastError

# Per platform: kinds of hosts that are known to be kept.
_kept: set[tuple[str, str]] = set()


def run(platform: Platform, place: ActorPlace, request: CallRequest) -> Any:
    """Call a method that may write; what it returns, or the error that it raises."""
    return _value(_ask(platform, place, "call", request))


def read(platform: Platform, place: ActorPlace, request: CallRequest) -> Any:
    """Call a method that only reads."""
    return _value(_ask(platform, place, "read", request))


async def run_awaited(platform: Platform, place: ActorPlace, request: CallRequest) -> Any:
    """As `run`, from an event loop."""
    return _value(await _ask_async(platform, place, "call", request))


async def read_awaited(platform: Platform, place: ActorPlace, request: CallRequest) -> Any:
    """As `read`, from an event loop."""
    return _value(await _ask_async(platform, place, "read", request))


def start(platform: Platform, place: ActorPlace, request: CallRequest) -> ray.ObjectRef[Any]:
    """Have a call accepted; a reference of its result. The call is durable on return."""
    if platform.is_local:
        return _taken(platform, place, request)
    reference = platform.start_at(lambda: _host(platform, place), request)
    if reference is not None:
        return reference
    number = accept(platform, place, request)
    result: ray.ObjectRef[Any] = _host(platform, place).result.remote(replace(request, accepted=number))
    return result


def _taken(platform: Platform, place: ActorPlace, request: CallRequest) -> ray.ObjectRef[Any]:
    outcome = _ask(platform, place, "take", request)
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Taken)
    if outcome.answer is not None and outcome.answer.error is None:
        # Over already: to have Ray ask for it once more would cost as much as the call.
        value: ray.ObjectRef[Any] = ray.put(outcome.answer.value)
        return value
    result: ray.ObjectRef[Any] = _host(platform, place).result.remote(replace(request, accepted=outcome.number))
    return result


def accept(platform: Platform, place: ActorPlace, request: CallRequest) -> int:
    """Have a call accepted: it is durable on return. Its number; -1 when there was nothing to do."""
    outcome = _ask(platform, place, "submit", request)
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, ActorDone)
    return outcome.number


def start_reading(platform: Platform, place: ActorPlace, request: CallRequest) -> ray.ObjectRef[Any]:
    """Call a method that only reads; a reference of its result."""
    reference: ray.ObjectRef[Any] = _host(platform, place).start_reading.remote(request)
    return reference


def ready(platform: Platform, place: ActorPlace) -> ray.ObjectRef[Any]:
    """A reference that is there when the actor has been made."""
    reference: ray.ObjectRef[Any] = _host(platform, place).ready.remote(place.actor_id, place.class_name)
    return reference


def ask(platform: Platform, place: ActorPlace, method: str, *arguments: Any) -> Any:
    """Ask an actor's host for something else than a call."""
    outcome = _ask(platform, place, method, *arguments)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def keep_hosts(platform: Platform, hosting: bytes) -> str:
    """Have the hosts there that a class needs; their kind."""
    kind: str = fetch(platform.management.keep_virtual_hosts.remote(hosting))
    _kept.add((platform.address.cluster, kind))
    return kind


def _host(platform: Platform, place: ActorPlace) -> Any:
    """The host to ask first.

    Raises:
        ValueError: It is not there just now.
    """
    if not _is_kept(platform, place):
        _keep(platform, place)
    return platform.executor(names.virtual_host_for(place.actor_id, place.hosts, len(platform.executors)))


def _is_kept(platform: Platform, place: ActorPlace) -> bool:
    return (platform.address.cluster, place.hosts) in _kept


def _keep(platform: Platform, place: ActorPlace) -> None:
    fetch(platform.management.keep_virtual_hosts_of.remote(place.hosts))
    _kept.add((platform.address.cluster, place.hosts))


def _ask(platform: Platform, place: ActorPlace, method: str, *arguments: Any) -> Any:
    return platform.ask_from(lambda: _host(platform, place), place.actor_id, method, *arguments)


async def _ask_async(platform: Platform, place: ActorPlace, method: str, *arguments: Any) -> Any:
    if not _is_kept(platform, place):
        await in_thread(_keep, platform, place)
    return await platform.ask_from_async(lambda: _host(platform, place), place.actor_id, method, *arguments)


def _value(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Answer)
    if outcome.error is not None:
        raise outcome.error from outcome.error.__cause__
    return outcome.value


def unwrapped(error: RayTaskError) -> BaseException:
    """The error that a host raised, without Ray's wrapping, when it is one of ours."""
    return error.cause if isinstance(error.cause, HoldfastError) else error
