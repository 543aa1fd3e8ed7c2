"""The executor actor: drives many workflows.

A thin shell: it gathers what arrives, hands it to the core as one batch, and
carries out the commands that come back. It decides nothing, runs no user code
and never unpickles a user's value. All of it happens on the actor's event
loop; only files are written from a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OwnerDiedError, RayError, RayTaskError, RuntimeEnvSetupError, TaskCancelledError

from holdfast.actors import names
from holdfast.actors.answers import Answers
from holdfast.actors.error_values import dump_error
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operating_system import this_process
from holdfast.actors.operations import (
    Accepted,
    AdmitQueued,
    Batch,
    Cancel,
    Delete,
    Deliver,
    Elsewhere,
    FireTimer,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    Submit,
)
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.ray_untyped import remote
from holdfast.actors.requests import Answer, EventRequest, SubmitRequest
from holdfast.actors.storage_access import INLINE_BYTES, StorageAddress, object_blob
from holdfast.actors.task_call import Acknowledged, Continued, Heard, Raised, Reply, Returned, TaskCall
from holdfast.actors.wire import pack_call, unpack_reply
from holdfast.engine.commands import AcknowledgeEvent, Complete, StartListener, StartTask, StopListener, StopTask
from holdfast.engine.errors import WorkerLostError
from holdfast.engine.graph import Graph
from holdfast.engine.records import TaskContinuing, TaskFailed, TaskFinished
from holdfast.engine.signals import (
    EventAcknowledged,
    EventPolled,
    Signal,
    Subscribed,
    TaskContinued,
    TaskLost,
    TaskRaised,
    TaskReturned,
)
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.platform_lock import PlatformLock
from holdfast.storage.record_codec import Blob, Referring
from holdfast.storage.workflow_row import WorkflowRow

log = logging.getLogger("holdfast")

_TRY_AGAIN_S = 1.0
_ENDING_S = 10.0


@dataclass(slots=True)
class RunningCall:
    """A Ray task or listener call that is out.

    Attributes:
        seq: The workflow.
        assigned: (task, attempt) that it has still to report on.
    """

    seq: int
    ref: Any
    listener: bool
    assigned: list[tuple[int, int]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@remote(num_cpus=0, max_concurrency=1_000_000)
class Executor:
    """Drives the workflows that hash to it.

    Args:
        name: Its name, under which it holds leases.
        address: Where the storage folder is.
        platform_id: The platform it belongs to.
    """

    def __init__(self, name: str, address: StorageAddress, platform_id: str) -> None:
        self._name, self._address = name, address
        self._loop = asyncio.get_running_loop()
        self._folder = StorageFolder.open(address.path, create=False)
        self._lock = PlatformLock(address.path)
        self._lock.join(platform_id)
        self._core = ExecutorCore(self._folder.kv, name)
        self._answers = Answers(self._folder, name)
        self._launcher = Launcher(self._folder, address, name)
        self._arrived: list[tuple[Operation, asyncio.Future[Outcome] | None]] = []
        self._scheduled = self._closed = False
        self._calls: dict[str, RunningCall] = {}
        self._of_task: dict[tuple[int, int], str] = {}
        self._placed: dict[str, list[TaskCall]] = {}
        self._told_unix_s: float | None = None
        self._say: list[str] = []
        self._writing: set[asyncio.Task[None]] = set()
        process = this_process()
        with self._folder.kv.write() as txn:
            store.save_setting(txn, names.process_setting(name), [process.pid, process.started])
        self._recover_all(self._not_in_memory())

    # -- asked by clients ----------------------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        return os.getpid()

    async def close(self) -> None:
        """Write nothing more, end what runs, and let go of the folder: this process is about to be ended."""
        self._closed = True
        running = list(self._calls.values())
        for call in running:
            ray.cancel(call.ref, force=not call.listener)
        ends = [asyncio.ensure_future(call.over.wait()) for call in running if not call.listener]
        if ends:
            await asyncio.wait(ends, timeout=_ENDING_S)
        self._lock.release()

    async def submit(self, request: SubmitRequest) -> Outcome:
        """Make a workflow durable and set it going."""
        return await self._operate(await self._submission(request))

    async def run(self, request: SubmitRequest) -> Answer | Outcome:
        """`submit`, then wait for the value; an outcome that is not Accepted comes back as it is."""
        outcome = await self.submit(request)
        if not isinstance(outcome, Accepted):
            return outcome
        return await self._answers.wait(request.workflow_id)

    async def resume(self, workflow_id: str, nonce: str) -> Outcome:
        """Take a workflow up again. `nonce` marks the request: Ray repeats it when this process dies in it."""
        return await self._operate(Resume(workflow_id=workflow_id, nonce=nonce))

    async def answer(self, workflow_id: str, task_id: str | None = None, run: bool = True) -> Answer | Elsewhere:
        """The value of a workflow, or of one of its tasks, once there is one."""
        return await self._answers.wait(workflow_id, task_id, run=run)

    async def output(self, workflow_id: str, task_id: str | None = None, run: bool = True) -> Any:
        """As `answer`, as the user sees it: what Ray hands to whoever reads the reference."""
        found = await self._answers.wait(workflow_id, task_id, run=run)
        if isinstance(found, Elsewhere):
            # Rare: the executor changed between the submission and now.
            other = ray.get_actor(found.executor, namespace=names.NAMESPACE)
            found = await other.answer.remote(workflow_id, task_id, run)
        if found.error is not None:
            raise found.error
        return found.value

    async def cancel(self, workflow_id: str) -> Outcome:
        """Stop a workflow; returns when what ran for it has ended."""
        outcome = await self._operate(Cancel(workflow_id=workflow_id))
        if isinstance(outcome, Accepted):
            running = [call for call in self._calls.values() if call.seq == outcome.seq and not call.listener]
            for call in running:
                await call.over.wait()
        return outcome

    async def delete(self, workflow_id: str) -> Outcome:
        """Forget a workflow that is not active."""
        return await self._operate(Delete(workflow_id=workflow_id))

    async def post(self, request: EventRequest) -> Outcome:
        """Put an event into a workflow's inbox. Durable when this returns."""
        value: Any = request.payload
        if request.payload.nbytes > INLINE_BYTES:
            with self._folder.kv.read() as txn:
                row = store.find(txn, request.workflow_id)
            if row is not None:
                key = await asyncio.to_thread(self._folder.blobs.write, row.nonce, request.payload)
                value = Blob(key, request.payload.nbytes)
        return await self._operate(
            Post(
                workflow_id=request.workflow_id,
                stream=request.stream,
                value=value,
                dedupe_id=request.dedupe_id,
            )
        )

    async def live_task(self, workflow_id: str, task_id: str) -> tuple[str, float | None] | None:
        """(state, start time) of a task in memory; None when it is not."""
        for held in self._core.held.values():
            if held.row.workflow_id == workflow_id:
                task = held.run.find(task_id)
                return None if task is None else (task.state.name, task.started_unix_s or None)
        return None

    # -- asked by the management actor ---------------------------------------------------------------------------

    async def fire(self, timers: Sequence[tuple[float, int, int]]) -> list[Outcome]:
        """Timers of this executor's workflows have come due: (due time, workflow, task)."""
        operations = [FireTimer(seq=seq, task=task, due_unix_s=due) for due, seq, task in timers]
        return list(await asyncio.gather(*(self._operate(operation) for operation in operations)))

    async def recover(self, seqs: Sequence[int]) -> None:
        """Take workflows up that are this executor's."""
        await asyncio.gather(*(self._operate(Recover(seq=seq)) for seq in seqs))

    async def look_again(self) -> None:
        """Take up what is this executor's and not in memory: whoever was to tell of it may have died."""
        await self.recover(self._not_in_memory())

    async def admit_queued(self) -> None:
        """Start queued workflows while there is room."""
        await self._operate(AdmitQueued())

    # -- asked by workers ----------------------------------------------------------------------------------------

    async def report(self, place: str, reply: Reply, leaving: bool = False) -> list[bytes]:
        """Make durable what a worker says before it leaves. Returns the in-place tasks to run there next.

        Args:
            place: The Ray task that it runs in.
            reply: What it says.
            leaving: It is about to end and takes no other task.
        """
        call = self._calls.get(place)
        if call is None or (reply.task, reply.attempt) not in call.assigned:
            # Nobody waits for this attempt: it was started by an executor that died, or was stopped. Attempts are
            # numbered anew after that, so its number may be one that is in use.
            return []
        call.assigned.remove((reply.task, reply.attempt))
        await self._operate(Deliver(seq=reply.seq, signal=await self._signal_of(reply, None if leaving else place)))
        return [pack_call(following) for following in self._placed.pop(place, [])]

    # -- the batch -----------------------------------------------------------------------------------------------

    def _arrive(self, operation: Operation, waiter: asyncio.Future[Outcome] | None = None) -> None:
        self._arrived.append((operation, waiter))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work)

    def _operate(self, operation: Operation) -> asyncio.Future[Outcome]:
        waiter: asyncio.Future[Outcome] = self._loop.create_future()
        self._arrive(operation, waiter)
        return waiter

    def _work(self) -> None:
        arrived, self._arrived, self._scheduled = self._arrived, [], False
        if self._closed:
            return
        try:
            batch = self._core.perform([operation for operation, _ in arrived], time.time())
        except Exception as error:
            # A full disk; or a defect of ours, which must not leave anybody waiting for ever.
            log.exception("a batch of %d operations was not committed", len(arrived))
            self._not_committed(arrived, error)
            return
        self._carry_out(batch)
        for (_, waiter), outcome in zip(arrived, batch.outcomes, strict=True):
            if waiter is not None and not waiter.done():
                waiter.set_result(outcome)

    def _not_committed(
        self, arrived: Iterable[tuple[Operation, asyncio.Future[Outcome] | None]], error: Exception
    ) -> None:
        """Nothing was written: refuse who waits, and take the workflows up again from the store, a little later."""
        for _, waiter in arrived:
            if waiter is not None and not waiter.done():
                waiter.set_result(error)
        # Whatever kind of operation touched it: it is not in memory any more.
        seqs = self._not_in_memory()
        for seq in seqs:
            self._stop_all(seq)
        if seqs:
            self._loop.call_later(_TRY_AGAIN_S, self._recover_all, seqs)

    def _not_in_memory(self) -> list[int]:
        with self._folder.kv.read() as txn:
            return [seq for seq in store.held_by(txn, self._name) if seq not in self._core.held]

    def _recover_all(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self._arrive(Recover(seq=seq))

    def _carry_out(self, batch: Batch) -> None:
        for seq in batch.lost:
            self._stop_all(seq)
        for row, record in batch.logged:
            if isinstance(record, TaskFinished):
                self._say_task(row, record.task_id, "SUCCESSFUL")
            elif isinstance(record, TaskFailed):
                self._say_task(row, record.task_id, "FAILED")
            elif isinstance(record, TaskContinuing):
                self._say_task(row, record.task_id, "CONTINUED")
                continue
            else:
                continue
            self._answers.task_ended(row)
        for row, command in batch.commands:
            match command:
                case StartTask():
                    self._start_task(row, command)
                case StartListener() | AcknowledgeEvent():
                    self._start_listener(row, command)
                case StopTask() | StopListener():
                    self._stop(row.seq, command.task)
                case Complete():
                    log.debug("workflow ended workflow_id=%s status=%s", row.workflow_id, command.status.value)
        for row in batch.ended:
            self._answers.ended(row)
        for row in batch.deleted:
            self._folder.blobs.delete_group(row.nonce)
        for executor, seq in batch.elsewhere:
            ray.get_actor(executor, namespace=names.NAMESPACE).recover.remote([seq])
        self._tell_alarm(batch.earliest_due_unix_s)
        if self._say:
            sys.stderr.write("\n".join(self._say) + "\n")
            sys.stderr.flush()
            self._say.clear()

    def _say_task(self, row: WorkflowRow, task_id: str, status: str) -> None:
        self._say.append(f"Task status [{status}]\t[{row.workflow_id}@{task_id}]")

    def _tell_alarm(self, due_unix_s: float | None) -> None:
        """Have the management actor wake us in time. It reads the timers itself when it starts."""
        if due_unix_s is None:
            return
        if self._told_unix_s is None or due_unix_s < self._told_unix_s or self._told_unix_s <= time.time():
            self._told_unix_s = due_unix_s
            self._launcher.management().note_deadline.remote(due_unix_s)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _call_of(self, row: WorkflowRow, command: StartTask | StartListener | AcknowledgeEvent) -> TaskCall:
        return TaskCall(
            workflow_id=row.workflow_id,
            seq=row.seq,
            group=row.nonce,
            task=command.task,
            attempt=command.attempt,
            node=command.node,
            values=command.values,
            hold=isinstance(command, StartTask) and command.hold,
            executor=self._name,
            storage=self._address,
            event=command.event if isinstance(command, AcknowledgeEvent) else None,
        )

    def _start_task(self, row: WorkflowRow, command: StartTask) -> None:
        call = self._call_of(row, command)
        self._say_task(row, command.node.task_id, "RUNNING")
        place = self._calls.get(command.place) if command.place is not None else None
        if place is not None:
            place.assigned.append((command.task, command.attempt))
            self._of_task[row.seq, command.task] = command.place
            self._placed.setdefault(command.place, []).append(call)
            return
        try:
            ref = self._launcher.start_task(row, call)
        except Exception as error:  # noqa: BLE001 - options of the user's that Ray refuses: the task failed
            self._refuse(row.seq, command.task, command.attempt, error)
            return
        self._watch(row.seq, ref, (command.task, command.attempt), listener=False)

    def _start_listener(self, row: WorkflowRow, command: StartListener | AcknowledgeEvent) -> None:
        call = self._call_of(row, command)
        try:
            ref = self._launcher.start_listener(row, call)
        except Exception as error:  # noqa: BLE001 - as for tasks
            self._refuse(row.seq, command.task, command.attempt, error)
            return
        self._watch(row.seq, ref, (command.task, command.attempt), listener=True)

    def _refuse(self, seq: int, task: int, attempt: int, error: Exception) -> None:
        payload = dump_error(error, "".join(traceback.format_exception(error)))
        now = time.time()
        self._arrive(
            Deliver(
                seq=seq,
                signal=TaskRaised(
                    task=task,
                    attempt=attempt,
                    error=payload,
                    retryable=False,
                    started_unix_s=now,
                    ended_unix_s=now,
                ),
            )
        )

    def _watch(self, seq: int, ref: Any, assigned: tuple[int, int], *, listener: bool) -> None:
        place = ref.task_id().hex()
        self._calls[place] = RunningCall(seq, ref, listener, [assigned])
        self._of_task[seq, assigned[0]] = place
        ref.future().add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._call_ended, place, done))

    def _call_ended(self, place: str, done: Future[Any]) -> None:
        call = self._calls.pop(place)
        self._placed.pop(place, None)
        for task, _ in call.assigned:
            self._of_task.pop((call.seq, task), None)
        call.over.set()
        error = done.exception()
        if error is not None:
            for task, attempt in call.assigned:
                self._arrive(Deliver(seq=call.seq, signal=_signal_of_loss(task, attempt, error)))
            return
        reply = unpack_reply(done.result())
        if reply is None or (reply.task, reply.attempt) not in call.assigned:
            # All has been reported on the way; or the attempt was stopped, and came to its end before it knew.
            return
        if self._has_files(reply):
            # The event loop keeps only a weak reference to a task.
            later = self._loop.create_task(self._deliver_later(reply, call.listener))
            self._writing.add(later)
            later.add_done_callback(self._writing.discard)
        else:
            self._arrive(Deliver(seq=reply.seq, signal=_signal_of_reply(reply, None, call.listener)))

    async def _deliver_later(self, reply: Reply, listener: bool) -> None:
        self._arrive(Deliver(seq=reply.seq, signal=await self._signal_of(reply, None, listener)))

    def _stop(self, seq: int, task: int) -> None:
        place = self._of_task.pop((seq, task), None)
        call = None if place is None else self._calls.get(place)
        if call is None:
            return
        call.assigned = [entry for entry in call.assigned if entry[0] != task]
        if not call.assigned:
            # An actor's method cannot be cancelled by force: the host's event loop ends the coroutine.
            ray.cancel(call.ref, force=not call.listener)

    def _stop_all(self, seq: int) -> None:
        for call in list(self._calls.values()):
            if call.seq == seq:
                for task, _ in list(call.assigned):
                    self._stop(seq, task)

    # -- files ---------------------------------------------------------------------------------------------------

    def _has_files(self, reply: Reply) -> bool:
        if reply.objects or isinstance(reply, Continued):
            return True
        return isinstance(reply, Returned) and _is_large(reply.base)

    async def _signal_of(self, reply: Reply, place: str | None, listener: bool = False) -> Signal:
        """The signal of a reply, with what it brought along written to files first."""
        if self._has_files(reply):
            with self._folder.kv.read() as txn:
                row = store.get(txn, reply.seq)
            if row is not None:
                reply = await asyncio.to_thread(self._write_files, reply, row.nonce)
        return _signal_of_reply(reply, place, listener)

    def _write_files(self, reply: Reply, group: str) -> Reply:
        self._write_objects(reply.objects, group)
        if isinstance(reply, Continued):
            self._launcher.store_code(reply.code)
            return replace(reply, graph=self._store_arguments(reply.graph, group))
        if isinstance(reply, Returned):
            return replace(reply, base=self._store_base(reply.base, group))
        return reply

    def _write_objects(self, objects: Any, group: str) -> None:
        for key, payload in objects.items():
            self._folder.blobs.write(group, payload, name=object_blob(group, key).partition("/")[2])

    def _store_base(self, base: Any, group: str) -> Any:
        if isinstance(base, Referring):
            return Referring(self._store_base(base.base, group), base.objects)
        if _is_large(base):
            return Blob(self._folder.blobs.write(group, base), base.nbytes)
        return base

    def _store_arguments(self, graph: Graph, group: str) -> Graph:
        if not any(_is_large(node.arguments) for node in graph.nodes):
            return graph
        return replace(
            graph,
            nodes=tuple(replace(node, arguments=self._store_base(node.arguments, group)) for node in graph.nodes),
        )

    async def _submission(self, request: SubmitRequest) -> Submit:
        graph, environment = request.graph, self._launcher.environment_of(request.environment)
        self_stored = not self._launcher.lacks(request.code) and not request.objects
        if environment is None or not self_stored or any(_is_large(node.arguments) for node in graph.nodes):
            graph, environment = await asyncio.to_thread(self._store_submission, request)
        self._say.append(f'Workflow job created. [id="{request.workflow_id}"]')
        return Submit(
            workflow_id=request.workflow_id,
            graph=graph,
            nonce=request.nonce,
            user_metadata=request.user_metadata,
            environment=environment,
        )

    def _store_submission(self, request: SubmitRequest) -> tuple[Graph, str]:
        self._launcher.store_code(request.code)
        self._write_objects(request.objects, request.nonce)
        environment = self._launcher.store_environment(request.environment)
        return self._store_arguments(request.graph, request.nonce), environment


def _is_large(base: Any) -> bool:
    return isinstance(base, Payload) and base.nbytes > INLINE_BYTES


def _signal_of_reply(reply: Reply, place: str | None, listener: bool) -> Signal:
    about = {
        "task": reply.task,
        "attempt": reply.attempt,
        "started_unix_s": reply.started_unix_s,
        "ended_unix_s": reply.ended_unix_s,
        "place": place,
    }
    match reply:
        case Returned() if listener:
            return EventPolled(task=reply.task, attempt=reply.attempt, value=reply.base)
        case Returned():
            return TaskReturned(value=reply.base, **about)  # type: ignore[arg-type]
        case Continued():
            return TaskContinued(graph=reply.graph, **about)  # type: ignore[arg-type]
        case Raised():
            return TaskRaised(error=reply.error, retryable=reply.retryable, **about)  # type: ignore[arg-type]
        case Heard():
            return Subscribed(task=reply.task, attempt=reply.attempt, stream=reply.stream, due_unix_s=reply.due_unix_s)
        case Acknowledged():
            return EventAcknowledged(task=reply.task, attempt=reply.attempt)


def _signal_of_loss(task: int, attempt: int, error: BaseException) -> Signal:
    now = time.time()
    if isinstance(error, RayTaskError | RuntimeEnvSetupError):
        # The task never came to the user's code: its environment could not be made, or lacks Holdfast.
        payload = dump_error(error, str(error))
        return TaskRaised(
            task=task, attempt=attempt, error=payload, started_unix_s=now, ended_unix_s=now, retryable=True
        )
    if not isinstance(error, RayError):
        raise error
    reason = "it was stopped" if isinstance(error, TaskCancelledError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OwnerDiedError):
        reason = "the executor that owned its inputs died"
    lost = WorkerLostError(str(task), reason)
    return TaskLost(task=task, attempt=attempt, error=lost, started_unix_s=now, ended_unix_s=now)
