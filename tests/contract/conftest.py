"""Stores for the contract suites: every backend behind one fixture, and folders that can run out of space."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast.storage.interface import KeyValueStore
from holdfast.storage.lmdb import LmdbStore
from holdfast.storage.memory import MemoryStore

StoreFactory = Callable[[], KeyValueStore]


@pytest.fixture(params=["memory", "lmdb"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFactory]:
    """Makes empty stores of one backend; they are closed at the end."""
    made: list[KeyValueStore] = []

    def make() -> KeyValueStore:
        store: KeyValueStore
        store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / f"store-{len(made)}")
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(new_store: StoreFactory) -> KeyValueStore:
    return new_store()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    place = tmp_path / "small-disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts scripts in processes of their own; those still alive at the end are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def fill_up() -> Callable[[Path], Path]:
    """Takes the last block of a disk. Returns the file that has it."""

    def fill(disk: Path) -> Path:
        filler = disk / "filler"
        with open(filler, "ab", buffering=0) as file:
            take = partial(file.write, bytes(4096))
            with pytest.raises(OSError, match="No space left"):
                deque(iter(take, 0), maxlen=0)
        return filler

    return fill
