"""What clients say to the actors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.virtual.requests import ClassRequest
from holdfast.engine.graph import Graph
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.storage.payload import Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest(PlainPickle):
    """A workflow to run.

    Attributes:
        workflow_id: Its id.
        nonce: Random mark of this request, hex.
        graph: Its arguments still payloads.
        code: Functions and classes by hash.
        objects: Contents of ObjectRefs by key.
        user_metadata: The user's own, JSON.
        environment: The runtime environment, as captured; empty for none.
        dedicated: Give the workflow an executor of its own.
    """

    workflow_id: str
    nonce: str
    graph: Graph
    code: Mapping[str, bytes]
    objects: Mapping[str, Payload] = field(default_factory=dict)
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: bytes = b""
    dedicated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRequest(PlainPickle):
    """An event for a workflow.

    Attributes:
        stream: (source, key).
        payload: What the waiting task gets.
        dedupe_id: Events of one workflow with the same id are one; None for no check.
        nonce: Random mark of this request: sent twice it gets the first answer again; empty for none.
        follow: Answer when the listener that takes it at once, if there is one, has been told that it is durable.
    """

    workflow_id: str
    stream: tuple[str, str]
    payload: Payload
    dedupe_id: str | None = None
    nonce: str = ""
    follow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeRequest(PlainPickle):
    """A rule: each event of a stream starts a workflow, or calls a virtual actor.

    Attributes:
        name: Its name.
        source, selector: Which events.
        graph: One node, which takes the event as its only argument. For a rule of actors its `task_id` is the method.
        code: Functions by hash.
        id_template: How a workflow's, or an actor's, id is made of the event; empty when a function makes it.
        id_function: Hash of that function; empty for none.
        user_metadata: Of each workflow, JSON.
        environment: The runtime environment, as captured; empty for none.
        actor: The class whose actors are called; None for a rule that starts workflows.
        creates: Of such a rule: an actor that is not there is made.
    """

    name: str
    source: str
    selector: str
    graph: Graph
    code: Mapping[str, bytes]
    id_template: str = ""
    id_function: str = ""
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: bytes = b""
    actor: ClassRequest | None = None
    creates: bool = True
