"""Processes as the operating system knows them: which are there, by real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.actors.operating_system import Process, this_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads of other processes are counted on Linux only")

# The exit of one thread, which here is the first: it leaves the process to the others.
LEAVES_IT_TO_A_THREAD = """
import ctypes, os, threading, time
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def found(pid: int) -> Process:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Process(pid, int(fields[19]))


def test_a_process_is_there_until_its_last_thread_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", LEAVES_IT_TO_A_THREAD]) as child:
        process = found(child.pid)
        until(lambda: state_of(child.pid) == "Z")
        assert process.alive
        assert process.kill()
        until(lambda: not process.alive)
        # Not reaped yet.
        assert state_of(child.pid) == "Z"


def test_a_number_that_another_process_has_now_is_not_it() -> None:
    assert this_process().alive
    assert not Process(os.getpid(), this_process().started - 1).alive
