"""When a host looks for blobs of virtual actors that no row names: after an actor's rest, and after its own death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from holdfast.storage.actor_blobs import collect_all, find_left_behind
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.folder import StorageFolder

IDLE_S = 30.0
"""How long an actor has rested, in seconds, when it is put away."""

_COLLECT_AFTER_S = 60.0


class BlobCollector:
    """Looks in a thread of its own.

    Args:
        loop: The loop that all of this is called on.
        folder: The storage folder.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: StorageFolder) -> None:
        self._loop, self._folder = loop, folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="holdfast-collector")
        self._closed = False

    def rested(self, seqs: Sequence[int]) -> None:
        """Actors have been put away: remove what no row names of them, in a while."""
        # What they were brought before that, and is in no row by then, is on its way no more.
        self._loop.call_later(_COLLECT_AFTER_S, self._collect, seqs, time.time() - IDLE_S)

    def _collect(self, seqs: Sequence[int], before_unix_s: float) -> None:
        if not self._closed:
            self._thread.submit(collect_all, self._folder, seqs, before_unix_s)

    def after_death(self, take_up: Callable[[ActorRow], None]) -> None:
        """This process follows one that died: have the actors taken up that seem to have been left something.

        Args:
            take_up: Has an actor taken up by the host it belongs to, which removes what is left when it rests there.
                Called on the loop.

        Semantics: one that rested in the dead process, too, which nobody takes up otherwise. Removes no blob itself:
            what seems to be left may be on its way in another host.
        """
        self._thread.submit(self._look, take_up, time.time())

    def _look(self, take_up: Callable[[ActorRow], None], before_unix_s: float) -> None:
        for row in find_left_behind(self._folder, before_unix_s):
            if self._closed:
                return
            self._loop.call_soon_threadsafe(take_up, row)

    def close(self) -> None:
        """Begin nothing more."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
