"""What arrives at a host of virtual actors, performed: batch by batch, each one transaction."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

from holdfast.actors.arrivals import Arrivals, Arrived, tell
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.operations import (
    ActorBatch,
    ActorOperation,
    ActorOutcome,
    EndAttempt,
    EndSubWorkflow,
    RecoverActor,
)
from holdfast.engine.errors import StorageError
from holdfast.engine.virtual_actor_errors import HostReplacedError

TRY_AGAIN_S = 1.0
"""Seconds after which something is tried again that could not be written."""

log = logging.getLogger("holdfast")


class HostInbox:
    """Gathers operations and has the core perform them, on one event loop.

    Args:
        loop: The loop that all of this is called on.
        core: Performs them.
        carry_out: Given what came of a batch, when that is durable and everybody who waits for an outcome has it.
        undone: Given the number of each actor that a batch touched which was not committed.

    Attributes:
        arrive, operate: Those of `Arrivals`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: ActorCore,
        carry_out: Callable[[ActorBatch], None],
        undone: Callable[[int], None],
    ) -> None:
        self._loop, self._core, self._carry_out, self._undone = loop, core, carry_out, undone
        self._closed = False
        arrivals: Arrivals[ActorOperation, ActorOutcome] = Arrivals(loop, self._work_on)
        self.arrive, self.operate = arrivals.arrive, arrivals.operate

    def close(self) -> None:
        """Perform nothing more."""
        self._closed = True

    def _work_on(self, arrived: Sequence[Arrived[ActorOperation, ActorOutcome]]) -> None:
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
        tell(arrived, batch.outcomes)
        # Whoever has been told that a call goes on begins to wait for it first: it may have ended in this batch.
        self._loop.call_soon(self._carry_out, batch)

    def _not_committed(self, arrived: Sequence[Arrived[ActorOperation, ActorOutcome]], error: Exception) -> None:
        """Nothing was written. Of several requests each is tried by itself; what is told once is told again."""
        for seq in self._core.dropped:
            self._undone(seq)
        for operation, waiter in arrived:
            if isinstance(operation, EndSubWorkflow):
                self._loop.call_later(TRY_AGAIN_S, self.arrive, operation, waiter)
            elif len(arrived) > 1 and not isinstance(operation, EndAttempt):
                self._loop.call_soon(self._work_on, [(operation, waiter)])
            elif waiter is not None and not waiter.done():
                waiter.set_result(error)
        self._loop.call_later(TRY_AGAIN_S, self.take_up)

    def take_up(self) -> None:
        """Take up what is this host's and not driven here: it was given to it, and the message about it was lost."""
        if self._closed:
            return
        for seq in self._core.not_taken_up():
            self.arrive(RecoverActor(seq=seq))
