"""Read-only methods of virtual actors: run on a copy of the last committed state, beside the writers, not logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.actors.sealed import Answer
from holdfast.actors.virtual.answers import CallAnswers, sealed_error
from holdfast.actors.virtual.context import CallContext
from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.intake import check_called
from holdfast.actors.virtual.operations import OtherHost
from holdfast.actors.virtual.requests import CallRequest
from holdfast.actors.virtual.runner import Runner
from holdfast.actors.virtual.work import Ended, Raised, Returned, Work
from holdfast.engine.errors import HoldfastError, StorageMissingError, TaskTimeoutError
from holdfast.storage.actor_row import ActorRow, ActorState
from holdfast.storage.blobs import BlobStore
from holdfast.storage.record_codec import Blob


class Readers:
    """Runs them in one host.

    Args:
        name: Of the host.
        core: Has the actors that are in memory.
        host_of: The host that is to have an actor.
        blobs: Large states.
        runner: Runs methods.
        answers: Makes answers.
    """

    def __init__(
        self,
        name: str,
        core: ActorCore,
        host_of: Callable[[ActorRow], str],
        blobs: BlobStore,
        runner: Runner,
        answers: CallAnswers,
    ) -> None:
        self._name, self._core, self._host_of = name, core, host_of
        self._blobs, self._runner, self._answers = blobs, runner, answers

    async def read(self, request: CallRequest, *, anywhere: bool) -> Answer | OtherHost | Exception:
        """Run a method that only reads.

        Args:
            request: The call.
            anywhere: Also where the actor does not belong.
        """
        while True:
            try:
                found = self._core.read(request.actor_id)
                check_called(found.row, request.class_name)
            except HoldfastError as error:
                return error
            row, state = found.row, found.standing.state
            if row.suspected and self._host_of(row) != self._name and not anywhere:
                return OtherHost(host=self._host_of(row))
            if not isinstance(state.base, Blob):
                break
            try:
                # Mapped, it stays as it is when a writer takes its place.
                state = ActorState(self._blobs.read(state.base.key), state.json, state.class_version)
                break
            except StorageMissingError:
                continue
        ended = await self._run(row, state, request)
        if isinstance(ended, Raised):
            return Answer(error=sealed_error(ended.error))
        assert isinstance(ended, Returned)
        return self._answers.plain(ended.value, f"the result of {request.method!r}")

    async def _run(self, row: ActorRow, state: ActorState, request: CallRequest) -> Ended:
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
