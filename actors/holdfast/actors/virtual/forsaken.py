"""Actors whose leases name a host that will not come back: given to the hosts there are, in the caller's transaction.

Nobody but who keeps the hosts may say that one will not come back: what it still writes is refused from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from holdfast.engine.errors import StorageCorruptError
from holdfast.storage import actor_store, leases
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.interface import WriteTransaction

log = logging.getLogger("holdfast")


def give_away(txn: WriteTransaction, gone: Iterable[str], host_of: Callable[[ActorRow], str]) -> dict[str, list[int]]:
    """Give all that some hosts were to take up to others.

    Args:
        txn: The caller's.
        gone: Names of the hosts that will not come back.
        host_of: The host that is to have an actor.

    Returns:
        Numbers of the actors, by the host that each has been given to. It finds them when it looks; tell it, and it
        need not wait for that.
    """
    given: dict[str, list[int]] = {}
    for name in gone:
        for seq in leases.held_by(txn, name):
            try:
                row = actor_store.get(txn, seq)
            except StorageCorruptError as error:
                # It would keep all the others waiting for ever.
                log.error("a virtual actor is not taken up: %s", error)
                row = None
            if row is None:
                leases.put_away(txn, seq, name)
                continue
            host = host_of(row)
            leases.take_lease(txn, seq, host)
            given.setdefault(host, []).append(seq)
    return given
