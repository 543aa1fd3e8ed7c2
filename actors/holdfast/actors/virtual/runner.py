"""Runs methods of virtual actors: the part of a host that loads and calls user code.

Each class has threads of its own, and an event loop for its `async` methods: a
class that blocks keeps its own actors waiting, and no others. What comes of a
call is said in a form that can be stored; nothing here is committed, and
nothing here knows what is called next.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from holdfast.actors.black_box import Key
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.error_values import dump_error
from holdfast.actors.graph_builder import build, refuse_node
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.nodes import StepNode, is_actor_node, is_task
from holdfast.actors.storage_access import StorageAccess, object_blob, object_keys, portable
from holdfast.actors.task_options import is_retryable
from holdfast.actors.task_runner import load_code, settle_arguments
from holdfast.actors.values import dump
from holdfast.actors.virtual.carried_steps import carry_step
from holdfast.actors.virtual.context import CallContext, running_call
from holdfast.actors.virtual.definition import ActorDefinition, definition_of
from holdfast.actors.virtual.operations import ReminderChange, SetReminder
from holdfast.actors.virtual.requests import CONSTRUCTOR
from holdfast.actors.virtual.state import encode_state, load_instance, state_of
from holdfast.engine.graph import Graph
from holdfast.engine.virtual_actor_signals import UNCHANGED, Unchanged
from holdfast.storage.actor_row import ActorState
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring

THREADS = 64
"""Methods of one class that run at once in one host, those that are `async` apart."""

_KEPT_ACTORS = 10_000


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


@dataclass(slots=True)
class _Warm:
    """An object whose state is that of a version."""

    version: int
    instance: Any
    used_s: float


@dataclass(eq=False, slots=True)
class Attempt:
    """One run of a method.

    Attributes:
        ended: What comes of it.
    """

    ended: Future[Ended]
    _room: _Room
    _task: asyncio.Task[Any] | None = None
    _left: bool = False

    def leave(self) -> None:
        """Nobody waits for it any more: what is `async` is cancelled; a thread goes on, and what it does is lost."""
        self._left = True
        self._room.left(self)


class Runner:
    """Runs methods.

    Args:
        storage: Where code, arguments and states are.
        store_code: Makes code durable.
        note: Told which call of which actor runs, and when it has ended.
    """

    def __init__(
        self,
        storage: StorageAccess,
        store_code: Callable[[Mapping[str, bytes]], None],
        note: Callable[[int, Key | None], None],
    ) -> None:
        import_here()
        self._storage, self._store_code = storage, store_code
        self._slots = _Slots(note)
        self._rooms: dict[str, _Room] = {}
        self._warm: OrderedDict[int, _Warm] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, work: Work) -> Attempt:
        """Run a method that may write."""
        return self._begin(work, self._written)

    def read(self, work: Work) -> Attempt:
        """Run a method on a copy of a state."""
        return self._begin(work, self._read_only)

    def forget(self, seq: int) -> None:
        """Throw away the object of an actor: its state is not that of any version."""
        with self._lock:
            self._warm.pop(seq, None)

    def put_away(self, idle_s: float) -> int:
        """Throw away objects that have not been used for so many seconds. Returns how many are left."""
        until = time.monotonic() - idle_s
        with self._lock:
            while self._warm:
                seq, first = next(iter(self._warm.items()))
                if first.used_s > until:
                    break
                del self._warm[seq]
            return len(self._warm)

    def definition(self, code: str) -> ActorDefinition:
        """A class by the hash of its code; it is loaded in the thread that calls."""
        return definition_of(load_code(self._storage, code))

    # -- threads -------------------------------------------------------------------------------------------------

    def _begin(self, work: Work, finish: Callable[[Work, Any, Any, float], Ended]) -> Attempt:
        room = self._rooms.get(work.code)
        if room is None:
            room = self._rooms[work.code] = _Room()
        attempt = Attempt(Future(), room)
        room.pool.submit(self._run, work, attempt, finish)
        return attempt

    def _run(self, work: Work, attempt: Attempt, finish: Callable[[Work, Any, Any, float], Ended]) -> None:
        started = time.time()
        key = (work.seq, work.context.number, 0)
        slot = self._slots.take(key)
        # While it waits for others by our own calls it runs nothing.
        rest = partial(self._slots.rest, slot, key)
        work = replace(work, context=replace(work.context, rest=rest))
        asynchronous = False
        try:
            with running_call(work.context):
                instance, result = self._call(work)
                if inspect.iscoroutine(result):
                    asynchronous = True
                    attempt._room.start(self._awaited(work, attempt, finish, instance, result, started, slot), attempt)
                    return
                ended = finish(work, instance, result, started)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is theirs to see
            ended = self._raised(work, error, started)
        finally:
            if not asynchronous:
                self._slots.give_back(slot)
        self._say(work, attempt, ended)

    async def _awaited(
        self,
        work: Work,
        attempt: Attempt,
        finish: Callable[[Work, Any, Any, float], Ended],
        instance: Any,
        coroutine: Any,
        started: float,
        slot: int,
    ) -> None:
        try:
            with running_call(work.context):
                result = await coroutine
                ended = finish(work, instance, result, started)
        except asyncio.CancelledError:
            if not attempt._left:
                raised = RuntimeError(f"{work.method} cancelled itself")
                self._say(work, attempt, self._raised(work, raised, started))
            return
        except Exception as error:  # noqa: BLE001 - as above
            ended = self._raised(work, error, started)
        finally:
            self._slots.give_back(slot)
        self._say(work, attempt, ended)

    def _say(self, work: Work, attempt: Attempt, ended: Ended) -> None:
        if attempt._left:
            self.forget(work.seq)
        else:
            attempt.ended.set_result(ended)

    # -- calling -------------------------------------------------------------------------------------------------

    def _call(self, work: Work) -> tuple[Any, Any]:
        cls = load_code(self._storage, work.code)
        prepare_imports(cls)
        definition = definition_of(cls)
        context = LoadContext(fetch_object=lambda key: self._object(work, key))
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if not isinstance(work.arguments, bytes):
            args, kwargs = load(self._storage.load_base(work.arguments), context)
        if work.method == CONSTRUCTOR:
            return cls(*args, **kwargs), None
        instance = self._instance(work, definition, context)
        return instance, definition.method(work.method).function(instance, *args, **kwargs)

    def _object(self, work: Work, key: str) -> Payload:
        found = work.objects.get(key)
        return self._storage.read_blob(object_blob(work.group, key)) if found is None else found

    def _instance(self, work: Work, definition: ActorDefinition, context: LoadContext) -> Any:
        if work.state_version >= 0:
            with self._lock:
                # Taken out: when anything goes wrong it is not put back.
                warm = self._warm.pop(work.seq, None)
            if warm is not None and warm.version == work.state_version and type(warm.instance) is definition.cls:
                return warm.instance
        state = work.state
        assert state is not None
        payload = self._storage.load_base(state.base)
        return load_instance(
            definition,
            work.context.actor_id,
            payload,
            json=state.json,
            version=state.class_version,
            context=context,
        )

    def _written(self, work: Work, instance: Any, result: Any, started: float) -> Ended:
        ended = time.time()
        cls: type = type(instance)
        definition = definition_of(cls)
        graph: Graph | None = None
        value: Payload | Blob | Referring | None = None
        if is_actor_node(result):
            refuse_node(result)
        if work.inside and isinstance(result, StepNode):
            # The task that asked for this returns it: it goes on there.
            value = portable(dump(result, objects={}, node_hook=carry_step, where=f"what {work.method!r} returned"))
        elif is_task(result) and work.method != CONSTRUCTOR:
            if work.inside:
                raise TypeError(
                    f"{work.method!r} runs as a step of its own actor and returned {result!r}: there it can go on with "
                    "steps only, f.step(...) or self.method.step(...)"
                )
            graph = self._store_graph(work, result)
        elif work.method != CONSTRUCTOR:
            value = self._store_value(work, result)
        state = self._store_state(work, definition, instance)
        reminders = tuple(self._store_reminder(work, change) for change in work.context.reminders)
        with self._lock:
            self._warm[work.seq] = _Warm(work.state_version + 1, instance, time.monotonic())
            self._warm.move_to_end(work.seq)
            if len(self._warm) > _KEPT_ACTORS:
                self._warm.popitem(last=False)
        if graph is not None:
            return Continued(graph=graph, state=state, reminders=reminders, started_unix_s=started, ended_unix_s=ended)
        return Returned(value=value, state=state, reminders=reminders, started_unix_s=started, ended_unix_s=ended)

    def _read_only(self, work: Work, _: Any, result: Any, started: float) -> Ended:
        if is_task(result) or is_actor_node(result):
            raise TypeError(
                f"the read-only method {work.method!r} returned {result!r}: only a method that may write can go on "
                "with steps"
            )
        objects: dict[str, Payload] = {}
        payload = dump(result, objects=objects, where=f"the result of {work.method!r}")
        if objects:
            raise TypeError(
                f"the read-only method {work.method!r} returned an ObjectRef: what it stands for is stored by methods "
                "that may write. Return the value itself"
            )
        return Returned(value=portable(payload), state=UNCHANGED, started_unix_s=started, ended_unix_s=time.time())

    # -- storing -------------------------------------------------------------------------------------------------

    def _store_value(self, work: Work, value: Any) -> Payload | Blob | Referring | None:
        if value is None:
            return None
        objects: dict[str, Payload] = {}
        payload = dump(value, objects=objects, where=f"the result of {work.method!r}")
        base = self._storage.store_value(payload, work.group, durable=True)
        if not objects:
            return base
        self._storage.store_objects(objects, work.group)
        return Referring(base, object_keys(objects))

    def _store_state(self, work: Work, definition: ActorDefinition, instance: Any) -> ActorState | Unchanged:
        objects: dict[str, Payload] = {}
        where = f"the state of virtual actor {work.context.actor_id!r}"
        payload, json = encode_state(state_of(definition, instance), objects=objects, where=where)
        version, before = definition.settings.version, work.state
        if (
            before is not None
            and isinstance(before.base, Payload)
            and not payload.buffers
            and (before.json, before.class_version) == (json, version)
            and before.base.inband == payload.inband
        ):
            return UNCHANGED
        self._storage.store_objects(objects, work.group)
        return ActorState(self._storage.store_value(payload, work.group, durable=True), json, version)

    def _store_reminder(self, work: Work, change: ReminderChange) -> ReminderChange:
        if not isinstance(change, SetReminder) or not isinstance(change.arguments, Payload):
            return change
        return replace(change, arguments=self._storage.store_value(change.arguments, work.group, durable=True))

    def _store_graph(self, work: Work, node: Any) -> Graph:
        draft = build(node)
        if draft.workflow_ids:
            raise ValueError(
                f"{work.method!r} returned a task of workflow {sorted(draft.workflow_ids)[0]!r}: a remaining task of "
                "workflow.wait can be used in its own workflow only"
            )
        self._store_code(draft.code)
        self._storage.store_objects(draft.objects, work.sub_group)
        return settle_arguments(
            draft.graph, lambda payload: self._storage.store_value(payload, work.sub_group, durable=True)
        )

    def _raised(self, work: Work, error: BaseException, started: float) -> Raised:
        self.forget(work.seq)
        text = "".join(traceback.format_exception(error))
        return Raised(
            error=portable(dump_error(error, text)),
            said=f"{type(error).__name__}: {error}",
            retryable=is_retryable(work.exception_filter, error),
            started_unix_s=started,
            ended_unix_s=time.time(),
        )


class _Room:
    """The threads of one class."""

    def __init__(self) -> None:
        self.pool = self._new_pool()
        self._lost = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def start(self, coroutine: Any, attempt: Attempt) -> None:
        """Run a coroutine on the loop of the class."""

        def begin() -> None:
            if attempt._left:
                coroutine.close()
            else:
                attempt._task = loop.create_task(coroutine)

        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._serve, args=(self._loop,), name="holdfast-loop", daemon=True).start()
            loop = self._loop
        loop.call_soon_threadsafe(begin)

    def left(self, attempt: Attempt) -> None:
        """An attempt was left behind: in a thread it may be for ever."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel, attempt)
            self._lost += 1
            if self._lost >= THREADS // 2:
                self._lost = 0
                self.pool.shutdown(wait=False)
                self.pool = self._new_pool()

    @staticmethod
    def _cancel(attempt: Attempt) -> None:
        if attempt._task is not None:
            attempt._task.cancel()

    @staticmethod
    def _new_pool() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="holdfast-methods")

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()


@dataclass(slots=True)
class _Slots:
    """Places in the black box, for calls that run at once."""

    note: Callable[[int, Key | None], None]
    _free: list[int] = field(default_factory=list)
    _made: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: Key) -> int:
        with self._lock:
            if self._free:
                slot = self._free.pop()
            else:
                slot, self._made = self._made, self._made + 1
        self.note(slot, key)
        return slot

    def rest(self, slot: int, key: Key, resting: bool) -> None:
        self.note(slot, None if resting else key)

    def give_back(self, slot: int) -> None:
        self.note(slot, None)
        with self._lock:
            self._free.append(slot)
