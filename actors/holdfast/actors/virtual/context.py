"""Which call of a virtual actor this code runs in, if any."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from holdfast.actors.task_context import TaskContext, running
from holdfast.actors.virtual.operations import ReminderChange
from holdfast.engine.virtual_actor_errors import AttemptAbandonedError


@dataclass(frozen=True, slots=True)
class CallContext:
    """The call that is running.

    Attributes:
        actor_id: The actor.
        number: Of the call; -1 of a read.
        name: Of the call, as `get_metadata` knows it; of a read the method's.
        host: Name of the Ray actor that runs it.
        chain: Ids of the actors that wait for this call, the first one first, with this actor at the end.
        mark: The same when the call is run again after a crash, and for no other; empty of a read.
        requests: How many requests of a kind the method has made.
        reminders: What the method has asked for: done when it takes effect.
        keep: Makes the call durable. A method that asks others for something is run again after a crash, whoever
            called it: what it has asked for must not stay without the rest.
        rest: Told True when the method begins to wait for somebody else, and False when it goes on: while it waits
            it is not to blame for the end of its process.
        is_left: Says whether nobody waits for this attempt any more: it was cancelled, or ran over its time.
    """

    actor_id: str
    number: int
    name: str
    host: str
    chain: tuple[str, ...]
    mark: str = ""
    requests: dict[str, int] = field(default_factory=dict)
    reminders: list[ReminderChange] = field(default_factory=list)
    keep: Callable[[], None] | None = None
    rest: Callable[[bool], None] | None = None
    is_left: Callable[[], bool] | None = None


_current: ContextVar[CallContext | None] = ContextVar("holdfast_virtual_actor_call", default=None)


def current_call() -> CallContext | None:
    """The call whose method runs this code; None outside of one."""
    return _current.get()


@contextmanager
def running_call(context: CallContext) -> Iterator[None]:
    """Say that a call runs, for as long as the block does; to the user's code it is a task of the actor."""
    token = _current.set(context)
    try:
        with running(TaskContext(context.actor_id, context.name)):
            yield
    finally:
        _current.reset(token)


def refuse_left() -> None:
    """Refuse requests of a method that was cancelled, or ran over its time limit: its call may run elsewhere.

    Raises:
        AttemptAbandonedError: This code runs in such a method.
    """
    call = _current.get()
    if call is not None and call.is_left is not None and call.is_left():
        raise AttemptAbandonedError(call.actor_id, call.name)


@contextmanager
def waiting() -> Iterator[None]:
    """Note that the method that runs, if any, waits for another call while the block runs.

    Raises:
        AttemptAbandonedError: Nobody waits for that method any more.
    """
    refuse_left()
    call = _current.get()
    if call is None or call.rest is None:
        yield
        return
    call.rest(True)
    try:
        yield
    finally:
        call.rest(False)


def request_nonce(what: str) -> str:
    """The mark of a request, hex: random; but of one that a writing method makes, the same when that is run again.

    So what a method asks for before a crash, and asks for again after it, is done once.

    Args:
        what: The request, as far as it tells one of a method from another. Of several of these it is the first one
            that is like the first one of the run before.

    Raises:
        AttemptAbandonedError: Nobody waits for the method any more.
    """
    refuse_left()
    call = _current.get()
    if call is None or not call.mark:
        return uuid.uuid4().hex
    if call.keep is not None and not call.requests:
        with waiting():
            call.keep()
    before = call.requests.get(what, 0)
    call.requests[what] = before + 1
    said = f"{call.actor_id}\0{call.mark}\0{before}\0{what}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).hexdigest()
