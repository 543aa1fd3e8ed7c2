"""What the store knows of a virtual actor, as plain values: its own row, its reminders, and views for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.graph import Graph, TaskOptions
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_records import DEFAULT_MAILBOX_LIMIT, Standing, Terms
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec(PlainPickle):
    """What an actor is an object of.

    Attributes:
        class_name: Module and qualified name of the class; `list_actors(cls=)` goes by it.
        code: Hash of the class in the code store.
        class_version: Version of the class, for migrations. States are stored with the one they were made by.
        environment: Hash of the runtime environment in the code store; empty for none.
        host: Name of the host that its Ray options or its environment call for; empty for any of the pool.
        mailbox_limit: How many calls its mailbox holds.
        suspends: Whether a call that fails for good holds the mailbox (`on_error="suspend"`).
        user_metadata: The user's own, JSON.
        formerly: Names under which the class was known before: an actor can be asked for under them.
    """

    class_name: str
    code: str = ""
    class_version: int = 0
    environment: str = ""
    host: str = ""
    mailbox_limit: int = DEFAULT_MAILBOX_LIMIT
    suspends: bool = False
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    formerly: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        """What the engine needs of it."""
        return Terms(class_name=self.class_name, mailbox_limit=self.mailbox_limit, suspends=self.suspends)


@dataclass(frozen=True, slots=True)
class ActorState(PlainPickle):
    """The state of an actor: what the engine calls opaque.

    Attributes:
        base: The bytes. As JSON they are the in-band part of the payload, as they would stand in a file.
        json: Whether it is JSON; else it is pickled.
        class_version: Version of the class that made it.
    """

    base: Payload | Blob
    json: bool = False
    class_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubRequest(PlainPickle):
    """What a method returned to go on with: what the engine calls an opaque request.

    Attributes:
        graph: To be submitted.
        user_metadata: Of the workflow, JSON.
        environment: Hash of the runtime environment in the code store; empty for none.
    """

    graph: Graph
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRow:
    """One actor as the store knows it, but for its mailbox.

    Attributes:
        seq: Its number, of the same counter as those of workflows.
        actor_id: Its id.
        spec: Its class.
        standing: Where it stands, with its state (`ActorState`).
        nonce: Mark of the request that made it. Also the group of its blobs.
        created_unix_s: When that was.
        suspected: Its code was running when a host died: it is run apart from others until a call takes effect.
        resumed_by: Mark of the last request that resumed it; empty for none.
    """

    seq: int
    actor_id: str
    spec: ActorSpec
    standing: Standing = field(default_factory=Standing)
    nonce: str = ""
    created_unix_s: float = 0.0
    suspected: bool = False
    resumed_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reminder(PlainPickle):
    """A call that an actor gets at certain times, once for each of them.

    Attributes:
        name: Its name, unique within the actor.
        method: What is called.
        arguments: A `Payload`, or a `Blob` of the actor's group; empty for none.
        options: Of each call.
        timing: When it is due, JSON; opaque here.
        next_due_unix_s: The first time that it has not called yet.
        nonce: Mark of the request that made it.
        created_unix_s: When that was.
        fired: How many calls it has made.
        held_until_unix_s: Not to be looked at before: its actor would not take the call.
        overlap: What becomes of a time, of more than one, while a call of an earlier one waits in the mailbox.
        catch_up_s: Times longer ago than this make no call, the others one each; None when it was not given.
        skipped: How many times `overlap` did without, or had their call taken back.
        missed_until_unix_s: Times up to this one were missed: they were too long ago when they were looked at.
    """

    name: str
    method: str
    timing: Mapping[str, Any]
    next_due_unix_s: float
    nonce: str
    arguments: Any = b""
    options: TaskOptions = field(default_factory=TaskOptions)
    created_unix_s: float = 0.0
    fired: int = 0
    held_until_unix_s: float = 0.0
    overlap: Overlap = Overlap.SKIP
    catch_up_s: float | None = None
    skipped: int = 0
    missed_until_unix_s: float | None = None

    @property
    def look_unix_s(self) -> float:
        """When to look at it."""
        return max(self.next_due_unix_s, self.held_until_unix_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorView(PlainPickle):
    """An actor as a list shows it."""

    actor_id: str
    class_name: str
    status: WorkflowStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDescription(PlainPickle):
    """An actor as `workflow.describe` shows it.

    Attributes:
        actor_id, class_name, status: As in `ActorView`.
        state_version: How many calls have taken effect.
        class_version: Version of the class that its state is of.
        initialized: Whether its constructor is done.
        mailbox_length: Calls that are accepted and not over, of those with a row, and events that are to be calls.
        last_call, last_call_unix_s: The call that ended last, and when; empty and None when there was none.
        last_error: The last error of a call, in words; empty when there was none.
        deaths: Hosts that died over its code since a call last took effect.
        host: The host that has been given it last; empty for none.
        created_unix_s: When it was made.
        reminders: How many it has.
        current_call: The first call that is accepted and not over, of those with a row: the one that runs, or that the
            others wait for. Empty for none. `workflow.cancel("<actor_id>/<current_call>")` ends it.
    """

    actor_id: str
    class_name: str
    status: WorkflowStatus
    state_version: int
    class_version: int
    initialized: bool
    mailbox_length: int
    last_call: str
    last_call_unix_s: float | None
    last_error: str
    deaths: int
    host: str
    created_unix_s: float
    reminders: int
    current_call: str = ""
