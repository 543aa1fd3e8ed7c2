"""Shows that a refusal has left nothing behind, and waits for what is to come true."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray

from holdfast import workflow
from holdfast.storage.folder import StorageFolder

_T = TypeVar("_T")


def contents(folder: Path) -> dict[str, Any]:
    """All that a platform holds: rows, blobs, workflows, named actors."""
    opened = StorageFolder.open(folder, create=False)
    try:
        with opened.kv.read() as txn:
            rows = {bytes(key): bytes(value) for key, value in txn.scan(b"")}
        groups = opened.blobs.groups()
    finally:
        opened.close()
    actors = sorted(entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True))
    return {"rows": rows, "blobs": groups, "workflows": workflow.list_all(), "actors": actors}


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """What is inside changes nothing of what the platform holds."""
    # Answered by every executor: one that is just starting still writes down who it is.
    workflow.platform_status()
    before = contents(folder)
    yield
    assert contents(folder) == before


def until(condition: Callable[[], _T], deadline_s: float = 30.0) -> _T:
    """Ask again and again until the answer is true; the answer."""
    end = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {deadline_s:g} s"
        time.sleep(0.01)
    return answer
