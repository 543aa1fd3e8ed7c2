"""A process that is stopped while it writes, by real signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.storage import freezer, lock_owner, stopped_writer
from holdfast.storage.lmdb import LmdbStore
from holdfast.storage.lock_owner import Marks, Owner
from holdfast.storage.stopped_writer import STILL_LOOKS, Suspicion, release_stopped_writer

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


# Does one thing in the middle of a transaction, and says that it is there.
HOLDER = """
import signal, sys, time
from holdfast.storage.lmdb import LmdbStore
store = LmdbStore(sys.argv[1])
with store.write() as txn:
    txn.put(b"of-the-holder", b"")
    print("holds", flush=True)
    {act}
signal.pause()
"""
MOVES, DOES_NOTHING = "while True: time.sleep(0.001)", "signal.pause()"
GOES_ON_WHEN_TOLD = "sys.stdin.readline()"
IDLE = """
import signal, sys
from holdfast.storage.lmdb import LmdbStore
store = LmdbStore(sys.argv[1])
print("open", flush=True)
signal.pause()
"""

# Holds a process in a debugger, from its transaction on.
TRACER = """
import ctypes, subprocess, sys
holder = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdout=subprocess.PIPE, text=True)
holder.stdout.readline()
trace = ctypes.CDLL(None, use_errno=True).ptrace
SEIZE, INTERRUPT = 0x4206, 0x4207
if trace(SEIZE, holder.pid, None, None) or trace(INTERRUPT, holder.pid, None, None):
    sys.exit(f"errno {ctypes.get_errno()}")
print(holder.pid, flush=True)
sys.stdin.read()
holder.kill()
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


Start = Callable[..., subprocess.Popen[str]]


def holder(start_python: Start, folder: Path, act: str) -> subprocess.Popen[str]:
    """A process that holds the writer's lock."""
    LmdbStore(folder).close()
    process = start_python(HOLDER.format(act=act), folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def end_of(process: subprocess.Popen[str]) -> int:
    return process.wait(30)


def write(store: LmdbStore) -> None:
    with store.write() as txn:
        txn.put(b"of-the-other", b"")


def test_a_writer_in_a_debugger_is_ended_and_the_next_one_gets_through(
    start_python: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped_writer, "STILL_LOOKS", 2)
    LmdbStore(tmp_path).close()
    tracer = start_python(TRACER, tmp_path, HOLDER.format(act=MOVES))
    assert tracer.stdout is not None
    held = int(tracer.stdout.readline())
    deadline = time.monotonic() + 30
    while state(held) != "t":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store = LmdbStore(tmp_path)
    write(store)
    with store.read() as txn:
        assert txn.get(b"of-the-holder") is None
    store.close()
    tracer.communicate(timeout=30)


def test_a_writer_that_does_nothing_is_ended_after_so_many_looks_and_not_before(
    start_python: Start, tmp_path: Path
) -> None:
    process, store = holder(start_python, tmp_path, DOES_NOTHING), LmdbStore(tmp_path)
    deadline = time.monotonic() + 30
    while state(process.pid) != "S":
        assert time.monotonic() < deadline
    suspicion = Suspicion(tmp_path)
    assert [suspicion.look() for _ in range(STILL_LOOKS + 1)] == [None] * STILL_LOOKS + [process.pid]
    assert end_of(process) == -signal.SIGKILL
    write(store)
    assert suspicion.look() is None
    store.close()


def test_a_writer_that_moves_is_never_ended(start_python: Start, tmp_path: Path) -> None:
    process, store = holder(start_python, tmp_path, MOVES), LmdbStore(tmp_path)
    suspicion = Suspicion(tmp_path)
    for _ in range(3 * STILL_LOOKS):
        before = lock_owner.marks_of(Owner(process.pid, process.pid))
        while lock_owner.marks_of(Owner(process.pid, process.pid)) == before:
            assert process.poll() is None
        assert suspicion.look() is None
    process.kill()
    write(store)
    store.close()


@pytest.mark.parametrize(
    ("letter", "frozen", "waited_for"), [("D", False, True), ("R", False, True), ("D", True, False)]
)
def test_a_writer_that_waits_for_its_disk_or_a_cpu_is_waited_for_unless_it_is_frozen(
    start_python: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    letter: str,
    frozen: bool,
    waited_for: bool,
) -> None:
    process, store = holder(start_python, tmp_path, DOES_NOTHING), LmdbStore(tmp_path)
    marks = Marks(letter, (1, 1), 1, frozen)
    monkeypatch.setattr(lock_owner, "marks_of", lambda _: marks)
    suspicion = Suspicion(tmp_path)
    ended = [suspicion.look() for _ in range(STILL_LOOKS + 1)]
    assert any(ended) is not waited_for
    process.kill()
    store.close()


def test_a_process_whose_number_only_happens_to_be_in_the_lock_file_is_never_ended(
    start_python: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, store = holder(start_python, tmp_path, DOES_NOTHING), LmdbStore(tmp_path)
    lock_file = tmp_path / "lock.mdb"
    assert [owner.process for owner in lock_owner.owners(lock_file)] == [process.pid]
    process.kill()
    write(store)
    assert lock_owner.owners(lock_file) == []
    idle = start_python(IDLE, tmp_path)
    assert idle.stdout is not None
    assert idle.stdout.readline() == "open\n"
    # As the number of a transaction, say.
    monkeypatch.setattr(lock_owner, "_head", lambda _: (0, 0, idle.pid, 1, 0, 0, 0x90, 0, 0))
    assert [owner.process for owner in lock_owner.owners(lock_file, sure=False)] == [idle.pid]
    assert lock_owner.owners(lock_file) == []
    store.close()


class Group:
    """A control group with a freezer, of the first or of the second kind."""

    def __init__(self, kind: str) -> None:
        root = freezer._mount(kind, "freezer" if kind == "cgroup" else "")
        self.path = (root or Path("/nonexistent")) / f"holdfast-test-{os.getpid()}"
        self.control, self.frozen, self.thawed = (
            ("freezer.state", "FROZEN", "THAWED") if kind == "cgroup" else ("cgroup.freeze", "1", "0")
        )

    def make(self) -> None:
        try:
            self.path.mkdir()
            assert (self.path / self.control).exists()
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")

    def take_in(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        (self.path / self.control).write_text(self.frozen)

    @property
    def is_frozen(self) -> bool:
        return (self.path / self.control).read_text().strip() == self.frozen

    def remove(self) -> None:
        if self.path.exists():
            (self.path / self.control).write_text(self.thawed)
            for pid in (self.path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            deadline = time.monotonic() + 30
            while self.path.exists():
                assert time.monotonic() < deadline
                # Busy for as long as one of its processes is ending.
                with suppress(OSError):
                    self.path.rmdir()
                time.sleep(0.01)


@pytest.fixture(params=["cgroup", "cgroup2"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(request.param)
    made.make()
    yield made
    made.remove()


def test_a_frozen_writer_is_thawed_until_it_has_written_and_frozen_again(
    start_python: Start, tmp_path: Path, group: Group
) -> None:
    process, store = holder(start_python, tmp_path, GOES_ON_WHEN_TOLD), LmdbStore(tmp_path)
    group.take_in(process.pid)
    group.freeze()
    assert freezer.freezing(process.pid)
    assert not freezer.freezing(os.getpid())
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    write(store)
    with store.read() as txn:
        assert txn.get(b"of-the-holder") == b""
    deadline = time.monotonic() + 10
    while not group.is_frozen:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert process.poll() is None
    store.close()


def test_a_frozen_writer_that_this_user_may_not_thaw_is_ended(
    start_python: Start, tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(control: Path, _: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(control))

    monkeypatch.setattr(freezer, "_write", refuse)
    process, store = holder(start_python, tmp_path, MOVES), LmdbStore(tmp_path)
    group.take_in(process.pid)
    group.freeze()
    deadline = time.monotonic() + 30
    while not (marks := lock_owner.marks_of(Owner(process.pid, process.pid))) or not marks.frozen:
        assert time.monotonic() < deadline
    assert release_stopped_writer(tmp_path) is None
    suspicion, ended = Suspicion(tmp_path), []
    # The last of its threads may take a moment to stand still.
    while not ended:
        assert time.monotonic() < deadline
        ended = [one for _ in range(STILL_LOOKS + 1) if (one := suspicion.look())]
    assert ended == [process.pid]
    if group.control == "freezer.state":
        # The first kind lets nobody die before it is thawed.
        (group.path / group.control).write_text(group.thawed)
    assert end_of(process) == -signal.SIGKILL
    write(store)
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
