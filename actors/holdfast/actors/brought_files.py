"""What requests and replies bring along that belongs into files: code, environments, objects, large values.

It is written before the transaction that refers to it, in a thread; what a
refused request had brought is removed again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from holdfast.actors.operations import Submit
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.reply_signals import signal_of_reply
from holdfast.actors.requests import SubmitRequest, SubscribeRequest
from holdfast.actors.storage_access import INLINE_BYTES, object_blob
from holdfast.actors.task_call import Continued, Reply, Returned
from holdfast.engine.errors import HoldfastError
from holdfast.engine.graph import Graph
from holdfast.engine.signals import Signal, TaskLost
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob, Referring

log = logging.getLogger("holdfast")


class BroughtFiles:
    """Writes what is brought along.

    Args:
        folder: The storage folder.
        launcher: Knows which code and environments are stored.
    """

    def __init__(self, folder: StorageFolder, launcher: Launcher) -> None:
        self._folder, self._launcher = folder, launcher

    def brings_files(self, reply: Reply) -> bool:
        """Whether `signal_of` has anything to write for a reply."""
        if reply.objects or isinstance(reply, Continued):
            return True
        return isinstance(reply, Returned) and _is_large(reply.base)

    async def signal_of(self, reply: Reply, place: str | None, listener: bool = False) -> Signal:
        """The signal of a reply, with what it brought along written to files first."""
        if self.brings_files(reply):
            with self._folder.kv.read() as txn:
                row = store.get(txn, reply.seq)
            if row is not None:
                try:
                    reply = await asyncio.to_thread(self._write_files, reply, row.nonce)
                except HoldfastError as error:
                    # A full disk: what was said cannot be kept. Nobody else would tell of this attempt.
                    log.error("a reply was not stored workflow_id=%s error=%s", row.workflow_id, error)
                    began, ended = reply.started_unix_s, reply.ended_unix_s
                    return TaskLost(
                        task=reply.task, attempt=reply.attempt, error=error, started_unix_s=began, ended_unix_s=ended
                    )
        return signal_of_reply(reply, place, listener=listener)

    def _write_files(self, reply: Reply, group: str) -> Reply:
        self._write_objects(reply.objects, group)
        if isinstance(reply, Continued):
            self._launcher.store_code(reply.code)
            return replace(reply, graph=self._store_arguments(reply.graph, group))
        if isinstance(reply, Returned):
            return replace(reply, base=self._store_base(reply.base, group))
        return reply

    def _write_objects(self, objects: Any, group: str) -> None:
        for key, payload in objects.items():
            self._folder.blobs.write(group, payload, name=object_blob(group, key).partition("/")[2])

    def _store_base(self, base: Any, group: str) -> Any:
        if isinstance(base, Referring):
            return Referring(self._store_base(base.base, group), base.objects)
        if _is_large(base):
            return Blob(self._folder.blobs.write(group, base), base.nbytes)
        return base

    def _store_arguments(self, graph: Graph, group: str) -> Graph:
        if not any(_is_large(node.arguments) for node in graph.nodes):
            return graph
        return replace(
            graph,
            nodes=tuple(replace(node, arguments=self._store_base(node.arguments, group)) for node in graph.nodes),
        )

    async def submission(self, request: SubmitRequest) -> Submit:
        """The operation of a request, with what it brought along written first.

        Raises:
            StorageError: It could not be written.
        """
        if self._has_to_wait(request):
            return await asyncio.to_thread(self.stored_submission, request)
        return self.stored_submission(request)

    def _has_to_wait(self, request: SubmitRequest) -> bool:
        """Whether there is anything to be written first."""
        if self._launcher.environment_of(request.environment) is None or self._launcher.lacks(request.code):
            return True
        return self.has_large_parts(request)

    def stored_submission(self, request: SubmitRequest) -> Submit:
        """As `submission`; blocks while there is something to be written."""
        self._launcher.store_code(request.code)
        self._write_objects(request.objects, request.nonce)
        return Submit(
            workflow_id=request.workflow_id,
            graph=self._store_arguments(request.graph, request.nonce),
            nonce=request.nonce,
            user_metadata=request.user_metadata,
            environment=self._launcher.store_environment(request.environment),
            dedicated=request.dedicated,
        )

    async def drop_refused(self, request: SubmitRequest) -> None:
        """Remove what a submission wrote ahead of its workflow, when there is no such workflow."""
        if not self.has_large_parts(request):
            return
        with self._folder.kv.read() as txn:
            row = store.find(txn, request.workflow_id)
        if row is None or row.nonce != request.nonce:
            await asyncio.to_thread(self._folder.blobs.delete_group, request.nonce)

    def store_rule(self, request: SubscribeRequest) -> str:
        """Store the code and the environment that a rule needs; the hash of the environment."""
        self._launcher.store_code(request.code)
        return self._launcher.store_environment(request.environment)

    @staticmethod
    def has_large_parts(request: SubmitRequest) -> bool:
        """Whether a request has a folder of blobs."""
        return bool(request.objects) or any(_is_large(node.arguments) for node in request.graph.nodes)


def _is_large(base: Any) -> bool:
    return isinstance(base, Payload) and base.nbytes > INLINE_BYTES
