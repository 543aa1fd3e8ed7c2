"""One live platform per folder, whatever its processes die of."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageLockedError, StorageNotWritableError
from holdfast.storage.platform_lock import PlatformLock, was_last_held_by

Start = Callable[..., "subprocess.Popen[str]"]

HOLD = """
import sys
from holdfast.storage.platform_lock import PlatformLock, was_last_held_by
lock = PlatformLock(sys.argv[1])
getattr(lock, sys.argv[2])(sys.argv[3])
print("held", flush=True)
sys.stdin.readline()
"""


def hold(start_python: Start, folder: Path, how: str, platform_id: str) -> subprocess.Popen[str]:
    process = start_python(HOLD, folder, how, platform_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_naming_the_first(tmp_path: Path, start_python: Start) -> None:
    holder = hold(start_python, tmp_path, "acquire", "one")
    for platform_id in ("two", "one"):
        lock = PlatformLock(tmp_path)
        with pytest.raises(StorageLockedError) as refused:
            lock.acquire(platform_id)
        assert f"process {holder.pid} on host {socket.gethostname()!r} (platform 'one')" in str(refused.value)
        assert not lock.held


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_dead_process_holds_nothing(tmp_path: Path, start_python: Start, end: str) -> None:
    holder = hold(start_python, tmp_path, "acquire", "one")
    if end == "kill":
        holder.kill()
        holder.wait()
    else:
        holder.communicate("\n", timeout=30)
    lock = PlatformLock(tmp_path)
    lock.acquire("two")
    assert lock.held
    lock.release()


def test_a_platform_restarts_while_its_members_live_and_another_waits_for_their_end(
    tmp_path: Path, start_python: Start
) -> None:
    first = hold(start_python, tmp_path, "acquire", "one")
    member = hold(start_python, tmp_path, "join", "one")
    first.kill()
    first.wait()

    other = PlatformLock(tmp_path)
    with pytest.raises(StorageLockedError, match=f"still live; .*process {member.pid} "):
        other.acquire("two")

    restarted = PlatformLock(tmp_path)
    restarted.acquire("one")
    second_member = PlatformLock(tmp_path)
    second_member.join("one")
    restarted.release()

    member.kill()
    member.wait()
    with pytest.raises(StorageLockedError, match="still live"):
        other.acquire("two")
    second_member.release()
    other.acquire("two")
    with pytest.raises(StorageLockedError, match=r"'one' cannot join: .*platform 'two'"):
        second_member.join("one")
    second_member.join("two")
    second_member.release()
    other.release()


def test_nobody_joins_a_folder_without_a_platform(tmp_path: Path) -> None:
    lock = PlatformLock(tmp_path)
    with pytest.raises(StorageLockedError, match="no platform yet"):
        lock.join("one")
    lock.acquire("one")
    with pytest.raises(RuntimeError, match="already holds"):
        lock.join("one")
    lock.release()
    lock.release()


def test_a_lock_file_cut_off_in_the_middle_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_bytes(b'{"pid": 1, "ho')
    lock = PlatformLock(tmp_path)
    lock.acquire("one")
    with pytest.raises(StorageLockedError, match=f"process {os.getpid()} "):
        PlatformLock(tmp_path).acquire("one")
    lock.release()


@pytest.mark.parametrize("how", ["acquire", "join"])
@pytest.mark.parametrize("child", ["fork", "subprocess"])
def test_a_child_does_not_inherit_the_claim(tmp_path: Path, start_python: Start, how: str, child: str) -> None:
    script = """
import os, signal, subprocess, sys
from holdfast.storage.platform_lock import PlatformLock, was_last_held_by
lock = PlatformLock(sys.argv[1])
if sys.argv[2] == "join":
    starter = PlatformLock(sys.argv[1])
    starter.acquire("one")
    starter.release()
getattr(lock, sys.argv[2])("one")
if sys.argv[3] == "fork":
    pid = os.fork()
    if pid == 0:
        assert not lock.held
        lock.release()
        print("child", os.getpid(), flush=True)
        os.read(0, 1)
        os._exit(0)
else:
    code = "import os; print('child', os.getpid(), flush=True); os.read(0, 1)"
    subprocess.Popen([sys.executable, "-c", code])
signal.pause()
"""
    parent = start_python(script, tmp_path, how, child)
    assert parent.stdout is not None
    word, pid = parent.stdout.readline().split()
    assert word == "child"
    # The child has closed its copies by now, and the claim stands.
    with pytest.raises(StorageLockedError):
        PlatformLock(tmp_path).acquire("two")
    parent.kill()
    parent.wait()
    os.kill(int(pid), 0)
    lock = PlatformLock(tmp_path)
    lock.acquire("two")
    lock.release()


def test_a_folder_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageNotWritableError):
        PlatformLock(tmp_path / "file").acquire("one")


def test_it_is_known_who_had_a_folder_last(tmp_path: Path) -> None:
    assert not was_last_held_by(tmp_path / "none", "one")
    assert not was_last_held_by(tmp_path, "one")
    for platform_id in ("one", "two"):
        lock = PlatformLock(tmp_path)
        lock.acquire(platform_id)
        lock.release()
    assert [was_last_held_by(tmp_path, platform_id) for platform_id in ("one", "two")] == [False, True]
