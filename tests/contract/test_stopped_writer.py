"""A process that is stopped while it writes, by real signals."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.storage.lmdb import LmdbStore
from holdfast.storage.stopped_writer import release_stopped_writer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock's owner is found on Linux only")

# Stops itself in the middle of a transaction, twice, as Ctrl-Z would.
WRITER = """
import os, signal, sys
from holdfast.storage.lmdb import LmdbStore
store = LmdbStore(sys.argv[1])
for number in range(2):
    with store.write() as txn:
        txn.put(b"of-the-stopped", str(number).encode())
        os.kill(os.getpid(), signal.SIGSTOP)
signal.pause()
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[int]:
    """A process that holds the writer's lock and is stopped."""
    LmdbStore(tmp_path).close()
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    deadline = time.monotonic() + 30
    while state(process.pid) != "T":
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process.pid
    process.kill()
    process.wait()


def test_a_writer_gets_through_and_the_stopped_one_has_written_and_is_stopped_again(
    stopped: int, tmp_path: Path
) -> None:
    store = LmdbStore(tmp_path)
    with store.write() as txn:
        txn.put(b"of-the-other", b"")
        found = txn.get(b"of-the-stopped")
    # It stops in its second transaction as well, and is let go on in that, too; unless this process
    # was faster between the two, for then it holds the lock no more and is left where it stopped.
    assert found in (b"0", b"1")
    deadline = time.monotonic() + 10
    while state(stopped) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    store.close()


def test_one_that_is_stopped_but_does_not_write_is_left_alone(stopped: int, tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    assert release_stopped_writer(tmp_path) == stopped
    assert state(stopped) == "T"
    assert release_stopped_writer(tmp_path) is None
    store.close()


def test_a_writer_that_runs_is_waited_for(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    with store.write():
        assert release_stopped_writer(tmp_path) is None
    store.close()


def test_nobody_looks_at_a_store_that_is_closed(tmp_path: Path) -> None:
    def watches() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "holdfast-writer-watch"]

    before = watches()
    first, second = LmdbStore(tmp_path), LmdbStore(tmp_path)
    (watch,) = set(watches()) - set(before)
    first.close()
    assert watch.is_alive()
    second.close()
    assert not watch.is_alive()
