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
from dataclasses import replace
from typing import Any

import ray

from holdfast.actors import names
from holdfast.actors.acknowledgements import Acknowledger
from holdfast.actors.black_box import BlackBox
from holdfast.actors.environment import capture_environment
from holdfast.actors.local_service import LocalService
from holdfast.actors.memory_limit import default_limit_bytes, memory_limit_bytes
from holdfast.actors.operating_system import private_bytes, this_process
from holdfast.actors.operations import Elsewhere
from holdfast.actors.ray_untyped import remote
from holdfast.actors.sealed import Answer
from holdfast.actors.storage_access import INLINE_BYTES, StorageAddress, access
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.virtual.answers import CallAnswers, sealed_error
from holdfast.actors.virtual.blob_collector import IDLE_S, BlobCollector
from holdfast.actors.virtual.consequences import Consequences
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.intake import check_called
from holdfast.actors.virtual.one_by_one import OneByOne
from holdfast.actors.virtual.operations import (
    ActorDone,
    ActorOperation,
    ActorOutcome,
    CallAccepted,
    CallFrom,
    CancelCall,
    ChangeReminder,
    DeleteActor,
    FireDue,
    OtherHost,
    RecoverActor,
    ReminderChange,
    ResetActor,
    ResumeActor,
)
from holdfast.actors.virtual.readers import Readers
from holdfast.actors.virtual.request_storage import RequestStorage
from holdfast.actors.virtual.requests import CallRequest, Taken
from holdfast.actors.virtual.runner import Runner
from holdfast.actors.virtual.sub_workflows import SubWorkflows
from holdfast.engine.errors import HoldfastError, StorageError, StorageFullError
from holdfast.engine.virtual_actor_errors import VirtualActorNotFoundError, VirtualActorNotInitializedError
from holdfast.engine.virtual_actor_records import Condition, QueuedCall
from holdfast.storage import actor_store, leases
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_row import ActorRow, ActorState
from holdfast.storage.folder import StorageFolder
from holdfast.storage.platform_lock import PlatformLock

log = logging.getLogger("holdfast")

FROZEN_S = 20.0
"""A host in which nothing has run for so long is ended: some method holds the interpreter's lock."""

MEMORY_VARIABLE = "HOLDFAST_ACTOR_HOST_MB"
"""The environment variable that says from which memory on a host puts away what rests, however short its rest, in MiB.
Default: a quarter of the machine."""

MOST_LEFT_BEHIND = 16
"""Methods that were cancelled, or ran over their time, and still run: a host with so many is ended and made anew."""

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 5.0
_TAKE_UP_EVERY_S = 5.0
_NO_TIME_S = 0.003
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
        self._name, self._count = name, count
        self._loop = asyncio.get_running_loop()
        set_cluster_nonce(address.cluster)
        self._folder = StorageFolder.open(address.path, create=False)
        self._kv = self._folder.kv
        self._lock = PlatformLock(address.path)
        self._lock.join(platform_id)
        self._core = ActorCore(self._kv, name, self._host_of, self._say_who_i_am())
        self._black_box = BlackBox(f"{name}-{platform_id[-16:]}")
        self._requests = RequestStorage(self._folder, kind)
        self._runner = Runner(access(address), self._requests.store_code, self._black_box.note)
        self._answers = CallAnswers(self._folder.blobs)
        self._acknowledger = Acknowledger()
        self._readers = Readers(name, self._core, self._host_of, self._folder.blobs, self._runner, self._answers)
        executors = tuple(names.executor_name(number) for number in range(count))
        sub_workflows = self._sub_workflows = SubWorkflows(
            self._folder, access(address), capture_environment(), executors
        )
        alone = OneByOne(self._loop, at_once=1 if name == names.suspects_host_name(kind) else None)
        consequences = Consequences(
            self._loop, name, self._folder, self._core, self._runner, alone, self._answers, sub_workflows
        )
        self._inbox, self._attempts = consequences.inbox, consequences.attempts
        self._collector = BlobCollector(self._loop, self._folder)
        self._local = LocalService({"call": self.call, "submit": self.submit, "take": self.take, "read": self.read})
        self._closed, self._took_up_s = False, time.monotonic()
        self._most_bytes = _most_bytes()
        self._wanted: set[str] = set()
        self._end_by_s: float | None = None
        self._early: dict[tuple[int, int], Answer] = {}
        self._recover_all()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._collector.after_death(lambda row: consequences.hand_over(self._host_of(row), row.seq))
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
        """Say that the interpreter's lock is to be had, put away what rests, take up what nobody told of."""
        if self._closed:
            faulthandler.cancel_dump_traceback_later()
            return
        # A timer that needs no lock: it writes down where every thread is, and ends the process.
        faulthandler.dump_traceback_later(FROZEN_S, exit=True, file=_STANDARD_ERROR)
        self._end_if_full()
        # What rests costs no more than a reading of its row, when it is wanted again.
        idle_s = IDLE_S if private_bytes() <= self._most_bytes else 0.0
        self._runner.put_away(idle_s)
        rested = self._core.put_away(time.time() - idle_s, _MOST_HELD)
        if rested:
            self._collector.rested(rested)
        if time.monotonic() - self._took_up_s > _TAKE_UP_EVERY_S:
            self._took_up_s = time.monotonic()
            self._inbox.take_up()
        self._loop.call_later(_LOOK_EVERY_S, self._look)

    def _end_if_full(self) -> None:
        """End this process when too many methods were left behind in it; the others have a moment to finish."""
        left = self._runner.left_behind
        if left < MOST_LEFT_BEHIND:
            self._end_by_s = None
            return
        if self._end_by_s is None:
            self._end_by_s = time.monotonic() + _PATIENCE_S
        if self._attempts.running and time.monotonic() < self._end_by_s:
            return
        log.warning("host.restart host=%s left_behind=%d running=%d", self._name, left, self._attempts.running)
        self._black_box.forget_who_runs()
        # Threads cannot be ended otherwise. Ray starts the host again, and who waits asks again.
        os._exit(1)

    # -- asked by callers ----------------------------------------------------------------------------------------

    async def call(self, request: CallRequest) -> Answer | Elsewhere | Exception:
        """Run a method that may write, and wait for what comes of it."""
        while True:
            outcome = await self._accept(request, logged=False)
            if not isinstance(outcome, CallAccepted):
                return outcome
            answer = await self._answer_of(outcome, request)
            if answer is not None:
                return answer

    async def submit(self, request: CallRequest) -> ActorDone | Elsewhere | Exception:
        """Accept a call, or make an actor: durable when this returns."""
        outcome = await self._accept(request, logged=True)
        if isinstance(outcome, CallAccepted):
            return ActorDone(seq=outcome.seq, fresh=outcome.fresh, number=outcome.number)
        return outcome

    async def take(self, request: CallRequest) -> Taken | Elsewhere | Exception:
        """As `submit`; what is over in no time is written once, and its answer given at once."""
        outcome = await self._accept(request, logged=False)
        if not isinstance(outcome, CallAccepted):
            return outcome
        if not await self._make_durable(outcome, request.nonce):
            submitted = await self.submit(request)
            return Taken(number=submitted.number) if isinstance(submitted, ActorDone) else submitted
        answer = self._early.pop((outcome.seq, outcome.number), None)
        small = answer is not None and (answer.value is None or answer.value.nbytes <= INLINE_BYTES)
        return Taken(number=outcome.number, answer=answer if small else None)

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
        return await self.result(_known(request, outcome)) if found is None else _delivered(found)

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
        return await self._attempts.keep(accepted.seq, accepted.number, nonce)

    async def result(self, request: CallRequest) -> Any:
        """The value of a call that was accepted: what Ray hands to whoever reads the reference."""
        while True:
            outcome = await self._accept(request, logged=True)
            if isinstance(outcome, CallAccepted):
                found = await self._answer_of(outcome, request)
                if found is not None:
                    return _delivered(found)
                request = _known(request, outcome)
                continue
            if not isinstance(outcome, Elsewhere):
                raise outcome
            try:
                host = ray.get_actor(outcome.executor, namespace=names.NAMESPACE)
            except ValueError:
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            # What it says is unsealed where it is read, and not on the way: the value is read from the store.
            refusal = await host.wait_for_call.remote(request)
            if isinstance(refusal, Exception):
                raise refusal
            stored = self._stored(request)
            if stored is not None:
                return _delivered(stored)

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
        found = await self._readers.read(request, anywhere=False)
        return self._sent_on(found) if isinstance(found, OtherHost) else found

    async def start_reading(self, request: CallRequest) -> Any:
        """`read`: what Ray hands to whoever reads the reference."""
        found = await self._readers.read(request, anywhere=True)
        assert not isinstance(found, OtherHost)
        return _delivered(found)

    async def ready(self, actor_id: str, class_name: str = "") -> None:
        """Return when an actor's constructor is done; raise what it raised."""
        while True:
            with self._kv.read() as txn:
                row = actor_store.find(txn, actor_id)
                if row is None:
                    raise VirtualActorNotFoundError(actor_id, self._kv.url)
                check_called(row, class_name)
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

    async def cancel_call(self, actor_id: str, name: str, gone_on: bool = False) -> ActorDone | Elsewhere | Exception:
        """Cancel a call, and the workflow that continues it."""
        return await self._ended(
            actor_id, await self._operate(CancelCall(actor_id=actor_id, name=name, gone_on=gone_on))
        )

    async def reset(
        self, actor_id: str, nonce: str, state: ActorState | None, expected_version: int | None
    ) -> ActorDone | Elsewhere | Exception:
        """End the call that an actor is stuck in, and give the actor another state."""
        try:
            state = await self._requests.state(actor_id, state)
        except StorageError as error:
            return error
        reset = ResetActor(actor_id=actor_id, nonce=nonce, state=state, expected_version=expected_version)
        return await self._ended(actor_id, await self._operate(reset))

    async def _ended(self, actor_id: str, outcome: ActorOutcome) -> ActorDone | Elsewhere | Exception:
        if isinstance(outcome, ActorDone) and outcome.ended:
            await self._sub_workflows.end(f"{actor_id}/{outcome.ended}", actor_id)
        return self._for_client(outcome)

    async def delete(self, actor_id: str, nonce: str) -> ActorDone | Elsewhere | Exception:
        """Forget an actor that does not work."""
        return self._for_client(await self._operate(DeleteActor(actor_id=actor_id, nonce=nonce)))

    async def change_reminder(
        self, actor_id: str, change: ReminderChange, class_name: str = ""
    ) -> ActorDone | Elsewhere | Exception:
        """Set or cancel a reminder."""
        change = await self._requests.reminder(actor_id, change)
        operation = ChangeReminder(actor_id=actor_id, change=change, class_name=class_name)
        return self._for_client(await self._operate(operation))

    # -- asked by the management actor ---------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        return os.getpid()

    async def local_address(self) -> str:
        """Where processes on this machine may ask, too."""
        return await self._local.open()

    async def close(self) -> None:
        """Write nothing more, and let go of the folder: this process is about to be ended."""
        self._closed = True
        self._local.close()
        self._inbox.close()
        self._collector.close()
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
            operation = await self._requests.operation(request, logged=logged)
        except StorageError as error:
            return error
        outcome = await self._operate(operation)
        assert not isinstance(outcome, ActorDone), f"a call was answered by {outcome!r}"
        if not _may_be_stored(outcome):
            self._requests.discard(operation)
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

    def _operate(self, operation: ActorOperation) -> asyncio.Future[ActorOutcome]:
        return self._inbox.operate(operation)

    def _recover_all(self) -> None:
        with self._kv.read() as txn:
            died_in = {}
            for seq, number, _ in self._black_box.take_all_blame():
                call = actor_store.get_call(txn, seq, number) if number >= 0 else None
                died_in[seq] = call.spec.method if isinstance(call, QueuedCall) else "a method that was not logged"
            mine = leases.held_by(txn, self._name)
        for seq in dict.fromkeys([*died_in, *mine]):
            self._inbox.arrive(RecoverActor(seq=seq, died_in=died_in.get(seq, "")))


def _most_bytes() -> int:
    try:
        return memory_limit_bytes(MEMORY_VARIABLE)
    except ValueError as error:
        log.error("a host of virtual actors goes by the machine's memory: %s", error)
        return default_limit_bytes()


def _known(request: CallRequest, accepted: CallAccepted) -> CallRequest:
    """A request whose call has had a row: when that is gone, the call is over."""
    return replace(request, accepted=accepted.number)


def _may_be_stored(outcome: ActorOutcome) -> bool:
    """Whether a call was accepted just now, or may have been: of a commit that failed nobody knows."""
    return outcome.fresh if isinstance(outcome, CallAccepted) else isinstance(outcome, StorageError)


def _called(request: CallRequest) -> str:
    return f"the result of {request.method!r} of virtual actor {request.actor_id!r}"


def _delivered(found: Answer | Exception) -> Any:
    """What Ray hands to whoever reads the reference."""
    if isinstance(found, Exception):
        raise found
    if found.error is not None:
        raise found.error
    return found.value
