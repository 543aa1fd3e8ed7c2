"""The Ray tasks and listener calls that an executor has out.

It starts them, knows which task each one runs now, ends them, and says what
came of them. Of one kind of task only so many are out at once; the rest waits
here, where it costs a few hundred bytes each and not a place in Ray's queues.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayActorError

from holdfast.actors.error_values import dump_error
from holdfast.actors.listener_wards import Standing
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.reply_signals import signal_of_loss
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_call import Reply, TaskCall
from holdfast.actors.wire import pack_call, unpack_reply
from holdfast.engine.commands import AcknowledgeEvent, StartListener, StartTask
from holdfast.engine.signals import Signal, TaskRaised
from holdfast.storage.workflow_row import WorkflowRow

_LEAST_WINDOW = 1000
_WINDOW_PER_CPU = 8
_ASK_AGAIN_S = 0.2
_HOST_PATIENCE_S = 30.0
_MARK_BITS = 62

Kind: TypeAlias = tuple[bytes, str]
"""Tasks of one kind ask Ray for the same: their Ray options and their environment."""

_Asked: TypeAlias = tuple[WorkflowRow, TaskCall, Standing]
_Lost: TypeAlias = tuple[_Asked, float, RayActorError]
"""What was asked of a host that died, after how many seconds, and what Ray said."""


@dataclass(slots=True, kw_only=True)
class RunningCall:
    """A Ray task or listener call that is out.

    Attributes:
        seq: The workflow.
        ref: Its reply to come.
        kind: What it asks of Ray; None for a listener call.
        assigned: (task, attempt) that it has still to report on.
        task_ids: What users call the tasks it has been given, by number.
        over: Set when its process is done with it.
        asked: What a listener host was asked, and how the listener stands.
        begun_s: When it was started, by the monotonic clock.
    """

    seq: int
    ref: Any
    kind: Kind | None
    assigned: list[tuple[int, int]] = field(default_factory=list)
    task_ids: dict[int, str] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked: _Asked | None = None
    begun_s: float = field(default_factory=time.monotonic)

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
    """

    def __init__(
        self,
        launcher: Launcher,
        executor: str,
        address: StorageAddress,
        on_reply: Callable[[Reply, bool], None],
        on_signal: Callable[[int, Signal], None],
    ) -> None:
        self._launcher, self._executor, self._address = launcher, executor, address
        self._on_reply, self._on_signal = on_reply, on_signal
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, RunningCall] = {}
        self._of_task: dict[tuple[int, int], str] = {}
        self._placed: dict[str, list[TaskCall]] = {}
        self._out: dict[Kind, int] = {}
        self._backlog: dict[Kind, deque[tuple[WorkflowRow, TaskCall]]] = {}
        self._queued: dict[tuple[int, int], int] = {}
        self._wait_for_host: dict[tuple[str, int], list[_Lost]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._window = _LEAST_WINDOW

    # -- starting ------------------------------------------------------------------------------------------------

    def start_task(self, row: WorkflowRow, command: StartTask) -> None:
        """Start a task: where it is to run in place, or anywhere; or later, when too many of its kind are out."""
        call = self._call_of(row, command)
        place = None if command.place is None else self._calls.get(command.place)
        if command.place is not None and place is not None:
            place.assigned.append((command.task, command.attempt))
            place.task_ids[command.task] = command.node.task_id
            self._of_task[row.seq, command.task] = command.place
            self._placed.setdefault(command.place, []).append(call)
            return
        kind = (command.node.options.ray_options, row.environment)
        if self._out.get(kind, 0) < self._window:
            self._launch(kind, row, call)
        else:
            self._backlog.setdefault(kind, deque()).append((row, call))
            self._queued[row.seq, command.task] = command.attempt

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
        self._watch(call, ref, None).asked = (row, call, standing)

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

    def _launch(self, kind: Kind, row: WorkflowRow, call: TaskCall) -> None:
        try:
            ref = self._launcher.start_task(row, call)
        except Exception as error:  # noqa: BLE001 - options of the user's that Ray refuses: the task failed
            self._refuse(call, error)
            return
        self._out[kind] = self._out.get(kind, 0) + 1
        self._watch(call, ref, kind)

    def _launch_queued(self, kind: Kind) -> None:
        backlog = self._backlog.get(kind)
        while backlog and self._out.get(kind, 0) < self._window:
            row, call = backlog.popleft()
            # One that was stopped while it waited is not in `_queued` any more, or under another attempt.
            if self._queued.get((call.seq, call.task)) == call.attempt:
                del self._queued[call.seq, call.task]
                self._launch(kind, row, call)
        if backlog is not None and not backlog:
            del self._backlog[kind]

    def set_cluster_cpus(self, cpus: float) -> None:
        """How many CPUs the cluster has: a large one takes more tasks at once."""
        self._window = max(_LEAST_WINDOW, int(cpus * _WINDOW_PER_CPU))

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
        )

    def _refuse(self, call: TaskCall, error: Exception) -> None:
        payload = dump_error(error, "".join(traceback.format_exception(error)))
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

    def _watch(self, call: TaskCall, ref: Any, kind: Kind | None) -> RunningCall:
        place = ref.task_id().hex()
        running = self._calls[place] = RunningCall(
            seq=call.seq,
            ref=ref,
            kind=kind,
            assigned=[(call.task, call.attempt)],
            task_ids={call.task: call.node.task_id},
        )
        self._of_task[call.seq, call.task] = place
        ref.future().add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._ended, place, done))
        return running

    def _ended(self, place: str, done: Future[Any]) -> None:
        call = self._calls.pop(place)
        self._placed.pop(place, None)
        for task, _ in call.assigned:
            self._of_task.pop((call.seq, task), None)
        call.over.set()
        if call.kind is not None:
            self._out[call.kind] -= 1
            self._launch_queued(call.kind)
        error = done.exception()
        if error is not None:
            if call.listener and self._ask_again(call, error):
                return
            for task, attempt in call.assigned:
                self._on_signal(call.seq, signal_of_loss(task, call.task_ids[task], attempt, error))
            return
        reply = unpack_reply(done.result())
        # Else all has been reported on the way; or the attempt was stopped, and came to its end before it knew.
        if reply is not None and (reply.task, reply.attempt) in call.assigned:
            self._on_reply(reply, call.listener)

    def stop(self, seq: int, task: int) -> None:
        """End a task's attempt, by force."""
        self._queued.pop((seq, task), None)
        place = self._of_task.pop((seq, task), None)
        call = None if place is None else self._calls.get(place)
        if call is None:
            return
        call.assigned = [entry for entry in call.assigned if entry[0] != task]
        if not call.assigned:
            # An actor's method cannot be cancelled by force: the host's event loop ends the coroutine.
            ray.cancel(call.ref, force=not call.listener)

    def stop_all(self, seq: int) -> None:
        """End everything that runs for a workflow."""
        for queued_seq, task in list(self._queued):
            if queued_seq == seq:
                self.stop(seq, task)
        for call in list(self._calls.values()):
            if call.seq == seq:
                for task, _ in list(call.assigned):
                    self.stop(seq, task)

    async def wait_until_over(self, seq: int) -> None:
        """Wait until no process runs a task of this workflow any more."""
        for call in [call for call in self._calls.values() if call.seq == seq and not call.listener]:
            await call.over.wait()

    async def end_all(self, timeout_s: float) -> None:
        """End all there is, and wait for it.

        Args:
            timeout_s: At most so many seconds.
        """
        running = list(self._calls.values())
        self._backlog.clear()
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
        if call is None or (reply.task, reply.attempt) not in call.assigned:
            return False
        call.assigned.remove((reply.task, reply.attempt))
        self._of_task.pop((reply.seq, reply.task), None)
        return True

    def take_placed(self, place: str) -> list[bytes]:
        """The in-place tasks that a worker is to run next."""
        return [pack_call(call) for call in self._placed.pop(place, [])]
