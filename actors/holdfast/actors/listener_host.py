"""Polls custom listeners, many to a process, away from the actors that own workflows.

Runs user code, so it may block, freeze, leak or die. What blocks keeps nobody
else from going on; what freezes or fills the process ends it. When this process
dies whoever asked asks its successor again, and only the one whose code was
running then is told that it was lost.
"""

from __future__ import annotations

import inspect
import pickle
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import ray

from holdfast.actors import names
from holdfast.actors.black_box import BlackBox, Blame
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.host_guard import MEMORY_VARIABLE, HostGuard
from holdfast.actors.poll_loops import PollLoops
from holdfast.actors.ray_untyped import remote
from holdfast.actors.storage_access import StorageAccess, StorageAddress, access
from holdfast.actors.task_call import Acknowledged, Heard, Raised, Reply, TaskCall
from holdfast.actors.task_context import TaskContext, running
from holdfast.actors.task_runner import load_arguments, load_code, load_value, raised, returned
from holdfast.actors.user_code import described, runs_user_code, user_code, what_ended
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.wire import unpack_call
from holdfast.engine.errors import HoldfastError, WorkerLostError
from holdfast.listeners.interface import ReportHandle

_ENDED = "the listener's own code ended its process, or froze it"


@remote(num_cpus=0, max_concurrency=100_000)
class ListenerHost:
    """Polls the listeners of one runtime environment."""

    def __init__(self) -> None:
        self._black_box = BlackBox(f"listeners-{ray.get_runtime_context().get_actor_id()}")
        guard = HostGuard(self._black_box)
        filled = f"the listener used its process's memory up to the limit, {MEMORY_VARIABLE} ({guard.limit_mib} MiB)"
        self._reasons = {Blame.RAN: _ENDED, Blame.ACCUSED: filled}
        self._loops = PollLoops(self._black_box.note, guard.look)

    async def explains(self) -> bool:
        """Whether it is known who ended the process before this one: it will be told to that one, when it asks."""
        return self._black_box.explains

    async def poll(self, packed_call: bytes, mark: int) -> Reply:
        """Wait for a listener's event.

        Args:
            packed_call: The attempt.
            mark: Its own, the same each time the host is asked for this attempt.

        Returns:
            The event, or what to wait for in its place, or the error it raised.

        Raises:
            WorkerLostError: It ended this process before.
        """
        call, started = unpack_call(packed_call), time.time()
        reply: Reply = await self._run(call, mark, started, lambda: self._poll(call, started))
        return reply

    async def acknowledge(self, packed_call: bytes, mark: int) -> Acknowledged | Raised:
        """Tell a listener that its event is durable.

        Args:
            packed_call: The attempt.
            mark: Its own, the same each time the host is asked for this attempt.

        Raises:
            WorkerLostError: It ended this process before.
        """
        call = unpack_call(packed_call)
        reply: Acknowledged | Raised = await self._run(call, mark, time.time(), lambda: self._acknowledge(call))
        return reply

    async def ids_of(self, storage: StorageAddress, what: str, function: str, messages: Sequence[bytes]) -> list[Any]:
        """What a user's function calls the workflows, or the virtual actors, of some events.

        Args:
            storage: Where the function is.
            what: The parameter by which the user gave it, for messages.
            function: Its hash.
            messages: The events, pickled.

        Returns:
            For each what the function returned, or an error that says what it raised.
        """

        async def name_all() -> list[Any]:
            set_cluster_nonce(storage.cluster)
            import_here()
            try:
                with user_code:
                    call = load_code(access(storage), function)
                    prepare_imports(call)
            except HoldfastError:
                raise
            except Exception as error:  # noqa: BLE001 - as below
                return [ValueError(f"{what} cannot be loaded: {described(error)}") for _ in messages]
            return [_named(what, call, pickle.loads(message)) for message in messages]

        # Under a key of no workflow: what ends this process in it is told apart by whoever asks, and tries again.
        made: list[Any] = await self._loops.run((-1, 0, 0), name_all)
        return made

    async def _run(
        self, call: TaskCall, mark: int, started: float, make: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        key = (call.seq, call.task, mark)
        blame = self._black_box.blame_of(key)
        if blame is not None:
            raise WorkerLostError(call.node.task_id, self._reasons[blame])
        try:
            return await self._loops.run(key, make)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is theirs to see
            # Code that is wrong will be no better later. (What cannot be stored is a TypeError too.) What is no
            # Exception was not meant to be tried again.
            ended = what_ended(error)
            kind = type(ended)
            hopeless = issubclass(kind, TypeError | NotImplementedError) or not issubclass(kind, Exception)
            return replace(raised(call, error, started), retryable=not hopeless)

    async def _acknowledge(self, call: TaskCall) -> Acknowledged:
        assert call.event is not None
        storage = self._storage(call)
        with user_code:
            listener_class = load_code(storage, call.node.function)
            prepare_imports(listener_class)
            event = load_value(storage, call.workflow_id, call.group, call.event)
            with running(TaskContext(call.workflow_id, call.node.task_id)):
                await _instance(listener_class, call).event_checkpointed(event)
        return Acknowledged(seq=call.seq, task=call.task, attempt=call.attempt)

    async def _poll(self, call: TaskCall, started: float) -> Reply:
        storage = self._storage(call)
        with user_code:
            listener = load_code(storage, call.node.function)
            prepare_imports(listener)
            args, kwargs = load_arguments(storage, call)
            if isinstance(inspect.getattr_static(listener, "subscription", None), (classmethod, staticmethod)):
                return self._subscribe(call, listener.subscription(*args, **kwargs))
            with running(TaskContext(call.workflow_id, call.node.task_id)):
                event = await _instance(listener, call).poll_for_event(*args, **kwargs)
            where = f"the event of listener {call.node.task_id!r}"
            return returned(call, event, storage, where, started, time.time())

    def _subscribe(self, call: TaskCall, subscription: Any) -> Heard:
        due_unix_s = getattr(subscription, "due_unix_s", None)
        source, key = getattr(subscription, "source", None), getattr(subscription, "key", None)
        stream = (source, key) if source is not None and key is not None else None
        return Heard(seq=call.seq, task=call.task, attempt=call.attempt, stream=stream, due_unix_s=due_unix_s)

    def _storage(self, call: TaskCall) -> StorageAccess:
        set_cluster_nonce(call.storage.cluster)
        import_here()
        return access(call.storage)


def _named(what: str, call: Callable[[Any], Any], message: Any) -> Any:
    try:
        with user_code:
            made = call(message)
            # Neither the value nor the error itself: whoever gets it cannot load the user's classes.
            if isinstance(made, str):
                return str.__str__(made)
            return ValueError(f"{what} must give a string, not {made!r:.200}")
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is said to them
        return ValueError(f"{what} raised {described(error)}")


@runs_user_code
def _instance(listener_class: Any, call: TaskCall) -> Any:
    """A listener, its report handle leading to the executor that drives the workflow."""
    listener = listener_class()
    for name in {name for kind in listener_class.__mro__ for name in vars(kind)}:
        if isinstance(inspect.getattr_static(listener_class, name), ReportHandle):
            setattr(listener, name, ReportHandle(_report_to(call.executor)))
    return listener


def _report_to(executor: str) -> Callable[[str, str, bool], Any]:
    def send(workflow_id: str, key: str, ok: bool) -> Any:
        return ray.get_actor(executor, namespace=names.NAMESPACE).report_checkpointed.remote(workflow_id, key, ok)

    return send
