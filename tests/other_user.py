"""Another user of this machine: a function that runs in a child of this process, as `nobody`."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")


def as_nobody(act: Callable[[], Any]) -> Any:
    """What a function returns as that user; an OSError that it raises is returned.

    The child has all its modules before it changes: that user need not be able to read them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                outcome = act()
            except OSError as error:
                outcome = error
            os.write(writing, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(child, 0)
    assert raw, "the other user's function came to no end"
    return pickle.loads(raw)


def readable(folder: Path) -> Path:
    """A folder that any user can enter, on the whole way to it."""
    for part in (folder, *folder.parents):
        if part.stat().st_uid == os.geteuid() and part != Path("/"):
            part.chmod(part.stat().st_mode | 0o055)
    return folder
