"""The Ray tasks and listener calls that an executor has out.

It starts them, knows which tasks each one runs now, ends them, and says what
came of them. What goes out together, and how much at once, `bundling` decides;
the rest waits here, where it costs a few hundred bytes each and not a place in
Ray's queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayActorError

from holdfast.actors.ahead_book import AheadBook
from holdfast.actors.bundle_box import read_box
from holdfast.actors.bundling import Bundle, Durations, TaskQueue
from holdfast.actors.error_values import dump_error
from holdfast.actors.held_runs import Held
from holdfast.actors.listener_wards import Standing
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.reply_signals import signal_of_loss
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_bundle import REPORTED, BundleReply
from holdfast.actors.task_call import Reply, Returned, TaskCall
from holdfast.actors.task_options import workers_for
from holdfast.actors.user_code import traceback_of
from holdfast.actors.wire import pack_call, unpack_reply
from holdfast.engine.commands import AcknowledgeEvent, StartListener, StartTask
from holdfast.engine.signals import Signal, TaskRaised
from holdfast.storage.workflow_row import WorkflowRow

MOST_AHEAD = 127
"""Tasks that a worker may run without being told to, at most."""

LINGERS_S = 0.010
"""For so long a worker with nothing to do keeps its place."""

_PREPARES_AFTER_S = 0.002
"""By then the worker has what it was given, and will be busy with it for several times as long."""

_ASK_AGAIN_S = 0.2
_HOST_PATIENCE_S = 30.0
_MARK_BITS = 62

Kind: TypeAlias = tuple[bytes, str]
"""Tasks of one kind ask Ray for the same: their Ray options and their environment."""

Waiting: TypeAlias = tuple[WorkflowRow, TaskCall]
"""A task to be run, and its workflow."""

_Asked: TypeAlias = tuple[WorkflowRow, TaskCall, Standing]
_Lost: TypeAlias = tuple[_Asked, float, RayActorError]
"""What was asked of a host that died, after how many seconds, and what Ray said."""


@dataclass(slots=True, kw_only=True)
class RunningCall:
    """A Ray task or listener call that is out.

    Attributes:
        ref: Its reply to come.
        kind: What it asks of Ray; None for a listener call.
        bundle: The tasks it was given last; None for a listener call, and while it is to be given more.
        round: Which bundle that is.
        assigned: What it has still to report on, in order, by (workflow, task).
        ahead: What it may run after that, in order, without being told to.
        next_up: What it may go on with after all that.
        doomed: Those of them that nobody wants any more.
        over: Set when its process is done with it.
        asked: What a listener host was asked, and how the listener stands.
        begun_s: When it was started, by the monotonic clock.
        seqs: Workflows of which something may run there.
        waiters: (workflow, done when nothing of it runs there any more).
    """

    ref: Any
    kind: Kind | None
    bundle: Bundle[Waiting] | None = None
    round: int = 0
    assigned: dict[tuple[int, int], Waiting] = field(default_factory=dict)
    ahead: dict[tuple[int, int], Waiting] = field(default_factory=dict)
    next_up: list[tuple[Waiting, bytes]] = field(default_factory=list)
    doomed: set[tuple[int, int]] = field(default_factory=set)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked: _Asked | None = None
    begun_s: float = field(default_factory=time.monotonic)
    seqs: set[int] = field(default_factory=set)
    waiters: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)

    def runs_no_further(self) -> None:
        """What it has not begun of what follows is not its to run any more."""
        self.ahead.clear()
        self.next_up.clear()

    @property
    def listener(self) -> bool:
        """Whether it is a listener's and not a task's."""
        return self.kind is None


class RunningCalls:
    """What is out for one executor.

    Args:
        launcher: Starts Ray tasks.
        executor: The executor's name.
        address: Where the storage folder is.
        on_reply: Told of each reply, and whether a listener gave it.
        on_signal: Told (workflow, signal) of what came to no reply.
        held: The run of a workflow, if it is held.
    """

    def __init__(
        self,
        launcher: Launcher,
        executor: str,
        address: StorageAddress,
        on_reply: Callable[[Reply, bool], None],
        on_signal: Callable[[int, Signal], None],
        held: Callable[[int], Held | None],
    ) -> None:
        self._launcher, self._executor, self._address = launcher, executor, address
        self._on_reply, self._on_signal, self._held = on_reply, on_signal, held
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, RunningCall] = {}
        self._of_task: dict[tuple[int, int], str] = {}
        self._placed: dict[str, list[TaskCall]] = {}
        self._durations = Durations()
        self._queues: dict[Kind, TaskQueue[Waiting]] = {}
        self._timers: dict[Kind, asyncio.TimerHandle] = {}
        self._to_launch: set[Kind] = set()
        self._queued: dict[tuple[int, int], int] = {}
        self._ahead = AheadBook()
        self._lingering: dict[Kind, list[asyncio.Future[None]]] = {}
        self._wait_for_host: dict[tuple[str, int], list[_Lost]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._cpus = 1.0

    # -- starting ------------------------------------------------------------------------------------------------

    def start_task(self, row: WorkflowRow, command: StartTask) -> None:
        """Start a task: where it is to run in place, or anywhere; or later, when too many of its kind are out."""
        key, epoch = (row.seq, command.task), self._epoch_of(row.seq)
        if self._ahead.take_begun(key, command.attempt, epoch):
            # What comes of it is told to the run by itself.
            return
        promised = self._ahead.take_promised(key, command.attempt, epoch)
        call = self._call_of(row, command)
        if promised is not None and self._is_next_at(promised, (row, call)):
            return
        place = None if command.place is None else self._calls.get(command.place)
        if command.place is not None and place is not None:
            place.assigned[row.seq, command.task] = (row, call)
            self._of_task[row.seq, command.task] = command.place
            self._placed.setdefault(command.place, []).append(call)
            return
        kind = (command.node.options.ray_options, row.environment)
        self._queued[row.seq, command.task] = command.attempt
        self._queue_of(kind).put((row, call))
        self._launch_soon(kind)

    def _is_next_at(self, place: str, task: Waiting) -> bool:
        """Leave a task to the worker that has it already. Returns whether there is one."""
        call, key = self._calls.get(place), _key_of(task)
        if call is None or key not in call.ahead:
            return False
        del call.ahead[key]
        # With its input, should it be given back.
        call.assigned[key] = task
        self._of_task[key] = place
        self._prepare_soon(place, call)
        return True

    def _epoch_of(self, seq: int) -> int:
        held = self._held(seq)
        return 0 if held is None else held.epoch

    def start_listener(self, row: WorkflowRow, command: StartListener | AcknowledgeEvent) -> None:
        """Poll a listener, or acknowledge its event."""
        standing = Standing(key=(row.seq, command.task), mark=secrets.randbits(_MARK_BITS), deaths=command.deaths)
        self._ask_host(row, self._call_of(row, command), standing)

    def _ask_host(self, row: WorkflowRow, call: TaskCall, standing: Standing) -> None:
        try:
            ref = self._launcher.start_listener(row, call, standing)
        except Exception as error:  # noqa: BLE001 - whatever the environment makes Ray raise: the task failed
            self._refuse(call, error)
            return
        self._watch([(row, call)], ref, None, None).asked = (row, call, standing)

    def _ask_again(self, lost: RunningCall, error: BaseException) -> bool:
        """Ask the next listener host when one died. Whose fault it was the host says itself; here nobody's is assumed.

        Returns:
            False when it was no host that died, or nobody wants to know any more.
        """
        if not isinstance(error, RayActorError) or lost.asked is None or not lost.assigned:
            return False
        row, call, standing = lost.asked
        self._queued[standing.key] = call.attempt
        host = (row.environment, standing.ward)
        entry = (lost.asked, time.monotonic() - lost.begun_s, error)
        if host in self._wait_for_host:
            self._wait_for_host[host].append(entry)
        else:
            self._wait_for_host[host] = [entry]
            asking = self._loop.create_task(self._ask_when_up(host))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        return True

    async def _ask_when_up(self, host: tuple[str, int]) -> None:
        """Ask again for all who have lost a host, once it is there and says whether it knows why the last one died."""
        explained = await self._is_explained(host)
        for (row, call, before), lived_s, error in self._wait_for_host.pop(host):
            if self._queued.get(before.key) != call.attempt:
                # It was stopped meanwhile.
                continue
            del self._queued[before.key]
            standing = before if explained else before.lost_again(lived_s)
            if standing is not None:
                self._ask_host(row, call, standing)
            else:
                self._on_signal(call.seq, signal_of_loss(call.task, call.node.task_id, call.attempt, error))

    async def _is_explained(self, host: tuple[str, int]) -> bool:
        deadline_s = time.monotonic() + _HOST_PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                return bool(await self._launcher.listener_host(*host).explains.remote())
            except RayActorError as error:
                if error.actor_init_failed:
                    return False
                await asyncio.sleep(_ASK_AGAIN_S)
            except Exception:  # noqa: BLE001 - whatever the environment makes Ray raise: to ask says it to the task
                return False
        return False

    def _queue_of(self, kind: Kind) -> TaskQueue[Waiting]:
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = TaskQueue(self._durations, _function_of, self._is_queued)
        return queue

    def _is_queued(self, waiting: Waiting) -> bool:
        # One that was stopped while it waited is not in there any more, or under another attempt.
        return self._queued.get(_key_of(waiting)) == waiting[1].attempt

    def _launch_soon(self, kind: Kind) -> None:
        """Once all that belongs to this turn of the loop has come: it may go together."""
        if kind not in self._to_launch:
            self._to_launch.add(kind)
            self._loop.call_soon(self._launch_queued, kind)
            for other in [other for other in self._lingering if other != kind]:
                # What these hold may be what it waits for.
                self._end_lingering(other)

    def _launch_queued(self, kind: Kind) -> None:
        self._to_launch.discard(kind)
        timer = self._timers.pop(kind, None)
        if timer is not None:
            timer.cancel()
        queue = self._queue_of(kind)
        # So many are left to those that stay.
        for waiter in [one for one in self._lingering.get(kind, ()) if not one.done()][: len(queue)]:
            waiter.set_result(None)
        bundles, again_s = queue.take(workers_for(kind[0], self._cpus), self._loop.time())
        for bundle in bundles:
            self._launch(kind, bundle)
        if again_s is not None:
            self._timers[kind] = self._loop.call_at(again_s, self._launch_queued, kind)
        elif queue.idle:
            del self._queues[kind]

    def _launch(self, kind: Kind, bundle: Bundle[Waiting]) -> None:
        for _, call in bundle.tasks:
            del self._queued[call.seq, call.task]
        row, first = bundle.tasks[0]
        ahead = self._may_run_ahead(kind, bundle)
        try:
            if len(bundle.tasks) == 1 and not bundle.tiny:
                ref = self._launcher.start_task(row, first)
            else:
                ref = self._launcher.start_bundle(row, [call for _, call in (*bundle.tasks, *ahead)])
        except Exception as error:  # noqa: BLE001 - options of the user's that Ray refuses: the tasks failed
            self._queue_of(kind).ended(bundle)
            for _, call in bundle.tasks:
                self._refuse(call, error)
            return
        running = self._watch(bundle.tasks, ref, kind, bundle)
        running.ahead = {_key_of(task): task for task in ahead}
        self._prepare_soon(ref.task_id().hex(), running)

    def _may_run_ahead(self, kind: Kind, bundle: Bundle[Waiting]) -> list[Waiting]:
        """The tasks that can only follow that of a bundle, and are as tiny.

        Only where nothing else waits: many tasks that end together are logged together, which costs less.
        """
        if not bundle.tiny or len(bundle.tasks) != 1 or len(self._queue_of(kind)):
            return []
        return self._followers(bundle.tasks[0], 0, MOST_AHEAD)

    def _followers(self, first: Waiting, skipped: int, most: int) -> list[Waiting]:
        """The tasks that can only follow one that runs, and are as tiny."""
        row, call = first
        held, found = self._held(row.seq), []
        commands = [] if held is None else held.run.followers(call.task, skipped + most)
        for command in commands[skipped:]:
            task = row, replace(self._call_of(row, command), follows=True)
            function = _function_of(task)
            if function is None or not self._durations.is_tiny(function):
                break
            found.append(task)
        return found

    def _prepare_soon(self, place: str, call: RunningCall) -> None:
        """While a worker is busy with as much as it may be given, find out what it may go on with."""
        if len(call.ahead) == MOST_AHEAD:
            self._loop.call_later(_PREPARES_AFTER_S, self._prepare, place, call.round)

    def _prepare(self, place: str, round_: int) -> None:
        call = self._calls.get(place)
        if call is None or call.round != round_ or len(call.ahead) != MOST_AHEAD or len(call.assigned) != 1:
            return
        (first,) = call.assigned.values()
        call.next_up = [(task, pack_call(task[1])) for task in self._followers(first, MOST_AHEAD, MOST_AHEAD + 1)]

    def go_on(self, place: str, reply: BundleReply) -> list[bytes]:
        """A worker is done with all of a chain that it had, and goes on with what follows from the last of it.

        It logs that one itself, as it did the others; so it need not wait until the run has heard of them.

        Returns:
            What it is to go on with; empty: it is not known yet, so `finish` has to be told.
        """
        found = self._told_of(place, reply)
        if found is None:
            return []
        call, kind, bundle = found
        queue, given = self._queue_of(kind), len(call.assigned) + len(call.ahead)
        all_done = len(reply.replies) == given and REPORTED not in reply.replies and not (reply.unbegun or call.doomed)
        if not call.next_up or not all_done or len(queue):
            return []
        next_up, call.next_up = call.next_up, []
        self._take_replies(call, reply.replies)
        call.bundle, call.round = queue.goes_on(bundle, self._loop.time()), call.round + 1
        call.ahead = {_key_of(task): task for task, _ in next_up}
        _, first = next_up[0][0]
        self._ahead.promise((first.seq, first.task), place, (first.attempt, first.epoch))
        return [packed for _, packed in next_up]

    def set_cluster_cpus(self, cpus: float) -> None:
        """How many CPUs the cluster has."""
        self._cpus = cpus

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
            executor=self._executor,
            storage=self._address,
            event=command.event if isinstance(command, AcknowledgeEvent) else None,
            epoch=self._epoch_of(row.seq),
        )

    def _refuse(self, call: TaskCall, error: Exception) -> None:
        payload = dump_error(error, traceback_of(error))
        now = time.time()
        signal = TaskRaised(
            task=call.task,
            attempt=call.attempt,
            error=payload,
            retryable=False,
            started_unix_s=now,
            ended_unix_s=now,
        )
        self._on_signal(call.seq, signal)

    # -- ending --------------------------------------------------------------------------------------------------

    def _watch(self, tasks: list[Waiting], ref: Any, kind: Kind | None, bundle: Bundle[Waiting] | None) -> RunningCall:
        place = ref.task_id().hex()
        running = self._calls[place] = RunningCall(
            ref=ref,
            kind=kind,
            bundle=bundle,
            assigned={(call.seq, call.task): (row, call) for row, call in tasks},
            seqs={call.seq for _, call in tasks},
        )
        self._of_task.update(dict.fromkeys(running.assigned, place))
        ref.future().add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._ended, place, done))
        return running

    def _ended(self, place: str, done: Future[Any]) -> None:
        call = self._calls.pop(place)
        self._placed.pop(place, None)
        if call.kind is not None and call.bundle is not None:
            self._queue_of(call.kind).ended(call.bundle)
            self._launch_soon(call.kind)
        error = done.exception()
        if error is not None:
            self._lost(place, call, error)
        elif isinstance(result := done.result(), BundleReply):
            read_box(self._launcher.owner, place)
            if result.round == call.round:
                self._take_bundle(call, result)
            else:
                # It was not heard which tasks were to be next.
                self._wait_again(call, list(call.assigned))
        else:
            # No reply: all has been reported on the way; or the attempt was stopped, and ended before it knew.
            self._take_reply(call, unpack_reply(result))
        for key in call.assigned:
            self._of_task.pop(key, None)
        call.over.set()
        call.seqs.clear()
        _tell_waiters(call)

    def _lost(self, place: str, call: RunningCall, error: BaseException) -> None:
        """A call came to no reply. Of a bundle only what ran is lost with it."""
        if call.listener and self._ask_again(call, error):
            return
        lost = list(call.assigned)
        if call.bundle is not None and (call.bundle.tiny or len(call.bundle.tasks) > 1):
            done = read_box(self._launcher.owner, place, call.round)
            if done is not None:
                self._take_replies(call, done.replies)
            # In their order. Of those that nobody wants any more one may have been running.
            # What was begun ahead comes after them.
            out = dict.fromkeys([*map(_key_of, call.bundle.tasks), *call.assigned, *call.ahead])
            left = [key for key in out if key in call.assigned or key in call.doomed or key in call.ahead]
            # One that was given more would have noted it.
            ran = call.round == 0 if done is None else done.begun > len(done.replies)
            self._begin_ahead(call, left[:ran])
            lost = [key for key in left[:ran] if key in call.assigned]
            self._wait_again(call, [key for key in left[ran:] if key in call.assigned])
        for key in lost:
            _, task = call.assigned[key]
            self._on_signal(task.seq, signal_of_loss(task.task, task.node.task_id, task.attempt, error))

    def _told_of(self, place: str, reply: BundleReply) -> tuple[RunningCall, Kind, Bundle[Waiting]] | None:
        """What a worker tells of; None when it is not what the worker was given last."""
        call = self._calls.get(place)
        if call is None or call.kind is None or call.bundle is None or reply.round != call.round:
            return None
        return call, call.kind, call.bundle

    def take_back(self, place: str, reply: BundleReply) -> None:
        """A task of a bundle takes longer than it was to: what is done is done, and what has not begun waits again."""
        found = self._told_of(place, reply)
        if found is None:
            return
        call, kind, bundle = found
        self._take_bundle(call, reply)
        if reply.busy is not None:
            self._begin_ahead(call, [reply.busy[:2]])
        call.runs_no_further()
        busy = next(iter(call.assigned.values()), None)
        if busy is not None:
            self._durations.note(busy[1].node.function, reply.busy_s)
        self._queue_of(kind).free_place(bundle)
        call.seqs = {seq for seq, _ in (*call.assigned, *call.doomed)}
        _tell_waiters(call)
        self._launch_soon(kind)
        if call.doomed and not call.assigned:
            ray.cancel(call.ref, force=True)

    def finish(self, place: str, reply: BundleReply) -> Kind | None:
        """A worker is done with a bundle, and stays for what follows from it: `next_for` has to be asked after that.

        Returns:
            Of which kind the next may be; None when it is to go.
        """
        found = self._told_of(place, reply)
        if found is None:
            return None
        call, kind, bundle = found
        self._take_bundle(call, reply)
        for key in call.assigned:
            self._of_task.pop(key, None)
        call.assigned.clear()
        call.runs_no_further()
        call.doomed.clear()
        self._queue_of(kind).stays(bundle)
        call.bundle, call.round = None, call.round + 1
        call.seqs.clear()
        _tell_waiters(call)
        return kind

    async def linger(self, kind: Kind) -> None:
        """Return when a worker that stays has something to do, or is to go: a task may come that nobody knows of yet.

        To ask Ray for a worker takes longer than most clients take between two small workflows. Only where nothing else
        that this executor has asked for could need the place.
        """
        if len(self._queue_of(kind)) or any(other != kind and not queue.idle for other, queue in self._queues.items()):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._lingering.setdefault(kind, []).append(waiter)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(waiter, LINGERS_S)
        waiting = self._lingering[kind]
        waiting.remove(waiter)
        if not waiting:
            del self._lingering[kind]

    def _end_lingering(self, kind: Kind) -> None:
        for waiter in self._lingering.get(kind, ()):
            if not waiter.done():
                waiter.set_result(None)

    def next_for(self, place: str, kind: Kind) -> list[bytes]:
        """The tasks that a worker which stays is to run next; none: it is to go."""
        call, queue = self._calls.get(place), self._queue_of(kind)
        # What is not for it has waited for this.
        self._launch_soon(kind)
        if call is None:
            queue.leaves()
            return []
        call.bundle = queue.take_next(self._loop.time())
        if call.bundle is None:
            return []
        for row, task in call.bundle.tasks:
            del self._queued[task.seq, task.task]
            call.assigned[task.seq, task.task] = row, task
            self._of_task[task.seq, task.task] = place
            call.seqs.add(task.seq)
        call.ahead = {_key_of(task): task for task in self._may_run_ahead(kind, call.bundle)}
        return [pack_call(task) for _, task in (*call.bundle.tasks, *call.ahead.values())]

    def _take_bundle(self, call: RunningCall, reply: BundleReply) -> None:
        self._take_replies(call, reply.replies)
        call.doomed.difference_update(key[:2] for key in reply.unbegun)
        self._wait_again(call, [key[:2] for key in reply.unbegun if self._is_assigned(call, *key)])

    def _take_replies(self, call: RunningCall, replies: Sequence[bytes]) -> None:
        for packed in replies:
            if packed != REPORTED:
                self._take_reply(call, unpack_reply(packed))

    def _take_reply(self, call: RunningCall, reply: Reply | None) -> None:
        if reply is None:
            return
        key = (reply.seq, reply.task)
        call.doomed.discard(key)
        self._begin_ahead(call, [key])
        if not self._is_assigned(call, *key, reply.attempt):
            return
        _, task = call.assigned.pop(key)
        self._of_task.pop(key, None)
        if isinstance(reply, Returned) and not call.listener:
            self._durations.note(task.node.function, reply.ran_s)
        self._on_reply(reply, call.listener)

    def _begin_ahead(self, call: RunningCall, keys: list[tuple[int, int]]) -> None:
        """Note that a worker has begun these without being told to: they are not to be started for the run."""
        for key in keys:
            if key in call.ahead:
                _, task = call.assigned[key] = call.ahead.pop(key)
                self._of_task[key] = call.ref.task_id().hex()
                self._ahead.begin(key, (task.attempt, task.epoch))

    def _is_assigned(self, call: RunningCall, seq: int, task: int, attempt: int) -> bool:
        assigned = call.assigned.get((seq, task))
        return assigned is not None and assigned[1].attempt == attempt

    def _wait_again(self, call: RunningCall, keys: list[tuple[int, int]]) -> None:
        """Have those wait anew that a worker has not begun."""
        if not keys or call.kind is None:
            return
        tasks = [call.assigned.pop(key) for key in keys]
        for _, task in tasks:
            self._of_task.pop((task.seq, task.task), None)
            self._queued[task.seq, task.task] = task.attempt
        self._queue_of(call.kind).put_back(tasks)
        self._launch_soon(call.kind)

    def stop(self, seq: int, task: int) -> None:
        """End a task's attempt, by force."""
        self._queued.pop((seq, task), None)
        place = self._of_task.pop((seq, task), None)
        call = None if place is None else self._calls.get(place)
        if call is None:
            return
        call.assigned.pop((seq, task), None)
        call.runs_no_further()
        if not call.assigned:
            # An actor's method cannot be cancelled by force: the host's event loop ends the coroutine.
            ray.cancel(call.ref, force=not call.listener)
        else:
            # It may not have begun. If it has, and takes long, it is soon the only one there.
            call.doomed.add((seq, task))

    def stop_all(self, seq: int) -> None:
        """End everything that runs for a workflow."""
        for queued_seq, task in list(self._queued):
            if queued_seq == seq:
                self.stop(seq, task)
        for running_seq, task in list(self._of_task):
            if running_seq == seq:
                self.stop(seq, task)
        self.forget_ahead(seq)

    def forget_ahead(self, seq: int) -> None:
        """A workflow starts nothing more."""
        for key, place in self._ahead.forget(seq):
            call = self._calls.get(place)
            if call is not None and key in call.ahead:
                # It may have begun there.
                call.runs_no_further()
                ray.cancel(call.ref, force=True)

    async def wait_until_over(self, seq: int) -> None:
        """Wait until no process runs a task of this workflow any more."""
        waiters: list[asyncio.Future[None]] = []
        for call in self._calls.values():
            if seq in call.seqs and not call.listener:
                waiters.append(self._loop.create_future())
                call.waiters.append((seq, waiters[-1]))
        await asyncio.gather(*waiters)

    async def end_all(self, timeout_s: float) -> None:
        """End all there is, and wait for it.

        Args:
            timeout_s: At most so many seconds.
        """
        running = list(self._calls.values())
        self._queues.clear()
        self._queued.clear()
        for call in running:
            ray.cancel(call.ref, force=not call.listener)
        ends = [asyncio.ensure_future(call.over.wait()) for call in running if not call.listener]
        if ends:
            await asyncio.wait(ends, timeout=timeout_s)

    # -- workers that report on the way --------------------------------------------------------------------------

    def take_report(self, place: str, reply: Reply) -> bool:
        """Note that a worker has reported. False when nobody waits for this attempt.

        That is: it was started by an executor that died, or was stopped. Attempts are numbered anew after that,
        so its number may be one that is in use.
        """
        call = self._calls.get(place)
        if call is None or not self._is_assigned(call, reply.seq, reply.task, reply.attempt):
            return False
        del call.assigned[reply.seq, reply.task]
        self._of_task.pop((reply.seq, reply.task), None)
        return True

    def take_placed(self, place: str) -> list[bytes]:
        """The in-place tasks that a worker is to run next."""
        return [pack_call(call) for call in self._placed.pop(place, [])]


def _function_of(task: Waiting) -> str | None:
    """What tells how long a task will take; None for one that is not to share a worker with others."""
    _, call = task
    alone = call.hold or call.node.options.in_place or call.node.options.timeout_s is not None
    return None if alone else call.node.function


def _key_of(task: Waiting) -> tuple[int, int]:
    return task[1].seq, task[1].task


def _tell_waiters(call: RunningCall) -> None:
    """Tell those who wait for the end of a workflow's tasks there, if nothing of it runs there any more."""
    waiting = [(seq, waiter) for seq, waiter in call.waiters if seq in call.seqs]
    for seq, waiter in call.waiters:
        if seq not in call.seqs and not waiter.done():
            waiter.set_result(None)
    call.waiters = waiting
