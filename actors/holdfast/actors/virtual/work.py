"""What a host has a method do, and how that ended: said in a form that can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.actors.virtual.context import CallContext
from holdfast.actors.virtual.operations import ReminderChange
from holdfast.engine.graph import Graph
from holdfast.engine.virtual_actor_signals import Unchanged
from holdfast.storage.actor_row import ActorState
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A method to run.

    Attributes:
        seq: Number of the actor.
        group: Where its blobs lie.
        code: Hash of its class.
        method: Its method, or the constructor.
        arguments: As stored; empty for none.
        state: To run it on; None for the constructor.
        state_version: Says whether an object that is at hand has this state; -1 of a read.
        context: For the user's code.
        objects: Contents of ObjectRefs in the arguments, where they are not stored.
        exception_filter: Says which errors may be retried.
        sub_group: Where the blobs lie of what it goes on with.
        inside: It is part of a call that has gone on as a workflow: what it goes on with goes on in that.
    """

    seq: int
    group: str
    code: str
    method: str
    arguments: Payload | Blob | bytes
    state: ActorState | None
    state_version: int
    context: CallContext
    objects: Mapping[str, Payload] = field(default_factory=dict)
    exception_filter: bytes = b""
    sub_group: str = ""
    inside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A method returned a value; `objects` are the keys of what it refers to."""

    value: Payload | Blob | Referring | None
    state: ActorState | Unchanged
    started_unix_s: float
    ended_unix_s: float
    reminders: tuple[ReminderChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """A method returned steps or nodes. Its arguments and code are stored."""

    graph: Graph
    state: ActorState | Unchanged
    started_unix_s: float
    ended_unix_s: float
    reminders: tuple[ReminderChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """A method raised, or could not be called, or what it left cannot be stored."""

    error: Payload
    said: str
    retryable: bool
    started_unix_s: float
    ended_unix_s: float


Ended: TypeAlias = Returned | Continued | Raised
