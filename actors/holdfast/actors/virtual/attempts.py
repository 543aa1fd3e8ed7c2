"""Attempts to run the calls of virtual actors: begun, limited in time, left behind, and their ends told to the core.

What runs for a lease that is gone is not waited for. The methods themselves run elsewhere (`runner`).
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from holdfast.actors.virtual.context import CallContext
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.host_inbox import HostInbox
from holdfast.actors.virtual.one_by_one import OneByOne
from holdfast.actors.virtual.operations import ActorDone, EndAttempt, KeepCall
from holdfast.actors.virtual.requests import CONSTRUCTOR
from holdfast.actors.virtual.rooms import Attempt
from holdfast.actors.virtual.runner import Runner
from holdfast.actors.virtual.work import Continued, Ended, Raised, Returned, Work
from holdfast.engine.virtual_actor import sub_workflow_nonce
from holdfast.engine.virtual_actor_signals import (
    MethodContinued,
    MethodRaised,
    MethodReturned,
    RunMethod,
    TimeoutReached,
)
from holdfast.storage import actor_store
from holdfast.storage.actor_row import ActorRow, SubRequest
from holdfast.storage.interface import KeyValueStore

_KEEP_AFTER_S = 0.2


class Attempts:
    """Those of one host.

    Args:
        loop: The loop that all of this is called on.
        name: Of the host.
        kv: The store.
        core: Knows which leases are good.
        inbox: Where ends are told.
        runner: Runs methods.
        alone: The order in which they begin.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        kv: KeyValueStore,
        core: ActorCore,
        inbox: HostInbox,
        runner: Runner,
        alone: OneByOne,
    ) -> None:
        self._loop, self._name, self._kv, self._core = loop, name, kv, core
        self._inbox, self._runner, self._alone = inbox, runner, alone
        self._attempts: dict[tuple[int, int, int], tuple[Attempt, list[asyncio.TimerHandle]]] = {}

    @property
    def running(self) -> int:
        """How many attempts run that a call waits for."""
        return len(self._attempts)

    def run(self, row: ActorRow, epoch: int, command: RunMethod) -> None:
        """Begin an attempt, now or when it is its turn.

        Args:
            row: The actor.
            epoch: The lease under which it may be begun.
            command: What the core wants.
        """
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
        if not self._core.is_wanted(seq, epoch, (call.number, command.attempt)):
            return None
        attempt = self._runner.run(work)
        key = (seq, call.number, command.attempt)
        timers: list[asyncio.TimerHandle] = []
        if not call.logged:
            timers.append(
                self._loop.call_later(_KEEP_AFTER_S, self._inbox.arrive, KeepCall(seq=seq, number=call.number))
            )
        if spec.options.timeout_s is not None:
            timers.append(self._loop.call_later(spec.options.timeout_s, self._time_out, key, epoch, time.time()))
        self._attempts[key] = (attempt, timers)
        attempt.ended.add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(self._ended, key, epoch, future.result())
        )
        return attempt.ended

    def _keep_before_asking(self, seq: int, number: int, nonce: str) -> None:
        """Make a call durable, in the thread of its method, before that asks others for something."""
        kept = asyncio.run_coroutine_threadsafe(self.keep(seq, number, nonce), self._loop).result()
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
        self._inbox.arrive(EndAttempt(seq=seq, epoch=epoch, signal=signal, reminders=reminders))

    def _time_out(self, key: tuple[int, int, int], epoch: int, started_unix_s: float) -> None:
        attempt = self._take(key)
        if attempt is None:
            return
        attempt.leave()
        seq, number, count = key
        self._runner.forget(seq)
        signal = TimeoutReached(number=number, attempt=count, started_unix_s=started_unix_s, ended_unix_s=time.time())
        self._inbox.arrive(EndAttempt(seq=seq, epoch=epoch, signal=signal))

    def stop(self, seq: int, number: int, attempt: int) -> None:
        """Wait no more for an attempt."""
        running = self._take((seq, number, attempt))
        if running is not None:
            running.leave()
        self._runner.forget(seq)

    def stop_all(self, seq: int) -> None:
        """Wait no more for anything that runs for an actor, and forget its object."""
        for key in [key for key in self._attempts if key[0] == seq]:
            self.stop(*key)
        self._runner.forget(seq)

    async def keep(self, seq: int, number: int, nonce: str) -> bool:
        """Give a call a row. Returns whether it has one, or is over."""
        kept = await self._inbox.operate(KeepCall(seq=seq, number=number))
        if not isinstance(kept, ActorDone):
            return False
        with self._kv.read() as txn:
            # One that was forgotten meanwhile, with its host's lease, is not there to be kept.
            return actor_store.call_of_mark(txn, seq, nonce) is not None
