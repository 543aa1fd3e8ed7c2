"""Handing a stored value to another process without loading it here.

The actors import no user code: a value that passes through one stays sealed
and becomes itself where Ray unpickles it. Nothing here stores or fetches.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from holdfast.actors.error_values import load_error, load_raised_error
from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.local_frames import NotHereError
from holdfast.actors.user_code import described, what_ended
from holdfast.actors.values import render
from holdfast.engine.errors import HoldfastError, ResultNotLoadableError, StorageMissingError
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.storage.blobs import BlobStore
from holdfast.storage.payload import Payload

_Parts = tuple[Any, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class InFile:
    """A large value that its receiver reads by itself, for it is on the machine of the storage folder.

    Attributes:
        root: The folder of the blobs.
        key: Which one.
        nbytes: Its size.
    """

    root: str
    key: str
    nbytes: int

    def read(self) -> Payload:
        """The value.

        Raises:
            NotHereError: It was deleted meanwhile, with its workflow: ask again, through Ray.
            StorageCorruptError: It is damaged.
        """
        try:
            return _blobs(self.root).read(self.key)
        except StorageMissingError as error:
            raise NotHereError from error


@lru_cache(maxsize=4)
def _blobs(root: str) -> BlobStore:
    return BlobStore(root)


class Sealed:
    """Return this from an actor method: the caller receives the user's value.

    Args:
        payload: The stored base value; of an error when `caught`. In a file only for who can read that.
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
        payload: Payload | InFile,
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
        payload = self._payload
        parts = payload if isinstance(payload, InFile) else _parts(payload)
        return unseal, (parts, objects, self._caught, self._wraps, self._what)


def unseal(parts: _Parts | InFile, objects: Mapping[str, _Parts], caught: bool, wraps: int, what: str) -> Any:
    """Load the value of a `Sealed`; called by pickle in the receiving process.

    Raises:
        ResultNotLoadableError: Its classes cannot be found here, or refuse; names it and the reason.
        NotHereError, StorageCorruptError: As `InFile.read`.
    """
    context = LoadContext(fetch_object=lambda key: Payload(objects[key][0], tuple(objects[key][1])), prefer_import=True)
    payload = parts.read() if isinstance(parts, InFile) else Payload(parts[0], tuple(parts[1]))
    try:
        base = load_error(payload, context) if caught else load(payload, context)
    except HoldfastError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again, from what the user's code was ended by
        raise ResultNotLoadableError(what, described(error)) from what_ended(error)
    return render(base, caught=caught, wraps=wraps)


def _parts(payload: Payload) -> _Parts:
    # A read-back payload is views on a mapped file; pickle carries views as buffers only.
    inband = payload.inband if isinstance(payload.inband, bytes) else pickle.PickleBuffer(payload.inband)
    return inband, [pickle.PickleBuffer(buffer) for buffer in payload.buffers]


@dataclass(frozen=True, slots=True)
class Answer(PlainPickle):
    """How a workflow came out: a value, or the error to raise."""

    value: Sealed | None = None
    error: BaseException | None = None


class SealedError(Exception):
    """A user's error on its way through an actor: becomes itself where it is unpickled."""

    _load: Callable[[Payload], BaseException] = staticmethod(load_error)

    def __init__(self, payload: Payload, said: str = "an error of the user's code") -> None:
        super().__init__(said)
        self._payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return self._load, (self._payload,)


class SealedRaisedError(SealedError):
    """As `SealedError`, for one that is raised where it is unpickled, and not the cause of another."""

    _load = staticmethod(load_raised_error)
