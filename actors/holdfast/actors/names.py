"""Names of the Ray actors, and who answers for a workflow."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

NAMESPACE = "holdfast"
MANAGEMENT = "holdfast-management"


def executor_name(number: int) -> str:
    """Name of an executor of the pool."""
    return f"holdfast-executor-{number}"


DEDICATED = "holdfast-executor-of-"
"""What the names of executors begin with that drive one workflow only."""


def dedicated_executor_name(nonce: str, epoch: int) -> str:
    """Name of the executor of one workflow; another for each time that it is taken up."""
    return f"{DEDICATED}{nonce[:16]}-{epoch}"


def is_dedicated(executor: str) -> bool:
    """Whether an executor drives one workflow only, and ends with it."""
    return executor.startswith(DEDICATED)


_PROCESS = "process."


def process_setting(executor: str) -> str:
    """Where the store keeps which process an executor is."""
    return f"{_PROCESS}{executor}"


def process_executor(setting: str) -> str:
    """The executor of a `process_setting`."""
    return setting.removeprefix(_PROCESS)


def listener_host_name(environment: str, ward: int) -> str:
    """Name of an actor that polls listeners.

    Args:
        environment: Hash of their runtime environment; empty for none.
        ward: 0 for where all begin; from 1 on for those who are kept away from there.
    """
    return f"holdfast-listeners-{environment[:16] or 'default'}{f'-ward-{ward}' if ward else ''}"


def event_source_host_name(connection: str) -> str:
    """Name of the actor that reads the topics of a Kafka connection."""
    return f"holdfast-kafka-{connection}"


def executor_for(workflow_id: str, executors: Sequence[str]) -> str:
    """The executor to ask first about a workflow: stable while the pool is."""
    return executors[zlib.crc32(workflow_id.encode("utf-8", "surrogatepass")) % len(executors)]


VIRTUAL_HOSTS = "holdfast-virtual-actors"
"""What the names of the hosts of virtual actors begin with."""


def virtual_host_name(kind: str, number: int) -> str:
    """Name of a host of virtual actors; `kind` is empty for those that need nothing special."""
    return f"{VIRTUAL_HOSTS}-{kind or 'default'}-{number}"


def suspects_host_name(kind: str) -> str:
    """Name of the host for virtual actors that ran when a host of that kind died."""
    return f"{VIRTUAL_HOSTS}-{kind or 'default'}-suspects"


def virtual_host_for(actor_id: str, kind: str, count: int) -> str:
    """The host to ask first about a virtual actor: stable while their number is."""
    return virtual_host_name(kind, zlib.crc32(actor_id.encode("utf-8", "surrogatepass")) % count)
