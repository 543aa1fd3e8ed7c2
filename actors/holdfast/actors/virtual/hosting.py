"""What the hosts of a class of virtual actors need: Ray options, a runtime environment.

Classes that need nothing share the ordinary hosts; others have hosts of their
own, one set to each need. The need is stored as code is, by its hash, and the
beginning of that hash is the kind that names the hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray.cloudpickle

from holdfast.actors.code import hash_code
from holdfast.actors.plain_variables import warn_of_plain_variables
from holdfast.actors.virtual.requests import ClassRequest
from holdfast.storage.actor_row import ActorSpec

# Without type hints.
_cloudpickle: Any = ray.cloudpickle

# What Holdfast decides itself of a host.
_REFUSED = frozenset(
    {
        "name",
        "namespace",
        "lifetime",
        "get_if_exists",
        "max_restarts",
        "max_task_retries",
        "max_concurrency",
        "concurrency_groups",
        "scheduling_strategy",
        "placement_group",
        "placement_group_bundle_index",
        "placement_group_capture_child_tasks",
        "enable_task_events",
        "max_pending_calls",
    }
)
_KIND_CHARACTERS = 16


def check_ray_options(options: Mapping[str, Any]) -> None:
    """Refuse Ray options that a host cannot have.

    Raises:
        ValueError: One that Holdfast decides itself, or that Ray does not know.
    """
    for key in options:
        if key in _REFUSED:
            raise ValueError(f"Ray option {key!r} cannot be given to a virtual actor: Holdfast decides it")
    # Ray's own check, without an actor being made.
    checked: Any = ray.remote(_Empty)
    checked.options(**options)


def check_call_options(options: Mapping[str, Any]) -> None:
    """Refuse Ray options of a call that Ray does not know: they are kept with the call, and a slip is to be seen.

    Raises:
        ValueError: Such an option.
    """
    if options:
        checked: Any = ray.remote(_nothing)
        checked.options(**options)


class _Empty:
    pass


def _nothing() -> None:
    pass


def describe_hosting(ray_options: Mapping[str, Any], runtime_env: Mapping[str, Any] | None, captured: bytes) -> bytes:
    """What the hosts of a class need, to be stored; empty for nothing special.

    Args:
        ray_options: Of the class.
        runtime_env: Of the class.
        captured: The environment of the job that makes the actor.
    """
    if not ray_options and not runtime_env and not captured:
        return b""
    warn_of_plain_variables(runtime_env or {})
    environment = sorted((runtime_env or {}).items())
    return bytes(_cloudpickle.dumps((sorted(ray_options.items()), environment, captured), protocol=5))


def spec_of(made_of: ClassRequest) -> ActorSpec:
    """A class as the store knows it."""
    return ActorSpec(
        class_name=made_of.name,
        code=made_of.digest,
        class_version=made_of.version,
        host=kind_of(made_of.hosting),
        mailbox_limit=made_of.mailbox_limit,
        suspends=made_of.on_error == "suspend",
        formerly=made_of.formerly,
    )


def kind_of(hosting: bytes) -> str:
    """The kind of hosts that `describe_hosting` asks for; empty for the ordinary ones."""
    return hash_code(hosting)[:_KIND_CHARACTERS] if hosting else ""
