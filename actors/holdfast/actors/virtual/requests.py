"""What callers say to the hosts of virtual actors, and what they hear back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.sealed import Answer
from holdfast.engine.graph import TaskOptions
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.storage.payload import Payload

CONSTRUCTOR = "__init__"
"""The method of the call that makes an actor."""

HEARING = "@"
"""What follows it, in the method of a call, says in which way an event is heard: no method's name has it in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRequest(PlainPickle):
    """The class of an actor that is to be made.

    Attributes:
        digest: Hash of its code.
        code: That code, by hash.
        name: `<module>.<qualname>`.
        version: Of its state.
        on_error: "raise" or "suspend".
        mailbox_limit: How many accepted calls may wait.
        hosting: What its hosts need, pickled; empty for the ordinary ones. See `hosting`.
        formerly: Names under which the class was known before.
    """

    digest: str
    code: Mapping[str, bytes]
    name: str
    version: int
    on_error: str
    mailbox_limit: int
    hosting: bytes = b""
    formerly: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest(PlainPickle):
    """A call of a virtual actor, or its making.

    Attributes:
        actor_id: The actor.
        method: The method; `CONSTRUCTOR` to make the actor.
        name: What the call is called in `get_metadata`; made unique there.
        arguments: `(args, kwargs)`.
        objects: Contents of the ObjectRefs in them, by key.
        nonce: Random mark of this call: sent twice it counts once.
        idempotency_key: The user's own mark; None for none.
        options: Retries, time limit, metadata.
        chain: Ids of the actors that wait for this call.
        made_of: The class, when the actor may have to be made.
        inside: Number of the call whose sub-workflow makes this call; None for an ordinary call.
        accepted: Its own number, once it is known to have a row: it is not to be accepted again. -1 before that.
        class_name: What the caller takes the actor to be; empty when it takes it as it is.
    """

    actor_id: str
    method: str
    name: str
    arguments: Payload
    objects: Mapping[str, Payload] = field(default_factory=dict)
    nonce: str = ""
    idempotency_key: str | None = None
    options: TaskOptions = field(default_factory=TaskOptions)
    chain: tuple[str, ...] = ()
    made_of: ClassRequest | None = None
    inside: int | None = None
    accepted: int = -1
    class_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(PlainPickle):
    """A call has been accepted, and is durable.

    Attributes:
        number: Its own; -1 when there was nothing to do.
        answer: What came of it, when it was over in no time and is small; None: ask for it.
    """

    number: int
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlace(PlainPickle):
    """Where an actor is to be found, and what it is.

    Attributes:
        actor_id: The actor.
        digest: Hash of its class's code.
        class_name: `<module>.<qualname>` of the class.
        hosts: Kind of its hosts; empty for the ordinary ones.
    """

    actor_id: str
    digest: str
    class_name: str
    hosts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView(PlainPickle):
    """A writing call as `get_metadata` shows it.

    Attributes:
        name: Unique within the actor.
        method: Its method.
        metadata: The user's own.
        started_unix_s, ended_unix_s: When its last attempt began, and when the call was over; None while it is not.
        number: In the order of acceptance.
        nonce: Its mark.
    """

    name: str
    method: str
    metadata: Mapping[str, Any]
    started_unix_s: float | None
    ended_unix_s: float | None
    number: int
    nonce: str
