"""Runs methods of virtual actors: the part of a host that loads and calls user code.

Each class has a room of its own to run in. What comes of a call is said in a form that can be stored; nothing here is
committed, and nothing here knows what is called next.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from holdfast.actors.black_box import Key
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.storage_access import StorageAccess, object_blob
from holdfast.actors.task_runner import load_code
from holdfast.actors.user_code import runs_user_code, user_code
from holdfast.actors.virtual.context import running_call
from holdfast.actors.virtual.definition import ActorDefinition, definition_of
from holdfast.actors.virtual.requests import CONSTRUCTOR
from holdfast.actors.virtual.results import Results
from holdfast.actors.virtual.rooms import Attempt, Room
from holdfast.actors.virtual.state import load_instance
from holdfast.actors.virtual.work import Ended, Raised, Work
from holdfast.storage.payload import Payload

_KEPT_ACTORS = 10_000

_Finish: TypeAlias = Callable[[Work, Attempt, Any, Any, float], Ended]
"""Says what a method has come to: its work, its attempt, the object, what it returned, when it began."""


@dataclass(slots=True)
class _Warm:
    """An object whose state is that of a version."""

    version: int
    instance: Any
    used_s: float


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
        self._storage, self._results = storage, Results(storage, store_code)
        self._slots = _Slots(note)
        self._rooms: dict[str, Room] = {}
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

    @property
    def left_behind(self) -> int:
        """How many attempts nobody waits for any more, and still run."""
        return sum(room.left_behind for room in list(self._rooms.values()))

    @runs_user_code
    def definition(self, code: str) -> ActorDefinition:
        """A class by the hash of its code; it is loaded in the thread that calls."""
        return definition_of(load_code(self._storage, code))

    # -- threads -------------------------------------------------------------------------------------------------

    def _begin(self, work: Work, finish: _Finish) -> Attempt:
        room = self._rooms.get(work.code)
        if room is None:
            room = self._rooms[work.code] = Room()
        attempt = Attempt(Future(), room)
        room.pool.submit(self._run, work, attempt, finish)
        return attempt

    def _run(self, work: Work, attempt: Attempt, finish: _Finish) -> None:
        if attempt.is_left:
            # Cancelled before it was its turn.
            attempt.over()
            return
        started = time.time()
        key = (work.seq, work.context.number, 0)
        slot = self._slots.take(key)
        # While it waits for others by our own calls it runs nothing.
        rest = partial(self._slots.rest, slot, key)
        work = replace(work, context=replace(work.context, rest=rest, is_left=lambda: attempt.is_left))
        # A coroutine that is cancelled before it begins gives it back, too.
        place = ExitStack()
        place.callback(self._slots.give_back, slot)
        asynchronous = False
        try:
            with user_code, running_call(work.context):
                instance, result = self._call(work)
                if inspect.iscoroutine(result):
                    asynchronous = True
                    attempt.go_on(self._awaited(work, attempt, finish, instance, result, started, place), place.close)
                    return
                ended = finish(work, attempt, instance, result, started)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is theirs to see
            ended = self._raised(work, error, started)
        finally:
            if not asynchronous:
                place.close()
        self._say(attempt, ended)

    async def _awaited(
        self,
        work: Work,
        attempt: Attempt,
        finish: _Finish,
        instance: Any,
        coroutine: Any,
        started: float,
        place: ExitStack,
    ) -> None:
        try:
            with user_code, running_call(work.context):
                result = await coroutine
                ended = finish(work, attempt, instance, result, started)
        except Exception as error:  # noqa: BLE001 - as above; of one that we cancelled nobody is told
            ended = self._raised(work, error, started)
        finally:
            place.close()
        self._say(attempt, ended)

    @staticmethod
    def _say(attempt: Attempt, ended: Ended) -> None:
        attempt.over()
        if not attempt.is_left:
            attempt.ended.set_result(ended)

    # -- calling -------------------------------------------------------------------------------------------------

    @runs_user_code
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

    # -- ends ----------------------------------------------------------------------------------------------------

    @runs_user_code
    def _written(self, work: Work, attempt: Attempt, instance: Any, result: Any, started: float) -> Ended:
        ended = self._results.written(work, instance, result, started)
        with self._lock:
            if attempt.is_left:
                # Another one may have made this version meanwhile, and its object is the right one.
                return ended
            self._warm[work.seq] = _Warm(work.state_version + 1, instance, time.monotonic())
            self._warm.move_to_end(work.seq)
            if len(self._warm) > _KEPT_ACTORS:
                self._warm.popitem(last=False)
        return ended

    @runs_user_code
    def _read_only(self, work: Work, _: Attempt, __: Any, result: Any, started: float) -> Ended:
        return self._results.read_only(work, result, started)

    def _raised(self, work: Work, error: BaseException, started: float) -> Raised:
        self.forget(work.seq)
        return self._results.raised(work, error, started)


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
