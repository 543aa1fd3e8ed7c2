"""The host of virtual actors: activates them when they are called, and runs their methods.

A thin shell, as the executor is: it gathers what arrives, hands it to the core
as one batch, and carries out the commands that come back. It decides nothing.
User code runs in threads of its class, never on this event loop.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.acknowledgements import Acknowledger
from holdfast.actors.black_box import BlackBox
from holdfast.actors.environment import capture_environment
from holdfast.actors.operating_system import this_process
from holdfast.actors.operations import Elsewhere
from holdfast.actors.ray_untyped import remote
from holdfast.actors.requests import Answer
from holdfast.actors.storage_access import INLINE_BYTES, StorageAddress, access, object_blob
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.virtual.answers import CallAnswers, sealed_error
from holdfast.actors.virtual.context import CallContext
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.one_by_one import OneByOne
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorBatch,
    ActorDone,
    ActorOperation,
    ActorOutcome,
    CallAccepted,
    CallFrom,
    ChangeReminder,
    CreateActor,
    DeleteActor,
    EndAttempt,
    EndSubWorkflow,
    FireDue,
    KeepCall,
    OtherHost,
    RecoverActor,
    ReminderChange,
    ResumeActor,
    SetReminder,
    SweepDeleted,
)
from holdfast.actors.virtual.requests import CONSTRUCTOR, CallRequest
from holdfast.actors.virtual.runner import Attempt, Continued, Ended, Raised, Returned, Runner, Work
from holdfast.actors.virtual.sub_workflows import SubWorkflows
from holdfast.engine.errors import HoldfastError, StorageError, StorageFullError, StorageMissingError, TaskTimeoutError
from holdfast.engine.virtual_actor import sub_workflow_nonce
from holdfast.engine.virtual_actor_errors import (
    HostReplacedError,
    VirtualActorNotFoundError,
    VirtualActorNotInitializedError,
)
from holdfast.engine.virtual_actor_records import CallSpec, Condition, QueuedCall
from holdfast.engine.virtual_actor_signals import (
    AnswerCall,
    MethodContinued,
    MethodRaised,
    MethodReturned,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
    SubWorkflowEnded,
    TimeoutReached,
)
from holdfast.storage import actor_store, leases
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorRow, ActorSpec, ActorState, SubRequest
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.platform_lock import PlatformLock
from holdfast.storage.record_codec import Blob

log = logging.getLogger("holdfast")

FROZEN_S = 20.0
"""A host in which nothing has run for so long is ended: some method holds the interpreter's lock."""

_LOOK_EVERY_S = 1.0
_KEEP_AFTER_S = 0.2
_NO_TIME_S = 0.003
_IDLE_S = 30.0
_MOST_HELD = 10_000
_TRY_AGAIN_S = 1.0
_STANDARD_ERROR = 2


@remote(num_cpus=0, max_concurrency=1_000_000)
class VirtualActorHost:
    """Runs the virtual actors that hash to it.

    Args:
        name: Its name, under which it holds leases.
        kind: What its actors' classes need, by name; empty for nothing special.
        count: How many hosts of that kind there are.
        address: Where the storage folder is.
        platform_id: The platform it belongs to.
    """

    def __init__(self, name: str, kind: str, count: int, address: StorageAddress, platform_id: str) -> None:
        self._name, self._kind, self._count = name, kind, count
        self._loop = asyncio.get_running_loop()
        set_cluster_nonce(address.cluster)
        self._folder = StorageFolder.open(address.path, create=False)
        self._kv = self._folder.kv
        self._lock = PlatformLock(address.path)
        self._lock.join(platform_id)
        self._core = ActorCore(self._kv, name, self._host_of, self._say_who_i_am())
        self._black_box = BlackBox(f"{name}-{platform_id[-16:]}")
        self._stored_code: set[str] = set()
        self._runner = Runner(access(address), self._store_code, self._black_box.note)
        self._answers = CallAnswers(self._folder.blobs)
        self._acknowledger = Acknowledger()
        executors = tuple(names.executor_name(number) for number in range(count))
        self._sub_workflows = SubWorkflows(self._folder, access(address), capture_environment(), executors)
        self._arrived: list[tuple[ActorOperation, asyncio.Future[ActorOutcome] | None]] = []
        self._scheduled = self._closed = False
        self._alone = OneByOne(self._loop, at_once=1 if name == names.suspects_host_name(kind) else None)
        self._attempts: dict[tuple[int, int, int], tuple[Attempt, list[asyncio.TimerHandle]]] = {}
        self._told_unix_s: float | None = None
        self._wanted: set[str] = set()
        self._early: dict[tuple[int, int], Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recover_all()
        self._look()

    def _host_of(self, row: ActorRow) -> str:
        """The host that is to have an actor."""
        if row.suspected:
            return names.suspects_host_name(row.spec.host)
        return names.virtual_host_for(row.actor_id, row.spec.host, self._count)

    def _say_who_i_am(self) -> tuple[int, int] | None:
        process = this_process()
        try:
            with self._kv.write() as txn:
                store.save_setting(txn, names.process_setting(self._name), [process.pid, process.started])
        except StorageFullError:
            log.warning("host %s has no room to write down its process", self._name)
            return None
        return process.pid, process.started

    def _look(self) -> None:
        """Say that the interpreter's lock is to be had, and put away what has not been used."""
        if self._closed:
            faulthandler.cancel_dump_traceback_later()
            return
        # A timer that needs no lock: it writes down where every thread is, and ends the process.
        faulthandler.dump_traceback_later(FROZEN_S, exit=True, file=_STANDARD_ERROR)
        self._runner.put_away(_IDLE_S)
        self._core.put_away(time.time() - _IDLE_S, _MOST_HELD)
        self._loop.call_later(_LOOK_EVERY_S, self._look)

    # -- asked by callers ----------------------------------------------------------------------------------------

    async def call(self, request: CallRequest) -> Answer | Elsewhere | Exception:
        """Run a method that may write, and wait for what comes of it."""
        return await self._call(request, logged=False)

    async def submit(self, request: CallRequest) -> ActorDone | Elsewhere | Exception:
        """Accept a call, or make an actor: durable when this returns."""
        outcome = await self._accept(request, logged=True)
        if isinstance(outcome, CallAccepted):
            return ActorDone(seq=outcome.seq, fresh=outcome.fresh)
        return outcome

    async def start(self, request: CallRequest, acknowledge_to: str) -> Any:
        """`submit`, acknowledged over a local socket, then the value.

        Args:
            request: The call.
            acknowledge_to: Address of an `AcknowledgementSocket` on this machine.
        """
        outcome = await self._accept(request, logged=False)
        durable = isinstance(outcome, CallAccepted) and await self._make_durable(outcome, request.nonce)
        self._acknowledger.say(acknowledge_to, request.nonce, durable)
        if not isinstance(outcome, CallAccepted) or not durable:
            # Whoever hears that it is refused asks in the ordinary way. Repeated by Ray, it was accepted long ago.
            return await self.result(request)
        found = await self._answer_of(outcome, request)
        return await self.result(request) if found is None else _delivered(found)

    async def _make_durable(self, accepted: CallAccepted, nonce: str) -> bool:
        """Have a call that was accepted written, or done: what is over in no time is one transaction in all."""
        if accepted.outcome is not None or accepted.number < 0:
            return True
        held = self._core.held.get(accepted.seq)
        if held is not None and held.machine.length == 1:
            answer = await self._answers.wait_a_while(accepted.seq, accepted.number, _NO_TIME_S)
            if answer is not None:
                self._early[accepted.seq, accepted.number] = answer
                return True
        return await self._keep_call(accepted.seq, accepted.number, nonce)

    async def _keep_call(self, seq: int, number: int, nonce: str) -> bool:
        """Give a call a row. Returns whether it has one, or is over."""
        kept = await self._operate(KeepCall(seq=seq, number=number))
        if not isinstance(kept, ActorDone):
            return False
        with self._kv.read() as txn:
            # One that was forgotten meanwhile, with its host's lease, is not there to be kept.
            return actor_store.call_of_mark(txn, seq, nonce) is not None

    async def result(self, request: CallRequest) -> Any:
        """The value of a call that was accepted: what Ray hands to whoever reads the reference."""
        found = await self._call(request, logged=True)
        while isinstance(found, Elsewhere):
            try:
                host = ray.get_actor(found.executor, namespace=names.NAMESPACE)
            except ValueError:
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            # What it says is unsealed where it is read, and not on the way: the value is read from the store.
            refusal = await host.wait_for_call.remote(request)
            if isinstance(refusal, Exception):
                raise refusal
            stored = self._stored(request)
            found = await self._call(request, logged=True) if stored is None else stored
        return _delivered(found)

    async def wait_for_call(self, request: CallRequest) -> Exception | None:
        """Return when a call has ended, or another host is to be asked; what it is refused with, if it is."""
        outcome = await self._accept(request, logged=True)
        if isinstance(outcome, CallAccepted):
            answer = await self._answer_of(outcome, request)
            return answer.error if answer is not None and isinstance(answer.error, HoldfastError) else None
        return outcome if isinstance(outcome, Exception) else None

    def _stored(self, request: CallRequest) -> Answer | None:
        """What a call came to, if it has ended; whichever host has the actor."""
        with self._kv.read() as txn:
            row = actor_store.find(txn, request.actor_id)
            number = None if row is None else actor_store.call_of_mark(txn, row.seq, request.nonce)
            call = None if row is None or number is None else actor_store.get_call(txn, row.seq, number)
        if row is None or call is None or isinstance(call, QueuedCall):
            return None
        return self._answers.answer(call.outcome, row.nonce, _called(request))

    async def read(self, request: CallRequest) -> Answer | Elsewhere | Exception:
        """Run a method that only reads, on a copy of the last committed state."""
        return await self._read_here(request, anywhere=False)

    async def _read_here(self, request: CallRequest, *, anywhere: bool) -> Answer | Elsewhere | Exception:
        while True:
            try:
                found = self._core.read(request.actor_id)
            except HoldfastError as error:
                return error
            row, state = found.row, found.standing.state
            if row.suspected and self._host_of(row) != self._name and not anywhere:
                return self._sent_on(OtherHost(host=self._host_of(row)))
            if not isinstance(state.base, Blob):
                break
            try:
                # Mapped, it stays as it is when a writer takes its place.
                state = ActorState(self._folder.blobs.read(state.base.key), state.json, state.class_version)
                break
            except StorageMissingError:
                continue
        ended = await self._read(row, state, request)
        if isinstance(ended, Raised):
            return Answer(error=sealed_error(ended.error))
        assert isinstance(ended, Returned)
        return self._answers.plain(ended.value, f"the result of {request.method!r}")

    async def start_reading(self, request: CallRequest) -> Any:
        """`read`: what Ray hands to whoever reads the reference."""
        found = await self._read_here(request, anywhere=True)
        assert not isinstance(found, Elsewhere)
        return _delivered(found)

    async def ready(self, actor_id: str) -> None:
        """Return when an actor's constructor is done; raise what it raised."""
        while True:
            with self._kv.read() as txn:
                row = actor_store.find(txn, actor_id)
                if row is None:
                    raise VirtualActorNotFoundError(actor_id, self._kv.url)
                making = next((one for one in actor_store.load_calls(txn, row.seq) if one.spec.creates), None)
                made = actor_store.call_of_mark(txn, row.seq, row.nonce)
                ended = None if made is None else actor_store.get_call(txn, row.seq, made)
            if row.standing.initialized:
                return
            if making is None:
                if ended is not None and not isinstance(ended, QueuedCall) and ended.outcome.error is not None:
                    raise sealed_error(ended.outcome.error)
                raise VirtualActorNotInitializedError(actor_id, f"its constructor failed: {row.standing.said}")
            # Another host may have it: then the store says when.
            answer = await self._answers.wait_a_while(row.seq, making.number, _TRY_AGAIN_S)
            if answer is not None and answer.error is not None:
                raise answer.error

    async def resume(self, actor_id: str, nonce: str) -> ActorDone | Elsewhere | Exception:
        """Go on with an actor that is suspended or quarantined."""
        return self._for_client(await self._operate(ResumeActor(actor_id=actor_id, nonce=nonce)))

    async def delete(self, actor_id: str, nonce: str) -> ActorDone | Elsewhere | Exception:
        """Forget an actor that does not work."""
        return self._for_client(await self._operate(DeleteActor(actor_id=actor_id, nonce=nonce)))

    async def change_reminder(self, actor_id: str, change: ReminderChange) -> ActorDone | Elsewhere | Exception:
        """Set or cancel a reminder."""
        if isinstance(change, SetReminder) and isinstance(change.arguments, Payload):
            with self._kv.read() as txn:
                row = actor_store.find(txn, actor_id)
            if row is not None and change.arguments.nbytes > INLINE_BYTES:
                key = await asyncio.to_thread(self._folder.blobs.write, row.nonce, change.arguments)
                change = replace(change, arguments=Blob(key, change.arguments.nbytes))
        return self._for_client(await self._operate(ChangeReminder(actor_id=actor_id, change=change)))

    # -- asked by the management actor ---------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        return os.getpid()

    async def close(self) -> None:
        """Write nothing more, and let go of the folder: this process is about to be ended."""
        self._closed = True
        self._lock.release()

    async def fire(self, seqs: Sequence[int]) -> None:
        """Times of these actors may have come."""
        await asyncio.gather(*(self._operate(FireDue(seq=seq)) for seq in seqs))

    async def recover(self, seqs: Sequence[int]) -> None:
        """Take actors up that are this host's."""
        await asyncio.gather(*(self._operate(RecoverActor(seq=seq)) for seq in seqs))

    # -- asked by those who read sources of events ---------------------------------------------------------------

    async def call_from(self, calls: Sequence[CallFrom]) -> list[ActorOutcome]:
        """Make the calls of events, in this order. Those that are made are durable when this returns."""
        return await asyncio.gather(*(self._operate(call) for call in calls))

    # -- calls ---------------------------------------------------------------------------------------------------

    async def _call(self, request: CallRequest, *, logged: bool) -> Answer | Elsewhere | Exception:
        while True:
            outcome = await self._accept(request, logged=logged)
            if not isinstance(outcome, CallAccepted):
                return outcome
            answer = await self._answer_of(outcome, request)
            if answer is not None:
                return answer

    async def _answer_of(self, accepted: CallAccepted, request: CallRequest) -> Answer | None:
        """What came of a call; None when somebody else has the actor, or it has to be begun again."""
        if accepted.outcome is not None:
            with self._kv.read() as txn:
                row = actor_store.get(txn, accepted.seq)
            group = "" if row is None else row.nonce
            return self._answers.answer(accepted.outcome, group, _called(request))
        if accepted.number < 0:
            return self._answers.plain(None, "")
        early = self._early.pop((accepted.seq, accepted.number), None)
        if early is not None:
            return early
        held = self._core.held.get(accepted.seq)
        if held is not None and held.committed.condition is Condition.QUARANTINED:
            # It is in the mailbox, and would be waited for until somebody resumes the actor.
            return Answer(error=sealed_error(held.committed.error))
        return await self._answers.wait(accepted.seq, accepted.number)

    async def _accept(self, request: CallRequest, *, logged: bool) -> CallAccepted | Elsewhere | Exception:
        try:
            operation = await self._operation(request, logged)
        except StorageError as error:
            return error
        outcome = await self._operate(operation)
        assert not isinstance(outcome, ActorDone), f"a call was answered by {outcome!r}"
        if isinstance(outcome, OtherHost):
            return self._sent_on(outcome)
        return outcome

    def _for_client(self, outcome: ActorOutcome) -> ActorDone | Elsewhere | Exception:
        assert not isinstance(outcome, CallAccepted), f"a question was answered by {outcome!r}"
        return self._sent_on(outcome) if isinstance(outcome, OtherHost) else outcome

    def _sent_on(self, other: OtherHost) -> Elsewhere:
        if other.host not in self._wanted:
            # It may not be there yet: whoever is sent on goes on asking.
            self._wanted.add(other.host)
            ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE).keep_virtual_host.remote(other.host)
        return Elsewhere(executor=other.host)

    async def _operation(self, request: CallRequest, logged: bool) -> CreateActor | AcceptCall:
        made_of = request.made_of
        large = request.objects or request.arguments.nbytes > INLINE_BYTES
        lacks_code = made_of is not None and any(digest not in self._stored_code for digest in made_of.code)
        arguments: Payload | Blob = request.arguments
        if large or lacks_code:
            arguments = await asyncio.to_thread(self._store_request, request)
        spec = CallSpec(
            method=request.method,
            nonce=request.nonce,
            arguments=arguments,
            key=request.idempotency_key or "",
            name=request.name,
            options=request.options,
            creates=made_of is not None,
            chain=request.chain,
            inside=request.inside,
        )
        if made_of is None:
            return AcceptCall(actor_id=request.actor_id, call=spec, logged=logged)
        return CreateActor(
            actor_id=request.actor_id,
            call=spec,
            spec=ActorSpec(
                class_name=made_of.name,
                code=made_of.digest,
                class_version=made_of.version,
                host=self._kind,
                mailbox_limit=made_of.mailbox_limit,
                suspends=made_of.on_error == "suspend",
            ),
        )

    def _store_request(self, request: CallRequest) -> Payload | Blob:
        made_of = request.made_of
        if made_of is not None:
            self._store_code(made_of.code)
        group = self._group_of(request)
        if group is None:
            # Whoever is asked says that there is no such actor.
            return request.arguments
        for key, payload in request.objects.items():
            self._folder.blobs.write(group, payload, name=object_blob(group, key).partition("/")[2])
        if request.arguments.nbytes <= INLINE_BYTES:
            return request.arguments
        return Blob(self._folder.blobs.write(group, request.arguments), request.arguments.nbytes)

    def _group_of(self, request: CallRequest) -> str | None:
        with self._kv.read() as txn:
            row = actor_store.find(txn, request.actor_id)
        if row is not None:
            return row.nonce
        return request.nonce if request.made_of is not None else None

    def _store_code(self, code: Any) -> None:
        for digest, content in code.items():
            if digest not in self._stored_code:
                self._folder.code.put(content)
                self._stored_code.add(digest)

    async def _read(self, row: ActorRow, state: ActorState, request: CallRequest) -> Ended:
        context = CallContext(
            actor_id=row.actor_id,
            number=-1,
            name=request.method,
            host=self._name,
            chain=request.chain,
        )
        work = Work(
            seq=row.seq,
            group=row.nonce,
            code=row.spec.code,
            method=request.method,
            arguments=request.arguments,
            state=state,
            state_version=-1,
            context=context,
            objects=request.objects,
        )
        attempt = self._runner.read(work)
        future = asyncio.wrap_future(attempt.ended)
        timeout_s = request.options.timeout_s
        if timeout_s is None:
            return await future
        done, _ = await asyncio.wait([future], timeout=timeout_s)
        if done:
            return future.result()
        attempt.leave()
        future.cancel()
        raise TaskTimeoutError(request.method, timeout_s)

    # -- the batch -----------------------------------------------------------------------------------------------

    def _arrive(self, operation: ActorOperation, waiter: asyncio.Future[ActorOutcome] | None = None) -> None:
        self._arrived.append((operation, waiter))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work)

    def _operate(self, operation: ActorOperation) -> asyncio.Future[ActorOutcome]:
        waiter: asyncio.Future[ActorOutcome] = self._loop.create_future()
        self._arrive(operation, waiter)
        return waiter

    def _work(self) -> None:
        arrived, self._arrived, self._scheduled = self._arrived, [], False
        self._work_on(arrived)

    def _work_on(self, arrived: Sequence[tuple[ActorOperation, asyncio.Future[ActorOutcome] | None]]) -> None:
        if self._closed:
            return
        try:
            batch = self._core.perform([operation for operation, _ in arrived], time.time())
        except HostReplacedError:
            # Ray has started another process under this name, and nobody reads what this one says.
            log.exception("ending process %d", os.getpid())
            os._exit(1)
        except Exception as error:
            # A full disk; or a defect of ours, which must not leave anybody waiting for ever.
            stack = None if isinstance(error, StorageError) else error
            log.error("a batch of %d operations was not committed: %s", len(arrived), error, exc_info=stack)
            self._not_committed(arrived, error)
            return
        for (_, waiter), outcome in zip(arrived, batch.outcomes, strict=True):
            if waiter is not None and not waiter.done():
                waiter.set_result(outcome)
        # Whoever has been told that a call goes on begins to wait for it first: it may have ended in this batch.
        self._loop.call_soon(self._carry_out, batch)

    def _not_committed(
        self, arrived: Sequence[tuple[ActorOperation, asyncio.Future[ActorOutcome] | None]], error: Exception
    ) -> None:
        """Nothing was written. Of several requests each is tried by itself; what is told once is told again."""
        for seq in self._core.dropped:
            self._stop_all(seq)
            self._runner.forget(seq)
            # Whoever waits for a call asks again, and has it begun anew from what is stored.
            self._loop.call_later(_TRY_AGAIN_S, self._answers.lost, seq)
        for operation, waiter in arrived:
            if isinstance(operation, EndSubWorkflow):
                self._loop.call_later(_TRY_AGAIN_S, self._arrive, operation, waiter)
            elif len(arrived) > 1 and not isinstance(operation, EndAttempt):
                self._loop.call_soon(self._work_on, [(operation, waiter)])
            elif waiter is not None and not waiter.done():
                waiter.set_result(error)
        self._loop.call_later(_TRY_AGAIN_S, self._take_up)

    def _take_up(self) -> None:
        """Take up what is this host's and not driven here."""
        for seq in self._core.not_taken_up():
            self._arrive(RecoverActor(seq=seq))

    def _carry_out(self, batch: ActorBatch) -> None:
        for seq in (*batch.lost, *batch.deleted):
            self._stop_all(seq)
            self._runner.forget(seq)
            self._answers.lost(seq)
        for row, epoch, command in batch.commands:
            match command:
                case AnswerCall():
                    outcome, group = command.outcome, row.nonce
                    self._answers.ended(
                        row.seq,
                        command.number,
                        lambda outcome=outcome, group=group: self._answers.answer(  # type: ignore[misc]
                            outcome, group, "the result of a call"
                        ),
                    )
                case RunMethod():
                    self._run(row, epoch, command)
                case StopMethod():
                    self._stop(row.seq, command.number, command.attempt)
                case StartSubWorkflow():
                    self._keep(self._follow(row, command))
        for host, seq in batch.elsewhere:
            self._keep(self._hand_over(host, seq))
        for key in batch.freed:
            self._folder.blobs.delete(key)
        for group in batch.blob_groups:
            self._folder.blobs.delete_group(group)
        if batch.sweep:
            self._loop.call_later(_LOOK_EVERY_S, self._arrive, SweepDeleted(), None)
        self._tell_alarm(batch.earliest_due_unix_s)

    def _keep(self, work: Any) -> None:
        # The event loop keeps only a weak reference to a task.
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, host: str, seq: int) -> None:
        try:
            await ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE).keep_virtual_host.remote(host)
            await ray.get_actor(host, namespace=names.NAMESPACE).recover.remote([seq])
        except (RayError, ValueError) as error:
            # It finds what is its own when it starts, and the management actor starts it.
            log.info("host %s could not be told of actor number %d: %s", host, seq, error)

    def _recover_all(self) -> None:
        with self._kv.read() as txn:
            died_in = {}
            for seq, number, _ in self._black_box.take_all_blame():
                call = actor_store.get_call(txn, seq, number) if number >= 0 else None
                died_in[seq] = call.spec.method if isinstance(call, QueuedCall) else "a method that was not logged"
            mine = leases.held_by(txn, self._name)
        for seq in dict.fromkeys([*died_in, *mine]):
            self._arrive(RecoverActor(seq=seq, died_in=died_in.get(seq, "")))

    def _tell_alarm(self, due_unix_s: float | None) -> None:
        """Have the management actor wake us in time. It reads the times itself when it starts."""
        if due_unix_s is None:
            return
        if self._told_unix_s is None or due_unix_s < self._told_unix_s or self._told_unix_s <= time.time():
            self._told_unix_s = due_unix_s
            ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE).note_virtual_deadline.remote(due_unix_s)

    # -- running -------------------------------------------------------------------------------------------------

    def _run(self, row: ActorRow, epoch: int, command: RunMethod) -> None:
        call, seq = command.call, row.seq
        spec = call.spec
        context = CallContext(
            actor_id=row.actor_id,
            number=call.number if spec.inside is None else spec.inside,
            name=call.name,
            host=self._name,
            chain=(*spec.chain, row.actor_id),
            mark=f"{spec.nonce}-{call.errors}",
            keep=None
            if call.logged or spec.inside is not None
            else partial(self._keep_before_asking, seq, call.number, spec.nonce),
        )
        work = Work(
            seq=seq,
            group=row.nonce,
            code=row.spec.code,
            method=CONSTRUCTOR if spec.creates else spec.method,
            arguments=spec.arguments,
            state=command.state,
            state_version=command.version,
            exception_filter=spec.options.exception_filter,
            sub_group=sub_workflow_nonce(row.actor_id, spec.nonce),
            inside=spec.inside is not None,
            context=context,
        )
        self._alone.add(lambda: self._begin(work, epoch, command))

    def _begin(self, work: Work, epoch: int, command: RunMethod) -> Future[Ended] | None:
        """Begin an attempt; None when nobody wants it any more."""
        call, seq, spec = command.call, work.seq, command.call.spec
        if not self._core.is_current(seq, epoch):
            return None
        attempt = self._runner.run(work)
        key = (seq, call.number, command.attempt)
        timers: list[asyncio.TimerHandle] = []
        if not call.logged:
            timers.append(self._loop.call_later(_KEEP_AFTER_S, self._arrive, KeepCall(seq=seq, number=call.number)))
        if spec.options.timeout_s is not None:
            timers.append(self._loop.call_later(spec.options.timeout_s, self._time_out, key, epoch, time.time()))
        self._attempts[key] = (attempt, timers)
        attempt.ended.add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(self._ended, key, epoch, future.result())
        )
        return attempt.ended

    def _keep_before_asking(self, seq: int, number: int, nonce: str) -> None:
        """Make a call durable, in the thread of its method, before that asks others for something."""
        kept = asyncio.run_coroutine_threadsafe(self._keep_call(seq, number, nonce), self._loop).result()
        if not kept:
            raise RuntimeError("this attempt of the call is over: it has been begun again elsewhere")

    def _take(self, key: tuple[int, int, int]) -> Attempt | None:
        found = self._attempts.pop(key, None)
        if found is None:
            return None
        for timer in found[1]:
            timer.cancel()
        return found[0]

    def _ended(self, key: tuple[int, int, int], epoch: int, ended: Ended) -> None:
        if self._take(key) is None:
            return
        seq, number, attempt = key
        about: dict[str, Any] = {
            "number": number,
            "attempt": attempt,
            "started_unix_s": ended.started_unix_s,
            "ended_unix_s": ended.ended_unix_s,
        }
        signal: MethodReturned | MethodContinued | MethodRaised
        match ended:
            case Returned():
                signal = MethodReturned(value=ended.value, state=ended.state, **about)
            case Continued():
                signal = MethodContinued(request=SubRequest(graph=ended.graph), state=ended.state, **about)
            case Raised():
                signal = MethodRaised(error=ended.error, said=ended.said, retryable=ended.retryable, **about)
        reminders = () if isinstance(ended, Raised) else ended.reminders
        self._arrive(EndAttempt(seq=seq, epoch=epoch, signal=signal, reminders=reminders))

    def _time_out(self, key: tuple[int, int, int], epoch: int, started_unix_s: float) -> None:
        attempt = self._take(key)
        if attempt is None:
            return
        attempt.leave()
        seq, number, count = key
        self._runner.forget(seq)
        signal = TimeoutReached(number=number, attempt=count, started_unix_s=started_unix_s, ended_unix_s=time.time())
        self._arrive(EndAttempt(seq=seq, epoch=epoch, signal=signal))

    def _stop(self, seq: int, number: int, attempt: int) -> None:
        running = self._take((seq, number, attempt))
        if running is not None:
            running.leave()
        self._runner.forget(seq)

    def _stop_all(self, seq: int) -> None:
        for key in [key for key in self._attempts if key[0] == seq]:
            self._stop(*key)

    async def _follow(self, row: ActorRow, command: StartSubWorkflow) -> None:
        signal: SubWorkflowEnded = await self._sub_workflows.follow(row, command)
        self._arrive(EndSubWorkflow(seq=row.seq, signal=signal))


def _called(request: CallRequest) -> str:
    return f"the result of {request.method!r} of virtual actor {request.actor_id!r}"


def _delivered(found: Answer | Exception) -> Any:
    """What Ray hands to whoever reads the reference."""
    if isinstance(found, Exception):
        raise found
    if found.error is not None:
        raise found.error
    return found.value
