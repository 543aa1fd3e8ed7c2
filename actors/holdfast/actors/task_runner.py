"""Runs tasks inside a Ray worker.

One Ray task runs one task, and after it, in a loop and not on a growing stack,
the in-place tasks that follow: each is reported, and durable, before the next
one begins. Nothing here decides what runs next: the executor says it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.bundle_box import LARGEST_NOTED, BundleBox
from holdfast.actors.bundling import GIVE_BACK_AFTER_S
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.code import BOOK
from holdfast.actors.coroutines import run_to_end
from holdfast.actors.error_values import dump_error, load_error
from holdfast.actors.graph_builder import build, refuse_node
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.local_addresses import LocalAddresses
from holdfast.actors.local_calls import LocalCaller
from holdfast.actors.local_frames import NotHereError
from holdfast.actors.logging_ahead import finished_task, log_ahead
from holdfast.actors.nodes import TaskRefNode, is_actor_node, is_task, take_pickled
from holdfast.actors.ray_repeats import refuse_repetition
from holdfast.actors.reply_signals import signal_of_reply
from holdfast.actors.storage_access import StorageAccess, StorageAddress, access, object_blob, object_keys, portable
from holdfast.actors.task_bundle import REPORTED, BundleReply, May, OpenBundle
from holdfast.actors.task_call import Continued, Raised, Reply, Returned, TaskCall
from holdfast.actors.task_context import TaskContext, running
from holdfast.actors.task_options import is_retryable
from holdfast.actors.user_code import described, runs_user_code, traceback_of, user_code, what_ended
from holdfast.actors.values import dump, render, set_cluster_nonce
from holdfast.actors.wire import pack_reply, unpack_call
from holdfast.engine.errors import (
    HoldfastError,
    StaleLeaseError,
    StorageError,
    TaskTimeoutError,
    WorkflowTaskNotRecoverableError,
)
from holdfast.engine.graph import Graph
from holdfast.engine.signals import TaskReturned
from holdfast.engine.values import Split, Value
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring

log = logging.getLogger("holdfast")

PackedBundle: TypeAlias = tuple[str, str, Sequence[bytes]]
"""(Who sent it, where their executor answers on its machine, its tasks): see `_run_bundles`."""

_STAYS_S = 1.0
"""A worker goes back to Ray after so long, whatever there is to do: others wait for its CPU."""


def run_task(packed: bytes | PackedBundle) -> Reply | bytes | BundleReply | None:
    """Run a task, or a bundle of tasks.

    Raises:
        RepeatedByRayError: Ray runs it again by itself. Nothing of the user's is loaded.
    """
    refuse_repetition()
    return _run_alone(packed) if isinstance(packed, bytes) else _run_bundles(*packed)


def _run_alone(packed_call: bytes) -> Reply | bytes | None:
    """Run a task, and the in-place tasks that follow it here.

    Returns:
        What came of the task, packed; None when all has been reported on the way.
    """
    call = unpack_call(packed_call)
    _prepare(call)
    return pack_reply(_run_with_followers(call))


def _run_bundles(owner: str, local_address: str, packed_calls: Sequence[bytes]) -> BundleReply:
    """Run tiny tasks, one after the other, each with the in-place tasks that follow it here.

    One that follows the task before it is begun when what came of that is durable: this process logs it.

    Args:
        owner: Whoever sent it, for what is noted of it in this machine's memory.
        local_address: Where their executor answers on its machine; empty for nowhere.
        packed_calls: The tasks, of one executor.

    Returns:
        What came of them, unless the executor was told, and gave it others to run.
    """
    calls = [unpack_call(packed) for packed in packed_calls]
    _prepare(calls[0])
    executor, place, until_s, round_ = calls[0].executor, _place(), time.monotonic() + _STAYS_S, 0
    box = None
    if _is_near(calls[0].storage):
        box = _box(owner, place)
        _addresses.know(executor, local_address)
    last = _Last()
    while True:
        reply = _run_bundle(calls, place, round_, box, last)
        if box is None or time.monotonic() > until_s:
            return reply
        try:
            following = _local.call(executor, "more", place, reply)
        except NotHereError:
            return reply
        round_ += 1
        box.next_round()
        if not following:
            return BundleReply(replies=(), unbegun=(), round=round_)
        calls = [unpack_call(packed) for packed in following]


def _box(owner: str, place: str) -> BundleBox | None:
    try:
        return BundleBox(owner, place)
    except OSError as error:
        # As on another machine: each task is reported before the next one.
        log.warning("tasks.bundle_box_unavailable error=%s", error)
        return None


@dataclass(slots=True)
class _Last:
    """The task that a worker ran last, and what came of it if the executor has not been told by itself."""

    call: TaskCall | None = None
    reply: Reply | None = None


def _run_bundle(calls: Sequence[TaskCall], place: str, round_: int, box: BundleBox | None, last: _Last) -> BundleReply:
    def may_begin(number: int) -> May:
        if not calls[number].follows:
            return May.BEGIN
        return May.NOT_HERE if box is None else _log_ahead(last)

    def run_one(number: int) -> bytes:
        call = calls[number]
        if call.follows:
            assert isinstance(last.reply, Returned)
            call = replace(call, values=(Value(last.reply.base),))
        last.call, last.reply = call, None
        last.reply = reply = _run_with_followers(call, bundle.give_back_rest if call.follows else None)
        packed = pack_reply(reply)
        if box is not None and isinstance(packed, bytes) and len(packed) <= LARGEST_NOTED:
            return packed
        # The executor goes on from here.
        last.reply = None
        if reply is not None:
            if call.follows:
                # The executor is to know that it runs here before it says anything.
                bundle.give_back_rest()
            _report(call, reply)
        return REPORTED

    def give_back(told: BundleReply) -> None:
        # Where the executor is not there to hear it, the reply says it once more.
        with suppress(RayError, ValueError):
            _ask(calls[0], "take_back", place, told)

    bundle = OpenBundle(
        [(call.seq, call.task, call.attempt) for call in calls],
        give_back,
        GIVE_BACK_AFTER_S,
        chained=calls[-1].follows,
        round=round_,
    )
    return bundle.run(run_one, box, may_begin)


def _log_ahead(last: _Last) -> May:
    """Make durable what came of a task, for the next one to begin. Returns whether that may."""
    call, reply = last.call, last.reply
    if call is None or not isinstance(reply, Returned) or reply.objects or isinstance(reply.base, Referring):
        return May.NOT_HERE
    signal = signal_of_reply(reply, None, listener=False)
    assert isinstance(signal, TaskReturned)
    record = finished_task(call.task, call.node.task_id, signal)
    try:
        log_ahead(_store(call.storage.path), call.seq, call.epoch, call.workflow_id, record)
    except StaleLeaseError:
        # Whoever drives the workflow now, if anybody does, starts it.
        return May.NEVER
    except StorageError:
        return May.NOT_HERE
    return May.BEGIN


@lru_cache(maxsize=4)
def _store(path: str) -> KeyValueStore:
    return StorageFolder.open(path, create=False).kv


def _find_local_address(executor: str) -> str:
    address: str = ray.get(_executor(executor).local_address.remote())
    return address


_addresses = LocalAddresses()
_local = LocalCaller(_find_local_address, _addresses)
"""Executors are known by their names here: to get the handle of one takes a tenth of a second, the first time."""


def _ask(call: TaskCall, method: str, *arguments: Any) -> Any:
    """Ask the executor of a call, on the short way where there is one."""
    if _is_near(call.storage):
        with suppress(NotHereError):
            return _local.call(call.executor, method, *arguments)
    return ray.get(getattr(_executor(call.executor), method).remote(*arguments))


def _prepare(call: TaskCall) -> None:
    set_cluster_nonce(call.storage.cluster)
    import_here()


def _run_with_followers(call: TaskCall, before_report: Callable[[], object] | None = None) -> Reply | None:
    """Run a task, and what follows it in place. Its reply; None when all has been reported on the way.

    Args:
        call: The task.
        before_report: Called before anything is reported on the way.
    """
    local_values: list[Any] = []
    todo = deque([call])
    while todo:
        current = todo.popleft()
        reply = _run_one(current, local_values)
        in_place = isinstance(reply, Continued) and any(node.options.in_place for node in reply.graph.nodes)
        if not (current.hold or in_place or todo or current is not call):
            return reply
        if before_report is not None and current is call:
            before_report()
        todo.extend(_report(current, reply))
    return None


def _report(call: TaskCall, reply: Reply) -> Sequence[TaskCall]:
    """Have a reply made durable; the tasks to run here next."""
    return [unpack_call(packed) for packed in _ask(call, "report", _place(), reply)]


@lru_cache(maxsize=8)
def _is_near(storage: StorageAddress) -> bool:
    """Whether this process is on the node of the storage folder, and may use it."""
    return storage.is_here


@lru_cache(maxsize=64)
def _executor(name: str) -> Any:
    return ray.get_actor(name, namespace=names.NAMESPACE)


def _place() -> str:
    """What the executor knows this Ray task by."""
    return ray.get_runtime_context().get_task_id() or ""


def _run_one(call: TaskCall, local_values: list[Any]) -> Reply:
    started = time.time()
    storage = access(call.storage)
    take_pickled(call.workflow_id)
    watch = _start_watch(call, started)
    try:
        try:
            with user_code:
                function = load_code(storage, call.node.function)
                prepare_imports(function)
                args, kwargs = load_arguments(storage, call, local_values)
        except HoldfastError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, from what the user's code was ended by
            raise WorkflowTaskNotRecoverableError(
                call.node.task_id, f"its code or arguments cannot be loaded ({described(error)})"
            ) from what_ended(error)
        ready_s = time.perf_counter()
        with user_code:
            with running(TaskContext(call.workflow_id, call.node.task_id)):
                result = run_to_end(function(*args, **kwargs))
            ended, ran_s = time.time(), time.perf_counter() - ready_s
            # The memory of what it was given is of use for what it leaves.
            del args, kwargs
            kept = take_pickled(call.workflow_id)
            reply = _reply(call, result, storage, local_values, started, ended)
            return _with_names(call, replace(reply, ran_s=ran_s), kept)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is theirs to see
        kept = take_pickled(call.workflow_id)
        return _with_names(call, raised(call, error, started), kept)
    finally:
        watch()


def _with_names(call: TaskCall, reply: Reply, kept: tuple[int, ...]) -> Reply:
    """The reply, with the remaining tasks that were pickled: by the user's code (`kept`), and then for the reply."""
    named = take_pickled(call.workflow_id)
    if isinstance(reply, Returned | Raised):
        return replace(reply, kept=kept, names=named)
    # A graph says what it takes; this stands in what its arguments refer to.
    return replace(reply, kept=tuple(sorted({*kept, *named})))


@runs_user_code
def _reply(
    call: TaskCall, result: Any, storage: StorageAccess, local_values: list[Any], started: float, ended: float
) -> Reply:
    if is_actor_node(result):
        refuse_node(result)
    if is_task(result):
        return _continuation(call, result, storage, local_values, started, ended)
    return returned(call, result, storage, f"the result of task {call.node.task_id!r}", started, ended)


def returned(
    call: TaskCall, value: Any, storage: StorageAccess, where: str, started_unix_s: float, ended_unix_s: float
) -> Returned:
    """The reply of an attempt that gave a value, stored as far as that can be done from here.

    Args:
        call: The attempt.
        value: What the user's code returned.
        storage: The storage.
        where: What the value is, for the refusal.
        started_unix_s: When the attempt began, in seconds since the epoch.
        ended_unix_s: When it ended.

    Raises:
        ResultNotStoredError: The value cannot be stored.
    """
    base: Payload | Blob | Referring | None = None
    objects: dict[str, Payload] = {}
    travelling: dict[str, Payload] = {}
    if value is not None:
        payload = dump(value, objects=objects, where=where)
        base = storage.store_value(payload, call.group, durable=call.node.options.checkpoint)
        if objects:
            base = Referring(base, object_keys(objects))
            travelling = storage.store_objects(objects, call.group)
    return Returned(
        seq=call.seq,
        task=call.task,
        attempt=call.attempt,
        base=base,
        objects=travelling,
        started_unix_s=started_unix_s,
        ended_unix_s=ended_unix_s,
    )


def _continuation(
    call: TaskCall, node: Any, storage: StorageAccess, local_values: list[Any], started: float, ended: float
) -> Continued:
    draft = build(node, allow_local=True, local_values=local_values)
    strangers = draft.workflow_ids - {call.workflow_id}
    if strangers:
        raise ValueError(
            f"task {call.node.task_id!r} of workflow {call.workflow_id!r} returned a task of another workflow, "
            f"{sorted(strangers)[0]!r}: a remaining task can be used in its own workflow only"
        )
    return Continued(
        seq=call.seq,
        task=call.task,
        attempt=call.attempt,
        graph=settle_arguments(draft.graph, lambda payload: storage.store_value(payload, call.group, durable=True)),
        code=draft.code,
        objects=storage.store_objects(draft.objects, call.group),
        started_unix_s=started,
        ended_unix_s=ended,
    )


def settle_arguments(graph: Graph, store: Callable[[Payload], Payload | Blob]) -> Graph:
    """A graph with the arguments of its nodes stored, or in a form that Ray can carry."""
    return replace(
        graph,
        nodes=tuple(
            replace(node, arguments=store(node.arguments)) if isinstance(node.arguments, Payload) else node
            for node in graph.nodes
        ),
    )


def raised(call: TaskCall, error: BaseException, started: float) -> Raised:
    """The reply of an attempt that raised."""
    return Raised(
        seq=call.seq,
        task=call.task,
        attempt=call.attempt,
        error=portable(dump_error(error, traceback_of(error))),
        retryable=is_retryable(call.node.options.exception_filter, error),
        started_unix_s=started,
        ended_unix_s=time.time(),
    )


# -- loading -----------------------------------------------------------------------------------------------------------


@runs_user_code
def load_code(storage: StorageAccess, digest: str) -> Any:
    """A function or class by its hash; kept in this process once loaded."""
    return _load_code(storage.address, digest)


@lru_cache(maxsize=1024)
def _load_code(address: Any, digest: str) -> Any:
    return BOOK.decode(digest, access(address).read_code(digest))


@runs_user_code
def load_arguments(
    storage: StorageAccess, call: TaskCall, local_values: Sequence[Any] = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a task, its inputs put in."""
    arguments = call.node.arguments
    if not arguments:
        return (), {}
    context = LoadContext(
        inputs=[_loader(storage, call, value) for value in call.values],
        fetch_object=lambda key: storage.read_blob(object_blob(call.group, key)),
        local_values=local_values,
    )
    bound: tuple[tuple[Any, ...], dict[str, Any]] = load(storage.load_base(arguments), context)
    return bound


def _loader(storage: StorageAccess, call: TaskCall, value: Value) -> Callable[[], Any]:
    return lambda: load_value(storage, call.workflow_id, call.group, value)


def load_value(storage: StorageAccess, workflow_id: str, group: str, value: Value, *, for_user: bool = False) -> Any:
    """A stored value as its readers see it.

    Args:
        storage: The storage.
        workflow_id, group: The workflow it belongs to.
        value: The value.
        for_user: Loaded outside of tasks, where the user's own classes can be imported.
    """
    base = value.base
    context = LoadContext(fetch_object=lambda key: storage.read_blob(object_blob(group, key)), prefer_import=for_user)
    if isinstance(base, Referring):
        base = base.base
    if base is None:
        loaded: Any = None
    elif isinstance(base, Split):
        ready = [load_value(storage, workflow_id, group, one, for_user=for_user) for _, one in base.ready]
        remaining = [TaskRefNode(workflow_id, at, task_id) for at, task_id in base.remaining]
        loaded = (ready, remaining)
    elif isinstance(base, HoldfastError):
        loaded = base
    elif value.caught:
        loaded = load_error(storage.load_base(base), context)
    else:
        loaded = load(storage.load_base(base), context)
    return render(loaded, caught=value.caught, wraps=value.wraps)


# -- time limits -------------------------------------------------------------------------------------------------------


def _start_watch(call: TaskCall, started: float) -> Callable[[], None]:
    """Stop the attempt when it runs over its time. Returns what ends the watch."""
    timeout_s = call.node.options.timeout_s
    if timeout_s is None:
        return lambda: None
    over = threading.Event()
    place = _place()

    def watch() -> None:
        if over.wait(min(timeout_s, threading.TIMEOUT_MAX)):
            return
        error = TaskTimeoutError(call.node.task_id, timeout_s)
        reply = Raised(
            seq=call.seq,
            task=call.task,
            attempt=call.attempt,
            error=portable(dump_error(error, "")),
            retryable=is_retryable(call.node.options.exception_filter, error),
            started_unix_s=started,
            ended_unix_s=time.time(),
        )
        # First durable, then the end of this process: the loss that follows is of an attempt that is over.
        ray.get(_executor(call.executor).report.remote(place, reply, leaving=True))
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="holdfast-timeout", daemon=True).start()
    return over.set
