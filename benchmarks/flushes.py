"""What a measurement has made durable: transactions of its store, and flushes of the disk below it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from holdfast.storage.folder import StorageFolder

_FLUSHES_AT = 15


@dataclass(frozen=True, slots=True)
class Flushed:
    """Counts, from some beginning on.

    Attributes:
        commits: Transactions of the store, of all processes. Each is over when the disk has been flushed twice.
        disk_flushes: Of the whole disk, whoever asked for them; None where the system does not count them.
    """

    commits: int
    disk_flushes: int | None

    def since(self, before: Flushed) -> Flushed:
        """What has come since an earlier count."""
        known = self.disk_flushes is not None and before.disk_flushes is not None
        return Flushed(
            self.commits - before.commits, (self.disk_flushes or 0) - (before.disk_flushes or 0) if known else None
        )


def count(storage: str) -> Flushed:
    """The counts of the storage folder at a path."""
    with closing(StorageFolder.open(storage, create=False)) as folder:
        return Flushed(folder.kv.commits(), _disk_flushes(Path(storage)))


def _disk_flushes(path: Path) -> int | None:
    device = os.stat(path).st_dev
    found = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if (found / "partition").exists():
        found = found.parent
    try:
        fields = (found / "stat").read_text().split()
    except FileNotFoundError:
        # In memory, or one layer above a disk.
        return None
    return int(fields[_FLUSHES_AT]) if len(fields) > _FLUSHES_AT else None
