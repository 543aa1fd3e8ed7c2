"""How calls of virtual actors came out, for whoever waits: values, or the errors to raise.

As `answers` for workflows: what is the user's own leaves here sealed, and
becomes itself in the process that asked.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from holdfast.actors.error_values import describe_error
from holdfast.actors.sealed import Answer, Sealed, SealedRaisedError
from holdfast.actors.storage_access import object_blob
from holdfast.engine.errors import HoldfastError
from holdfast.engine.names import was_given
from holdfast.engine.values import Value
from holdfast.engine.virtual_actor_errors import CallOutcomeForgottenError
from holdfast.engine.virtual_actor_records import Outcome, QueuedCall
from holdfast.storage import actor_store
from holdfast.storage.blobs import BlobStore
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring

_LOOK_AGAIN_S = 0.1
_NONE = Payload(pickle.dumps(None, 5))


class CallAnswers:
    """Tells who waits for a call.

    Args:
        blobs: Where large results are.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._waiting: dict[tuple[int, int], list[asyncio.Future[Answer | None]]] = {}

    def wait(self, seq: int, number: int) -> asyncio.Future[Answer | None]:
        """The answer of a call that goes on; None when another host has the actor: ask that."""
        waiter: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((seq, number), []).append(waiter)
        return waiter

    async def wait_a_while(self, seq: int, number: int, timeout_s: float) -> Answer | None:
        """As `wait`, for so many seconds at most; None also when they are over."""
        waiter = self.wait(seq, number)
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        if done:
            return waiter.result()
        waiting = self._waiting[seq, number]
        waiting.remove(waiter)
        if not waiting:
            del self._waiting[seq, number]
        return None

    def ended(self, seq: int, number: int, make: Callable[[], Answer]) -> None:
        """A call has ended; the answer is made only where somebody waits for it."""
        waiters = self._waiting.pop((seq, number), None)
        if waiters is not None:
            answer = make()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(answer)

    def lost(self, seq: int) -> None:
        """Another host has this actor."""
        for key in [key for key in self._waiting if key[0] == seq]:
            for waiter in self._waiting.pop(key):
                if not waiter.done():
                    waiter.set_result(None)

    def answer(self, outcome: Outcome, group: str, what: str) -> Answer:
        """What a caller hears of how a call came out.

        Args:
            outcome: How.
            group: Where the actor's blobs lie.
            what: What the value is, for who cannot load it.
        """
        if outcome.value is None:
            return Answer(error=sealed_error(self._payload_of(outcome.error)))
        return Answer(value=self._sealed(outcome.value, group, what))

    def plain(self, base: Any, what: str) -> Answer:
        """The answer that a value is, with nothing around it and nothing that it refers to."""
        return Answer(value=Sealed(_NONE if base is None else base, what=what))

    def _sealed(self, value: Value, group: str, what: str) -> Sealed:
        base, objects = value.base, {}
        if isinstance(base, Referring):
            objects = {key: self._blobs.read(object_blob(group, key)) for key in base.objects}
            base = base.base
        payload = self._payload_of(base)
        if isinstance(payload, HoldfastError):
            payload = Payload(pickle.dumps(payload, 5))
            # Loaded as a plain value: it is no error of the user's, which has a form of its own.
            return Sealed(_caught(payload), caught=False, wraps=value.wraps, what=what)
        return Sealed(payload or _NONE, objects, caught=value.caught, wraps=value.wraps, what=what)

    def _payload_of(self, base: Any) -> Any:
        return self._blobs.read(base.key) if isinstance(base, Blob) else base


def sealed_error(error: Any) -> BaseException:
    """An error as it goes to a caller: the user's own sealed, ours as it is."""
    return error if isinstance(error, BaseException) else SealedRaisedError(error, describe_error(error))


def _caught(error: Payload) -> Payload:
    """The pickle of `(None, error)`."""
    return Payload(pickle.dumps((None, pickle.loads(error.inband)), 5))


async def stored_answer(kv: KeyValueStore, blobs: BlobStore, actor_id: str, name: str | None) -> Answer | None:
    """What a writing call came to, out of the store; waits for it. For any process that has the folder.

    Args:
        kv: The store.
        blobs: Its large values.
        actor_id: The actor.
        name: Of the call; None for the one that ended last.

    Returns:
        None when there is no such actor.
    """
    while True:
        with kv.read() as txn:
            row = actor_store.find(txn, actor_id)
            if row is None:
                return None
            asked = row.standing.last_call if name is None else name
            number = actor_store.call_of_name(txn, row.seq, asked)
            call = None if number is None else actor_store.get_call(txn, row.seq, number)
        if call is None and was_given(row.standing.names, asked):
            return Answer(error=CallOutcomeForgottenError(actor_id, asked))
        if call is None:
            return Answer(error=ValueError(f"No such task_id {asked!r} in virtual actor {actor_id!r}"))
        if not isinstance(call, QueuedCall):
            what = f"the result of {asked!r} of virtual actor {actor_id!r}"
            return CallAnswers(blobs).answer(call.outcome, row.nonce, what)
        # Whoever runs it tells its own callers; here the store is looked at.
        await asyncio.sleep(_LOOK_AGAIN_S)
