"""Where actors answer over a local socket, as far as this process has heard."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

_FIND_AGAIN_S = 5.0


@dataclass(slots=True)
class _Known:
    """An address as it was last heard of."""

    address: str
    asked_s: float


class LocalAddresses:
    """Any thread may use it. An actor is whatever its caller knows it by."""

    def __init__(self) -> None:
        self._known: dict[Any, _Known] = {}
        self._lock = threading.Lock()

    def find(self, actor: Any) -> str | None:
        """The address of an actor; empty: there is none just now; None: it is to be asked."""
        known = self._known.get(actor)
        if known is None or (not known.address and time.monotonic() - known.asked_s > _FIND_AGAIN_S):
            return None
        return known.address

    def know(self, actor: Any, address: str) -> None:
        """Learn where an actor answers: it has said so itself. Empty: nowhere."""
        with self._lock:
            known = self._known.get(actor)
            if known is None or known.address != address or not address:
                self._known[actor] = _Known(address, time.monotonic())

    def forget(self, actor: Any, address: str) -> None:
        """It is not there any more. Its successor has another address, which is asked for a little later."""
        with self._lock:
            known = self._known.get(actor)
            if known is not None and known.address == address:
                self._known[actor] = _Known("", time.monotonic())
