"""What callers send to a host of virtual actors, brought into the store: code, large arguments, contents of references.

It is durable before the call is accepted; the row of the call names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from holdfast.actors.storage_access import INLINE_BYTES, object_blob
from holdfast.actors.virtual.hosting import spec_of
from holdfast.actors.virtual.operations import AcceptCall, CreateActor, ReminderChange, SetReminder
from holdfast.actors.virtual.requests import CallRequest
from holdfast.engine.virtual_actor_records import CallSpec
from holdfast.storage import actor_store
from holdfast.storage.actor_row import ActorState
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob


class RequestStorage:
    """Stores it.

    Args:
        folder: Where.
        kind: What the classes of this host need, by name.
    """

    def __init__(self, folder: StorageFolder, kind: str) -> None:
        self._folder, self._kv, self._kind = folder, folder.kv, kind
        self._stored_code: set[str] = set()

    async def operation(self, request: CallRequest, *, logged: bool) -> CreateActor | AcceptCall:
        """What a request asks of the store; its code and what is large in it are durable when this returns.

        Args:
            request: The call, or the making of an actor.
            logged: Whether the call is to be durable when it is accepted.

        Raises:
            StorageError: Something could not be written.
        """
        made_of = request.made_of
        large = request.objects or request.arguments.nbytes > INLINE_BYTES
        lacks_code = made_of is not None and any(digest not in self._stored_code for digest in made_of.code)
        arguments: Payload | Blob = request.arguments
        if large or lacks_code:
            arguments = await asyncio.to_thread(self._store_request, request)
        spec = CallSpec(
            method=request.method,
            nonce=request.nonce,
            arguments=arguments,
            key=request.idempotency_key or "",
            name=request.name,
            options=request.options,
            creates=made_of is not None,
            chain=request.chain,
            inside=request.inside,
        )
        if made_of is None:
            return AcceptCall(
                actor_id=request.actor_id,
                call=spec,
                logged=logged,
                accepted=request.accepted,
                class_name=request.class_name,
            )
        made = replace(spec_of(made_of), host=self._kind)
        return CreateActor(actor_id=request.actor_id, call=spec, spec=made)

    def _store_request(self, request: CallRequest) -> Payload | Blob:
        made_of = request.made_of
        if made_of is not None:
            self.store_code(made_of.code)
        group = self._group_of(request)
        if group is None:
            # Whoever is asked says that there is no such actor.
            return request.arguments
        for key, payload in request.objects.items():
            self._folder.blobs.write(group, payload, name=object_blob(group, key).partition("/")[2])
        if request.arguments.nbytes <= INLINE_BYTES:
            return request.arguments
        return Blob(self._folder.blobs.write(group, request.arguments), request.arguments.nbytes)

    def discard(self, operation: CreateActor | AcceptCall) -> None:
        """Remove what was stored for a request that came to nothing: it was refused, or known from before."""
        arguments = operation.call.arguments
        if isinstance(arguments, Blob):
            self._folder.blobs.delete(arguments.key)

    def _group_of(self, request: CallRequest) -> str | None:
        with self._kv.read() as txn:
            row = actor_store.find(txn, request.actor_id)
        if row is not None:
            return row.nonce
        return request.nonce if request.made_of is not None else None

    async def state(self, actor_id: str, state: ActorState | None) -> ActorState | None:
        """Store a state that was given from outside, in a file if it is large.

        Raises:
            StorageError: It could not be written.
        """
        if state is None or not isinstance(state.base, Payload) or state.base.nbytes <= INLINE_BYTES:
            return state
        with self._kv.read() as txn:
            row = actor_store.find(txn, actor_id)
        if row is None:
            return state
        key = await asyncio.to_thread(self._folder.blobs.write, row.nonce, state.base)
        return replace(state, base=Blob(key, state.base.nbytes))

    def store_code(self, code: Mapping[str, bytes]) -> None:
        """Make code durable, by hash; what is already is not written again. Any thread may ask."""
        for digest, content in code.items():
            if digest not in self._stored_code:
                self._folder.code.put(content)
                self._stored_code.add(digest)

    async def reminder(self, actor_id: str, change: ReminderChange) -> ReminderChange:
        """A change of a reminder whose arguments are durable, if they are large."""
        if isinstance(change, SetReminder) and isinstance(change.arguments, Payload):
            with self._kv.read() as txn:
                row = actor_store.find(txn, actor_id)
            if row is not None and change.arguments.nbytes > INLINE_BYTES:
                key = await asyncio.to_thread(self._folder.blobs.write, row.nonce, change.arguments)
                return replace(change, arguments=Blob(key, change.arguments.nbytes))
        return change
