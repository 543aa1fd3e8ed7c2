"""Polls custom listeners, many to a process, away from the actors that own workflows.

Runs user code, so it may block, leak or die: whoever asked is told by Ray, and
asks again. Nothing is remembered here.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

from holdfast.actors.ray_untyped import remote
from holdfast.actors.storage_access import StorageAccess, access
from holdfast.actors.task_call import Acknowledged, Heard, Raised, Reply, Returned, TaskCall
from holdfast.actors.task_runner import load_arguments, load_code, load_value, raised, store_result
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.wire import unpack_call


@remote(num_cpus=0, max_concurrency=100_000)
class ListenerHost:
    """Polls the listeners of one runtime environment."""

    async def poll(self, packed_call: bytes) -> Reply:
        """Wait for a listener's event.

        Returns:
            The event, or what to wait for in its place, or the error it raised.
        """
        call, started = unpack_call(packed_call), time.time()
        try:
            return await self._poll(call, started)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and it is theirs to see
            return raised(call, error, started)

    async def acknowledge(self, packed_call: bytes) -> Acknowledged | Raised:
        """Tell a listener that its event is durable."""
        call, started = unpack_call(packed_call), time.time()
        assert call.event is not None
        try:
            storage = self._storage(call)
            listener = load_code(storage, call.node.function)()
            event = load_value(storage, call.workflow_id, call.group, call.event)
            await listener.event_checkpointed(event)
        except Exception as error:  # noqa: BLE001 - as above
            return raised(call, error, started)
        return Acknowledged(seq=call.seq, task=call.task, attempt=call.attempt)

    async def _poll(self, call: TaskCall, started: float) -> Reply:
        storage = self._storage(call)
        listener = load_code(storage, call.node.function)
        args, kwargs = load_arguments(storage, call)
        if isinstance(inspect.getattr_static(listener, "subscription", None), (classmethod, staticmethod)):
            return self._subscribe(call, listener.subscription(*args, **kwargs))
        event = await listener().poll_for_event(*args, **kwargs)
        where = f"the event of listener {call.node.task_id!r}"
        base, objects = store_result(event, call, storage, where)
        return Returned(
            seq=call.seq,
            task=call.task,
            attempt=call.attempt,
            base=base,
            objects=objects,
            started_unix_s=started,
            ended_unix_s=time.time(),
        )

    def _subscribe(self, call: TaskCall, subscription: Any) -> Heard:
        due_unix_s = getattr(subscription, "due_unix_s", None)
        source, key = getattr(subscription, "source", None), getattr(subscription, "key", None)
        stream = (source, key) if source is not None and key is not None else None
        return Heard(seq=call.seq, task=call.task, attempt=call.attempt, stream=stream, due_unix_s=due_unix_s)

    def _storage(self, call: TaskCall) -> StorageAccess:
        set_cluster_nonce(call.storage.cluster)
        return access(call.storage)
