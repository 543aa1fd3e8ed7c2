"""Tells executors that there are events for workflows of theirs.

What is to be told stands as rows in the store until the executor has acted upon
it, so nothing is lost by whoever dies; telling again costs one look. One call at
a time to each executor, with all that came up meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.storage import event_readers
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")

_AT_ONCE = 500
_PENDING_AT_ONCE = 2000


class Waker:
    """Wakes workflows by number.

    Args:
        kv: The store.
    """

    def __init__(self, kv: KeyValueStore) -> None:
        self._kv = kv
        self._waiting: dict[str, dict[int, None]] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._seen: frozenset[tuple[str, int]] = frozenset()
        self._handles: dict[str, Any] = {}

    def wake(self, seqs: Iterable[int]) -> None:
        """Tell of these, soon."""
        with self._kv.read() as txn:
            self._tell(event_readers.executors_of(txn, tuple(seqs)))

    def wake_pending(self) -> None:
        """Tell again of what still stands in the store since the last call: whoever was told may have died."""
        with self._kv.read() as txn:
            pending = frozenset(event_readers.pending_wakes(txn, _PENDING_AT_ONCE))
        self._tell(pending & self._seen)
        self._seen = pending

    def _tell(self, wakes: Iterable[tuple[str, int]]) -> None:
        for executor, seq in wakes:
            self._waiting.setdefault(executor, {})[seq] = None
            if executor not in self._telling:
                self._telling[executor] = asyncio.get_running_loop().create_task(self._tell_all(executor))

    async def _tell_all(self, executor: str) -> None:
        try:
            while waiting := self._waiting.get(executor):
                seqs = list(waiting)[:_AT_ONCE]
                for seq in seqs:
                    del waiting[seq]
                handle = self._handles.get(executor)
                if handle is None:
                    # Asks Ray's own store, and waits for the answer: not each time.
                    handle = self._handles[executor] = ray.get_actor(executor, namespace=names.NAMESPACE)
                await handle.wake.remote(seqs)
        except (RayError, ValueError) as error:
            # It is being started again, or has ended; the rows are there, and are told of again.
            log.info("executor %s could not be told of events: %s", executor, error)
            self._waiting.pop(executor, None)
            self._handles.pop(executor, None)
        finally:
            del self._telling[executor]
