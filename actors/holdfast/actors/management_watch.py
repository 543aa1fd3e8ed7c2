"""An executor's eye on the management actor: one that does not answer is ended, so that Ray starts another.

A process that is stopped does not die, and Ray takes it for alive: timers would
not ring, and nobody would end a stopped executor. A thread does this, for the
executor's event loop may itself be waiting for a lock that the other one holds.
Nothing here writes to the store or drives a workflow.
"""

from __future__ import annotations

import logging
import threading
from concurrent import futures
from typing import Any

from ray.exceptions import RayError

from holdfast.actors import names
from holdfast.actors.operating_system import Process
from holdfast.engine.errors import StorageError
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")

_LOOK_EVERY_S = 2.0


class ManagementWatch:
    """Watches from its making to `close`, or to the end of the process.

    Args:
        kv: The store, which says which process the management actor is. It is one of this node, as its caller is.
        lease_s: Seconds after which it is ended when it does not answer.
        management: Its handle, which is the same after Ray has started it again.
    """

    def __init__(self, kv: KeyValueStore, lease_s: float, management: Any) -> None:
        self._kv, self._lease_s, self._management = kv, lease_s, management
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="holdfast-management-watch", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(_LOOK_EVERY_S, self._lease_s)):
            try:
                asked = self._process()
                # Twice: this process may have been stopped itself, and found the time over when it went on.
                if asked is None or self._answers(self._lease_s / 2) or self._answers(self._lease_s / 2):
                    continue
                # One that has taken the place of the one that was asked has its time before it.
                if not self._over.is_set() and self._process() == asked and asked.kill():
                    log.error(
                        "the management actor has not answered for %g s: process %d was ended",
                        self._lease_s,
                        asked.pid,
                    )
            except StorageError as error:
                log.warning("the management actor cannot be watched: %s", error)

    def _process(self) -> Process | None:
        with self._kv.read() as txn:
            recorded = store.load_setting(txn, names.process_setting(names.MANAGEMENT))
        return None if recorded is None else Process(*recorded)

    def _answers(self, within_s: float) -> bool:
        try:
            # Not by `ray.get`, for which Ray warns everybody: it does not know that this is no thread of an event loop.
            self._management.ping.remote().future().result(within_s)
        except futures.TimeoutError:
            return False
        except RayError as error:
            # It is dead, and being started again or not: there is nothing to end.
            log.debug("the management actor could not be asked: %s", error)
        return True
