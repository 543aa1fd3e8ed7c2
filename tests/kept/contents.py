"""What is in a kept folder: made once, and asked for again by every later commit."""

from __future__ import annotations

import importlib
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ray

from holdfast import workflow

FOLDERS = Path(__file__).with_name("folders")
STORAGE, MADE = "storage", "made.json"

LARGE = b"large" * 20_000
"""An argument above 64 KiB, which is stored as a file."""

PARTY = datetime(2100, 1, 1, tzinfo=timezone.utc)

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "nightly": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
    "hourly": {"every_s": 3600},
    "paused": {"cron": "15 0 1 * 1,3", "timezone": "America/New_York"},
    "decades": {"every_s": 1e9, "overlap": "queue", "catch_up_s": 60},
    "party": {"at": PARTY, "overlap": "allow", "coalesce": False},
}
"""The first two come due when the folder is opened, once each; the others do not in a long time."""

NOT_DUE = ("paused", "decades", "party")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was so when a folder was made.

    Attributes:
        python: Its minor version.
        ray: Its version.
        schedules: When each is due, in seconds since the epoch.
        reminder: What was said of the reminder.
        letter: The number of the dead letter.
    """

    python: str
    ray: str
    schedules: dict[str, float]
    reminder: str
    letter: int

    def write(self, folder: Path) -> None:
        """Put it beside the storage."""
        (folder / MADE).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Made:
        """What was put there."""
        return cls(**json.loads((folder / MADE).read_text()))


def python_version() -> str:
    """The minor version that code by value is good for."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def schedule(code: Any, name: str) -> None:
    """Make a schedule, or the same again."""
    workflow.schedule(name, ray.remote(code.nothing).bind(), **SCHEDULES[name])


@contextmanager
def installed(folder: Path) -> Iterator[tuple[Any, Path]]:
    """Install the code of kept folders, as a package manager would; the module, and the path it is imported from."""
    packages = folder / "site-packages"
    packages.mkdir()
    (packages / "kept_code.py").write_bytes(Path(__file__).with_name("kept_code.py").read_bytes())
    sys.path.insert(0, str(packages))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module("kept_code"), packages
    finally:
        sys.path.remove(str(packages))
        sys.modules.pop("kept_code", None)


def unpack(packed: Path, folder: Path) -> Path:
    """Unpack a kept folder, with the permissions that its files had when any user might read them; its path."""
    with tarfile.open(packed) as archive:
        archive.extractall(folder)
    storage = folder / STORAGE
    for path in (storage, *storage.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return storage
