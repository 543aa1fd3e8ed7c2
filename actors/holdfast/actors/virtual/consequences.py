"""What a host of virtual actors does when a transaction is durable: runs, answers, follows, tells others, removes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.virtual.answers import CallAnswers
from holdfast.actors.virtual.attempts import Attempts
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.host_inbox import TRY_AGAIN_S, HostInbox
from holdfast.actors.virtual.one_by_one import OneByOne
from holdfast.actors.virtual.operations import ActorBatch, EndSubWorkflow, SweepDeleted
from holdfast.actors.virtual.runner import Runner
from holdfast.actors.virtual.sub_workflows import SubWorkflows
from holdfast.engine.virtual_actor_signals import (
    AnswerCall,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
)
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.folder import StorageFolder

_SWEEP_EVERY_S = 1.0

log = logging.getLogger("holdfast")


class Consequences:
    """Carries out what the core has decided.

    Args:
        loop: The loop that all of this is called on.
        name: Of the host.
        folder: The storage folder.
        core: Decides.
        runner: Runs methods.
        alone: The order in which they begin.
        answers: Tells who waits for calls.
        sub_workflows: Follows what methods go on with.

    Attributes:
        inbox: Where operations arrive.
        attempts: What runs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        folder: StorageFolder,
        core: ActorCore,
        runner: Runner,
        alone: OneByOne,
        answers: CallAnswers,
        sub_workflows: SubWorkflows,
    ) -> None:
        self._loop, self._folder, self._core = loop, folder, core
        self._answers, self._sub_workflows = answers, sub_workflows
        self.inbox = HostInbox(loop, core, self.carry_out, self._undone)
        self.attempts = Attempts(loop, name, folder.kv, core, self.inbox, runner, alone)
        self._told_unix_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def carry_out(self, batch: ActorBatch) -> None:
        """Do what a transaction has decided."""
        for seq in (*batch.lost, *batch.deleted):
            self.attempts.stop_all(seq)
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
                    self.attempts.run(row, epoch, command)
                case StopMethod():
                    self.attempts.stop(row.seq, command.number, command.attempt)
                case StartSubWorkflow():
                    self._keep(self._follow(row, epoch, command))
        for host, seq in batch.elsewhere:
            self.hand_over(host, seq)
        for key in batch.freed:
            self._folder.blobs.delete(key)
        for group in batch.blob_groups:
            self._folder.blobs.delete_group(group)
        if batch.sweep:
            self._loop.call_later(_SWEEP_EVERY_S, self.inbox.arrive, SweepDeleted(), None)
        self._tell_alarm(batch.earliest_due_unix_s)

    def hand_over(self, host: str, seq: int) -> None:
        """Have a host take an actor up, if it is that host's."""
        self._keep(self._hand_over(host, seq))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
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

    def _tell_alarm(self, due_unix_s: float | None) -> None:
        """Have the management actor wake us in time. It reads the times itself when it starts."""
        if due_unix_s is None:
            return
        if self._told_unix_s is None or due_unix_s < self._told_unix_s or self._told_unix_s <= time.time():
            self._told_unix_s = due_unix_s
            ray.get_actor(names.MANAGEMENT, namespace=names.NAMESPACE).note_virtual_deadline.remote(due_unix_s)

    async def _follow(self, row: ActorRow, epoch: int, command: StartSubWorkflow) -> None:
        def is_over() -> bool:
            # Of an actor that another host has, that one knows.
            held = self._core.held.get(row.seq)
            return held is not None and held.epoch == epoch and held.machine.follows != command.sub.workflow_id

        signal = await self._sub_workflows.follow(row, command, is_over)
        if signal is not None:
            self.inbox.arrive(EndSubWorkflow(seq=row.seq, signal=signal))

    def _undone(self, seq: int) -> None:
        """A batch that touched this actor was not committed."""
        self.attempts.stop_all(seq)
        # Whoever waits for a call asks again, and has it begun anew from what is stored.
        self._loop.call_later(TRY_AGAIN_S, self._answers.lost, seq)
