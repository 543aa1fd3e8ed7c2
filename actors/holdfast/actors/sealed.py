"""Handing a stored value to another process without loading it here.

The actors import no user code: a value that passes through one stays sealed
and becomes itself where Ray unpickles it. Nothing here stores or fetches.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.actors.error_values import load_error
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.values import render
from holdfast.engine.errors import HoldfastError, ResultNotLoadableError
from holdfast.storage.payload import Payload

_Parts = tuple[Any, Sequence[Any]]


class Sealed:
    """Return this from an actor method: the caller receives the user's value.

    Args:
        payload: The stored base value; of an error when `caught`.
        objects: Payloads of all objects the value refers to, by key.
        caught: As in `values.render`.
        wraps: As in `values.render`.
        what: What the value is, for the error of a reader who cannot load it.

    Semantics: Ray carries the buffers out of band, so a large array is copied into the object store once and
    read there in place. The user's classes come from the receiver's own modules where it has them.
    """

    __slots__ = ("_caught", "_objects", "_payload", "_what", "_wraps")

    def __init__(
        self,
        payload: Payload,
        objects: Mapping[str, Payload] | None = None,
        *,
        caught: bool = False,
        wraps: int = 0,
        what: str = "the value",
    ) -> None:
        self._payload, self._objects = payload, dict(objects or {})
        self._caught, self._wraps, self._what = caught, wraps, what

    @property
    def nbytes(self) -> int:
        """Bytes of the payloads."""
        return self._payload.nbytes + sum(payload.nbytes for payload in self._objects.values())

    def __reduce_ex__(self, protocol: Any) -> Any:
        objects = {key: _parts(payload) for key, payload in self._objects.items()}
        return unseal, (_parts(self._payload), objects, self._caught, self._wraps, self._what)


def unseal(parts: _Parts, objects: Mapping[str, _Parts], caught: bool, wraps: int, what: str) -> Any:
    """Load the value of a `Sealed`; called by pickle in the receiving process.

    Raises:
        ResultNotLoadableError: Its classes cannot be found here, or refuse; names it and the reason.
    """
    context = LoadContext(fetch_object=lambda key: Payload(objects[key][0], tuple(objects[key][1])), prefer_import=True)
    payload = Payload(parts[0], tuple(parts[1]))
    try:
        base = load_error(payload, context) if caught else load(payload, context)
    except HoldfastError:
        raise
    except Exception as error:
        raise ResultNotLoadableError(what, f"{type(error).__name__}: {error}") from error
    return render(base, caught=caught, wraps=wraps)


def _parts(payload: Payload) -> _Parts:
    # A read-back payload is views on a mapped file; pickle carries views as buffers only.
    inband = payload.inband if isinstance(payload.inband, bytes) else pickle.PickleBuffer(payload.inband)
    return inband, [pickle.PickleBuffer(buffer) for buffer in payload.buffers]
