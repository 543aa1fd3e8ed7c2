"""The disk of a simulated machine: a memory store that fails or takes its process down at a commit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from types import TracebackType

from holdfast.engine.errors import StorageFullError
from holdfast.storage.interface import ReadTransaction, WriteTransaction
from holdfast.storage.memory import MemoryStore, Operation


class CrashError(BaseException):
    """The process is killed here. Nothing catches it but the world around the process."""


class Fate(Enum):
    """What becomes of a commit."""

    DONE = "it is durable"
    KILLED_BEFORE = "the process dies and nothing was written"
    KILLED_AFTER = "it is durable, and the process dies before it knows"
    FULL = "no space: nothing was written, the process lives"
    FORGOTTEN = "nothing was written and nobody is told; no disk of ours, but one of the deliberate faults"


class Disk:
    """A `KeyValueStore` whose commits have a fate.

    Attributes:
        store: What is on it.
        fate: Asked once for each commit.
    """

    def __init__(self, fate: Callable[[], Fate], on_commit: Callable[[tuple[Operation, ...]], None]) -> None:
        self.store = MemoryStore(on_commit=on_commit)
        self.fate = fate
        self.url = self.store.url

    def read(self) -> AbstractContextManager[ReadTransaction]:
        return self.store.read()

    def write(self) -> _Writing:
        return _Writing(self)

    def close(self) -> None:
        self.store.close()


class _Writing:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._transaction = disk.store.write()

    def __enter__(self) -> WriteTransaction:
        return self._transaction.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._transaction.__exit__(kind, error, trace)
            return
        fate = self._disk.fate()
        undone = _undone(fate, self._disk.url)
        if undone is None:
            self._transaction.__exit__(None, None, None)
        else:
            self._transaction.__exit__(type(undone), undone, None)
            if fate is not Fate.FORGOTTEN:
                raise undone
        if fate is Fate.KILLED_AFTER:
            raise CrashError


def _undone(fate: Fate, url: str) -> BaseException | None:
    if fate in (Fate.KILLED_BEFORE, Fate.FORGOTTEN):
        return CrashError()
    return StorageFullError(url, "no space", "Make room.") if fate is Fate.FULL else None
