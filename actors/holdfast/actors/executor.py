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
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import ray
from ray.exceptions import RayActorError

from holdfast.actors import names
from holdfast.actors.acknowledgements import Acknowledger
from holdfast.actors.answers import Answers
from holdfast.actors.arrivals import Arrivals, Arrived, tell
from holdfast.actors.brought_files import BroughtFiles
from holdfast.actors.bundle_box import clear_boxes
from holdfast.actors.consequences import Consequences
from holdfast.actors.event_reports import EventReports
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.local_service import LocalService
from holdfast.actors.management_watch import ManagementWatch
from holdfast.actors.operating_system import this_process
from holdfast.actors.operations import (
    Accepted,
    AdmitQueued,
    Cancel,
    Delete,
    Deliver,
    FireTimer,
    GiveUp,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    StartFrom,
    Submit,
    Subscribe,
    Unsubscribe,
    Wake,
)
from holdfast.actors.orphans import Orphans
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.ray_untyped import remote
from holdfast.actors.reply_signals import signal_of_reply
from holdfast.actors.requests import EventRequest, SubmitRequest, SubscribeRequest
from holdfast.actors.running_calls import RunningCalls
from holdfast.actors.same_graph import say_the_same
from holdfast.actors.schedule_messages import (
    DropSchedule,
    FireSchedule,
    KeepSchedule,
    ScheduleRequest,
    Steering,
    SteerSchedule,
)
from holdfast.actors.sealed import Answer
from holdfast.actors.storage_access import INLINE_BYTES, StorageAddress
from holdfast.actors.task_bundle import BundleReply
from holdfast.actors.task_call import Reply
from holdfast.actors.troubles import Troubles
from holdfast.actors.virtual.answers import stored_answer
from holdfast.actors.virtual.hosting import spec_of
from holdfast.engine.errors import (
    ExecutorReplacedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
)
from holdfast.engine.graph import Graph
from holdfast.engine.signals import Signal
from holdfast.storage import schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.platform_lock import PlatformLock
from holdfast.storage.record_codec import Blob
from holdfast.storage.subscriptions import Subscription

log = logging.getLogger("holdfast")

_TRY_AGAIN_S = 1.0
_ENDING_S = 10.0
_LOOK_AGAIN_S = 0.1
_GIVE_UP_AGAIN_S = 60.0
_WOKEN_AT_ONCE = 200
_TAKE_UP_EVERY_S = 5.0


@remote(num_cpus=0, max_concurrency=1_000_000)
class Executor:
    """Drives the workflows that hash to it.

    Args:
        name: Its name, under which it holds leases.
        address: Where the storage folder is.
        platform_id: The platform it belongs to.
        lease_s: Seconds after which the management actor is ended when it does not answer.
        management: Its handle.
    """

    def __init__(self, name: str, address: StorageAddress, platform_id: str, lease_s: float, management: Any) -> None:
        self._name, self._address = name, address
        self._loop = asyncio.get_running_loop()
        self._folder = StorageFolder.open(address.path, create=False)
        self._lock = PlatformLock(address.path)
        self._lock.join(platform_id)
        self._orphans = Orphans(name, address.node_id, replaced=self._has_predecessor())
        self._core = ExecutorCore(self._folder.kv, name, self._say_who_i_am(), self._folder.blobs.link_group)
        self._answers = Answers(self._folder, name)
        self._acknowledger = Acknowledger()
        self._reports = EventReports()
        self._launcher = Launcher(self._folder, address, name, management)
        self._files = BroughtFiles(self._folder, self._launcher)
        arrivals: Arrivals[Operation, Outcome] = Arrivals(self._loop, self._work_on)
        self._arrive, self._operate, self._settle = arrivals.arrive, arrivals.operate, arrivals.settle
        self._closed = False
        clear_boxes(self._launcher.owner)
        self._calls = RunningCalls(self._launcher, name, address, self._replied, self._signalled, self._core.held.get)
        self._local = LocalService(
            {
                "run": self.run,
                "submit": self.submit,
                "post": self.post,
                "more": self.more,
                "report": self.report,
                "take_back": self.take_back,
            }
        )
        self._launcher.local_address = self._local.address
        self._firing = asyncio.Lock()
        self._troubles = Troubles()
        self._consequences = Consequences(
            self._launcher, self._calls, self._answers, self._reports, self._troubles, self._folder.blobs
        )
        self._writing: set[asyncio.Task[None]] = set()
        self._take_up_left()
        self._watch = ManagementWatch(self._folder.kv, lease_s, management)

    def _has_predecessor(self) -> bool:
        """Whether another process has borne the name before this one."""
        with self._folder.kv.read() as txn:
            return store.load_setting(txn, names.process_setting(self._name)) is not None

    def _say_who_i_am(self) -> tuple[int, int] | None:
        """Write this process down, as the one that bears the name; None when there is no room to.

        It is told by it from a process that takes its place, and the management actor can end it when it stops to
        answer, whoever started it.
        """
        process = this_process()
        try:
            with self._folder.kv.write() as txn:
                store.save_setting(txn, names.process_setting(self._name), [process.pid, process.started])
        except StorageFullError:
            log.warning("executor %s has no room to write down its process", self._name)
            return None
        return process.pid, process.started

    # -- asked by clients ----------------------------------------------------------------------------------------

    async def ping(self) -> int:
        """This process's id."""
        await self._local.open()
        resources = await asyncio.to_thread(ray.cluster_resources)
        self._calls.set_cluster_cpus(resources.get("CPU", 1.0))
        return os.getpid()

    async def local_address(self) -> str:
        """Where processes on this machine may ask, too."""
        return await self._local.open()

    async def close(self) -> None:
        """Write nothing more, end what runs, and let go of the folder: this process is about to be ended."""
        self._closed = True
        self._local.close()
        self._watch.close()
        await self._calls.end_all(_ENDING_S)
        if names.is_dedicated(self._name):
            try:
                with self._folder.kv.write() as txn:
                    store.drop_setting(txn, names.process_setting(self._name))
            except StorageError as error:
                # The management actor drops it, sooner or later.
                log.warning("executor %s could not remove what it had written down: %s", self._name, error)
        self._lock.release()

    async def submit(self, request: SubmitRequest) -> Outcome:
        """Make a workflow durable and set it going; what is refused leaves nothing behind."""
        outcome: Outcome
        try:
            outcome = await self._operate(await self._files.submission(request))
        except StorageError as error:
            outcome = error
        await self._files.drop_refused(request)
        return outcome

    async def start(self, request: SubmitRequest, acknowledge_to: str) -> Any:
        """`submit`, acknowledged over a local socket, then what `output` says; None when it is refused.

        Args:
            request: The workflow.
            acknowledge_to: Address of an `AcknowledgementSocket` on this machine.
        """
        accepted = isinstance(await self.submit(request), Accepted)
        self._acknowledger.say(acknowledge_to, request.nonce, accepted)
        return await self.output(request.workflow_id) if accepted else None

    async def take_up(self, seq: int, workflow_id: str) -> Any:
        """Drive a workflow that its client has written itself, then what `output` says."""
        if seq not in self._core.held:
            self._consequences.say_created(workflow_id)
            self._arrive(Recover(seq=seq))
        return await self.output(workflow_id)

    async def run(self, request: SubmitRequest) -> Answer | Outcome:
        """`submit`, then wait for the value; an outcome that is not Accepted comes back as it is."""
        outcome = await self.submit(request)
        if not isinstance(outcome, Accepted):
            return outcome
        return await self._answer(request.workflow_id, None, run=True)

    async def resume(self, workflow_id: str, nonce: str, dedicated: bool | None = None) -> Outcome:
        """Take a workflow up again. `nonce` marks the request: Ray repeats it when this process dies in it."""
        return await self._operate(Resume(workflow_id=workflow_id, nonce=nonce, dedicated=dedicated))

    async def wait_for_answer(self, workflow_id: str, task_id: str | None) -> None:
        """Return when there is an answer in the store, or another executor to ask."""
        await self._answers.wait(workflow_id, task_id)

    async def output(self, workflow_id: str, task_id: str | None = None, run: bool = True) -> Any:
        """The value of a workflow, or of one of its tasks: what Ray hands to whoever reads the reference."""
        found = await self._answer(workflow_id, task_id, run)
        if found.error is not None:
            raise found.error
        return found.value

    async def cancel(self, workflow_id: str, nonce: str = "") -> Outcome:
        """Stop a workflow; returns when what ran for it has ended. `nonce` marks the request, as for `resume`."""
        outcome = await self._operate(Cancel(workflow_id=workflow_id, nonce=nonce))
        if isinstance(outcome, Accepted):
            await self._calls.wait_until_over(outcome.seq)
            await self._orphans.wait_until_over(self._driver(outcome.seq))
        return outcome

    def _driver(self, seq: int) -> str:
        """The executor that drove a workflow last."""
        with self._folder.kv.read() as txn:
            row = store.get(txn, seq)
        return self._name if row is None else row.executor

    async def delete(self, workflow_id: str, nonce: str = "") -> Outcome:
        """Forget a workflow that is not active. `nonce` marks the request, as for `resume`."""
        return await self._operate(Delete(workflow_id=workflow_id, nonce=nonce))

    async def subscribe(self, request: SubscribeRequest) -> Outcome:
        """Have each event of a stream start a workflow, or call an actor. Durable when this returns."""
        try:
            environment = await asyncio.to_thread(self._files.store_rule, request)
        except StorageError as error:
            return error
        subscription = Subscription(
            name=request.name,
            source=request.source,
            selector=request.selector,
            graph=request.graph,
            actor=None if request.actor is None else spec_of(request.actor),
            creates=request.creates,
            environment=environment,
            id_template=request.id_template,
            id_function=request.id_function,
            user_metadata=request.user_metadata,
        )
        return await self._operate(Subscribe(subscription=subscription))

    async def unsubscribe(self, name: str) -> Outcome:
        """Start no more workflows, and call no more actors, by a rule."""
        return await self._operate(Unsubscribe(name=name))

    async def post(self, request: EventRequest) -> Outcome:
        """Put an event into a workflow's inbox. Durable when this returns; and followed, if that is asked for."""
        value: Any = request.payload
        if request.payload.nbytes > INLINE_BYTES:
            with self._folder.kv.read() as txn:
                row = store.find(txn, request.workflow_id)
            if row is not None:
                key = await asyncio.to_thread(self._folder.blobs.write, row.nonce, request.payload)
                value = Blob(key, request.payload.nbytes)
        outcome = await self._operate(
            Post(
                workflow_id=request.workflow_id,
                stream=request.stream,
                value=value,
                dedupe_id=request.dedupe_id,
                nonce=request.nonce,
            )
        )
        if request.follow and isinstance(outcome, Accepted) and outcome.acknowledging is not None:
            # Resumed before anything that the listener says can arrive: that takes another turn of this loop.
            handled = await self._reports.wait(
                request.workflow_id, request.stream[1], outcome.seq, outcome.acknowledging
            )
            return replace(outcome, handled=handled)
        return outcome

    async def report_checkpointed(self, workflow_id: str, key: str, ok: bool) -> bool:
        """A listener says how it took an event. Returns whether anybody waited for that."""
        return self._reports.report(workflow_id, key, ok)

    async def keep_schedule(self, request: ScheduleRequest) -> Outcome:
        """Make a schedule durable; what is refused leaves nothing behind."""
        submission, terms = request.submission, request.terms
        name, has_blobs = submission.workflow_id, self._files.has_large_parts(submission)
        outcome: Outcome
        try:
            submit = await self._files.submission(submission)
            outcome = await self._operate(
                KeepSchedule(
                    name=name,
                    terms=terms,
                    graph=submit.graph,
                    nonce=submit.nonce,
                    digest=await self._digest_of(request, submit.graph),
                    has_blobs=has_blobs,
                    user_metadata=submit.user_metadata,
                    environment=submit.environment,
                    replaces=request.replaces,
                )
            )
        except StorageError as error:
            outcome = error
        if has_blobs:
            with self._folder.kv.read() as txn:
                row = schedule_store.load(txn, name)
            if row is None or row.nonce != submission.nonce:
                await asyncio.to_thread(self._folder.blobs.delete_group, submission.nonce)
        return outcome

    async def _digest_of(self, request: ScheduleRequest, graph: Graph) -> str:
        """Give the hash of what a schedule runs: that of the stored definition where both mean the same."""
        submission = request.submission
        with self._folder.kv.read() as txn:
            row = schedule_store.load(txn, submission.workflow_id)
            if row is None or row.digest == request.digest or row.nonce == submission.nonce:
                return request.digest
            stored = schedule_store.load_graph(txn, submission.workflow_id, blob_group=row.nonce)
        # Not in the transaction: it reads files.
        same = await asyncio.to_thread(say_the_same, self._folder, (stored, row.nonce), (graph, submission.nonce))
        return row.digest if same else request.digest

    async def steer_schedule(self, name: str, steering: Steering, nonce: str) -> Outcome:
        """Pause a schedule, go on with it, or start a run now. `nonce` marks the request, as for `resume`."""
        return await self._operate(SteerSchedule(name=name, steering=steering, nonce=nonce))

    async def drop_schedule(self, name: str, nonce: str) -> Outcome:
        """Forget a schedule."""
        return await self._operate(DropSchedule(name=name, nonce=nonce))

    async def live_task(self, workflow_id: str, task_id: str) -> tuple[str, float | None] | None:
        """(state, start time) of a task in memory; None when it is not."""
        for held in self._core.held.values():
            if held.row.workflow_id == workflow_id:
                task = held.run.find(task_id)
                return None if task is None else (task.state.name, task.started_unix_s or None)
        return None

    async def _answer(self, workflow_id: str, task_id: str | None, run: bool) -> Answer:
        while True:
            found = await self._answers.wait(workflow_id, task_id, run=run)
            if isinstance(found, Answer):
                if type(found.error) is not ValueError:
                    return found
                of_actor = await stored_answer(self._folder.kv, self._folder.blobs, workflow_id, task_id)
                return found if of_actor is None else of_actor
            # The other one only says when; the value is read from the store, and not loaded on its way.
            try:
                other = ray.get_actor(found.executor, namespace=names.NAMESPACE)
                await other.wait_for_answer.remote(workflow_id, task_id)
            except (ValueError, RayActorError):
                # An executor of one workflow: it has ended with it, or has not been made yet.
                await asyncio.sleep(_LOOK_AGAIN_S)

    # -- asked by the management actor ---------------------------------------------------------------------------

    async def in_memory(self) -> int:
        """How many workflows are held in memory: those that only wait are not."""
        return len(self._core.held)

    async def fire(self, timers: Sequence[tuple[float, int, int]]) -> None:
        """Timers of this executor's workflows have come due: (due time, workflow, task).

        Those of workflows that rest, or that are another's, are left where they are.
        """
        by_workflow: dict[int, list[FireTimer]] = {}
        for due, seq, task in timers:
            if not self._troubles.is_resting(seq):
                by_workflow.setdefault(seq, []).append(FireTimer(seq=seq, task=task, due_unix_s=due))
        # Of very many, the first are awake before the last are begun with, and others have their turn. What is one
        # workflow's stays together: it is loaded once.
        workflows = list(by_workflow.values())
        async with self._firing:
            for at in range(0, len(workflows), _WOKEN_AT_ONCE):
                operations = chain.from_iterable(workflows[at : at + _WOKEN_AT_ONCE])
                await asyncio.gather(*(self._operate(operation) for operation in operations))

    async def start_from(self, subscription: int, events: Sequence[tuple[int, str]]) -> list[Outcome]:
        """Events of outside sources start workflows: (number of the event, workflow id). Done before: no effect."""
        operations = (
            StartFrom(subscription=subscription, event=number, workflow_id=workflow_id)
            for number, workflow_id in events
        )
        return list(await asyncio.gather(*(self._operate(operation) for operation in operations)))

    async def wake(self, seqs: Sequence[int]) -> None:
        """There are events of outside sources for workflows of this executor. Rows in the store say which."""
        awake = [seq for seq in seqs if not self._troubles.is_resting(seq)]
        await asyncio.gather(*(self._operate(Wake(seq=seq)) for seq in awake))

    async def fire_schedule(self, name: str) -> Outcome:
        """A schedule may have something to start."""
        return await self._operate(FireSchedule(name=name))

    async def recover(self, seqs: Sequence[int]) -> None:
        """Take workflows up that are this executor's."""
        awake = [seq for seq in seqs if not self._troubles.is_resting(seq)]
        await asyncio.gather(*(self._operate(Recover(seq=seq)) for seq in awake))

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
        if not self._calls.take_report(place, reply):
            return []
        epoch = self._epoch(reply.seq)
        signal = await self._files.signal_of(reply, None if leaving else place)
        await self._operate(Deliver(seq=reply.seq, signal=signal, epoch=epoch))
        return self._calls.take_placed(place)

    async def take_back(self, place: str, reply: BundleReply) -> None:
        """A worker tells what is done of a bundle, for one of its tasks takes long; what has not begun waits again."""
        self._calls.take_back(place, reply)

    async def more(self, place: str, reply: BundleReply) -> list[bytes]:
        """A worker is done with a bundle. The tasks that it is to run next; none: it is to go."""
        following = self._calls.go_on(place, reply)
        if following:
            return following
        kind = self._calls.finish(place, reply)
        if kind is None:
            return []
        # What follows from what it has done is started in the same turn.
        await self._settle()
        await self._calls.linger(kind)
        return self._calls.next_for(place, kind)

    # -- the batch -----------------------------------------------------------------------------------------------

    def _work_on(self, arrived: Sequence[Arrived[Operation, Outcome]]) -> None:
        if self._closed:
            return
        try:
            batch = self._core.perform([operation for operation, _ in arrived], time.time())
        except ExecutorReplacedError:
            # Ray has started another process under this name, and nobody reads what this one says.
            log.exception("ending process %d", os.getpid())
            os._exit(1)
        except Exception as error:
            # A full disk; or a defect of ours, which must not leave anybody waiting for ever.
            # One that says all by itself, once a second, needs no stack.
            stack = None if isinstance(error, StorageError) else error
            log.error("a batch of %d operations was not committed: %s", len(arrived), error, exc_info=stack)
            self._not_committed(arrived, error)
            return
        for (operation, _), outcome in zip(arrived, batch.outcomes, strict=True):
            if isinstance(operation, Submit) and isinstance(outcome, Accepted) and outcome.fresh:
                self._consequences.say_created(operation.workflow_id)
        tell(arrived, batch.outcomes)
        if all(isinstance(operation, Submit) for operation, _ in arrived):
            # Who submits many waits for each answer: it goes out first, for it is durable already.
            self._loop.call_soon(self._consequences.carry_out, batch)
        else:
            self._consequences.carry_out(batch)

    def _not_committed(self, arrived: Sequence[Arrived[Operation, Outcome]], error: Exception) -> None:
        """Nothing was written: refuse who waits, and take the workflows up again from the store, a little later.

        One request alone may be the reason: of several, each is tried by itself before it is refused. Where it is
        one workflow that the work fails on, the others need not wait for it, and it is given up in the end.
        """
        culprit = self._core.working_on
        for operation, waiter in arrived:
            if isinstance(operation, Deliver) and operation.seq in self._core.held:
                # It was not come to, and what it tells is told once. Where nothing is to blame it may fail again.
                delay_s = _TRY_AGAIN_S if culprit is None else 0.0
                self._loop.call_later(delay_s, self._arrive, operation, waiter)
            elif len(arrived) > 1 and not isinstance(operation, Deliver | Recover):
                self._loop.call_soon(self._work_on, [(operation, waiter)])
            elif waiter is not None and not waiter.done():
                waiter.set_result(error)
        # Whatever kind of operation touched it: it is not in memory any more.
        seqs = self._not_in_memory()
        for seq in seqs:
            self._calls.stop_all(seq)
        if culprit is not None and (not isinstance(error, StorageError) or isinstance(error, StorageCorruptError)):
            self._let_rest(culprit, error)
        if seqs:
            self._loop.call_later(_TRY_AGAIN_S, self._recover_all, seqs)

    def _let_rest(self, seq: int, error: Exception) -> None:
        """Leave a workflow alone for a while that the work fails on; or for good."""
        delay_s = self._troubles.note(seq)
        if delay_s is None:
            problem = f"{type(error).__name__}: {error}"
            log.critical("a workflow is given up, for it cannot be worked on number=%d problem=%s", seq, problem)
            self._arrive(GiveUp(seq=seq, problem=problem))
            # Should that fail too, it is tried again, now and then.
            delay_s = _GIVE_UP_AGAIN_S
        self._loop.call_later(delay_s, self._take_up_rested, seq)

    def _take_up_rested(self, seq: int) -> None:
        self._troubles.rested(seq)
        self._recover_all([seq])

    def _take_up_left(self) -> None:
        """Take up what is not in memory; again and again, for whoever was to tell of it may have died."""
        if self._closed:
            return
        self._recover_all(self._not_in_memory())
        self._loop.call_later(_TAKE_UP_EVERY_S, self._take_up_left)

    def _not_in_memory(self) -> list[int]:
        with self._folder.kv.read() as txn:
            return [seq for seq in store.held_by(txn, self._name) if seq not in self._core.held]

    def _recover_all(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            if not self._troubles.is_resting(seq):
                self._arrive(Recover(seq=seq))

    # -- replies -------------------------------------------------------------------------------------------------

    def _signalled(self, seq: int, signal: Signal) -> None:
        self._arrive(Deliver(seq=seq, signal=signal, epoch=self._epoch(seq)))

    def _epoch(self, seq: int) -> int:
        held = self._core.held.get(seq)
        return 0 if held is None else held.epoch

    def _replied(self, reply: Reply, listener: bool) -> None:
        if not self._files.brings_files(reply):
            self._signalled(reply.seq, signal_of_reply(reply, None, listener=listener))
            return
        # The event loop keeps only a weak reference to a task.
        later = self._loop.create_task(self._deliver_later(reply, listener))
        self._writing.add(later)
        later.add_done_callback(self._writing.discard)

    async def _deliver_later(self, reply: Reply, listener: bool) -> None:
        epoch = self._epoch(reply.seq)
        self._arrive(Deliver(seq=reply.seq, signal=await self._files.signal_of(reply, None, listener), epoch=epoch))
