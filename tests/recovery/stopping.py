"""Processes stopped by SIGSTOP, inside the store's write lock if that is asked."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.recovery.processes import Process, until

_PROBE = """
import sys
from holdfast.storage.folder import StorageFolder

folder = StorageFolder.open(sys.argv[1], create=False)
for line in sys.stdin:
    with folder.kv.write():
        pass
    print("got it", flush=True)
"""
# Long enough for a busy machine: one that is only slow to get it must not pass for one that cannot.
_FREE_WITHIN_S = 2.5


def stop(process: Process) -> None:
    """Stop it, as a debugger or a full machine might."""
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: process.stopped, "it is stopped")


class LockProbe:
    """A process that asks for the store's write lock, and gives it back. Use it as a context.

    Args:
        storage: The storage folder.
    """

    def __init__(self, storage: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROBE, str(storage)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._waits = False

    def __enter__(self) -> LockProbe:
        assert self.gets_it(30.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def gets_it(self, within_s: float) -> bool:
        """Whether it gets the lock; when not, it goes on asking."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._waits:
            self._process.stdin.write(b"\n")
            self._waits = True
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            return False
        self._process.stdout.readline()
        self._waits = False
        return True

    def stop_inside(self, process: Process) -> None:
        """Stop a process that writes again and again while it has the lock."""

        def caught() -> bool:
            stop(process)
            if not self.gets_it(_FREE_WITHIN_S):
                return True
            os.kill(process.pid, signal.SIGCONT)
            return False

        until(caught, "it is stopped while it writes")
