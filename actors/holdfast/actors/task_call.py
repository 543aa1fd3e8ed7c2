"""What goes to a worker with a task, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.actors.storage_access import StorageAddress
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.values import Value
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCall:
    """One attempt of a task, or of a listener.

    Attributes:
        workflow_id: The workflow, as the user sees it.
        seq: Its number in the store.
        group: Where its blobs lie.
        task, attempt: To be given back.
        node: What to run.
        values: Its inputs, in a form that Ray can carry.
        hold: Report before leaving the worker.
        executor: Name of the executor to report to.
        storage: Where the storage folder is.
        event: The event to acknowledge, when that is what is asked of a listener.
        epoch: The executor's lease, under which a worker may log; 0 for none.
        follows: Its one input is what comes of the task before it in the bundle.
    """

    workflow_id: str
    seq: int
    group: str
    task: int
    attempt: int
    node: NodeSpec
    values: tuple[Value, ...]
    hold: bool
    executor: str
    storage: StorageAddress
    event: Value | None = None
    epoch: int = 0
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    seq: int
    task: int
    attempt: int
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    ran_s: float = 0.0
    objects: Mapping[str, Payload] = field(default_factory=dict)
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned(_Reply):
    """A value. `objects` are those it refers to and that have not been stored yet, `names` the tasks that it names."""

    base: Payload | Blob | Referring | None
    names: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued(_Reply):
    """A graph in place of a value, with the code it calls."""

    graph: Graph
    code: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised(_Reply):
    """An error."""

    error: Payload
    retryable: bool
    names: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard(_Reply):
    """A listener knows what it waits for: a stream, or a point in time."""

    stream: tuple[str, str] | None
    due_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged(_Reply):
    """A listener's `event_checkpointed` came to its end."""


Reply: TypeAlias = Returned | Continued | Raised | Heard | Acknowledged
