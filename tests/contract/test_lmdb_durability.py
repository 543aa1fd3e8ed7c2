"""Nothing acknowledged is lost: writers that share an environment are killed at random moments."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.storage.datafile import check_data_file
from holdfast.storage.lmdb import LmdbStore

WRITER = """
import os, sys
from holdfast.storage.lmdb import LmdbStore
path, name = sys.argv[1], sys.argv[2].encode()
store = LmdbStore(path, create=False)
number = 0
while True:
    with store.write() as transaction:
        total = int(transaction.get(b"total") or b"0") + 1
        transaction.put(b"total", b"%d" % total)
        transaction.put(b"%s-%06d-a" % (name, number), b"x" * (number % 50) * 100)
        transaction.put(b"%s-%06d-b" % (name, number), b"y")
    os.write(1, b"%d\\n" % number)
    number += 1
"""


def test_killed_writers_lose_no_acknowledged_commit(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    path = tmp_path / "store"
    LmdbStore(path).close()
    moments = random.Random(7)
    acknowledged: dict[bytes, int] = {}
    started = 0

    def start() -> tuple[bytes, subprocess.Popen[str]]:
        nonlocal started
        started += 1
        name = b"w%03d" % started
        return name, start_python(WRITER, path, name.decode())

    writers = [start() for _ in range(3)]
    for kill in range(60):
        # The first line tells that the writer is at work; the moment after it is left to chance, by design.
        name, victim = writers.pop(0)
        assert victim.stdout is not None
        first = victim.stdout.readline()
        assert first, victim.stderr.read() if victim.stderr else ""
        time.sleep(moments.uniform(0.0, 0.08))
        victim.kill()
        # By the same stream object, which may hold lines already.
        told = (first + victim.stdout.read()).split("\n")
        # The last piece has no newline: nothing, or a line that was cut off.
        acknowledged[name] = len(told) - 1
        if kill < 57:
            writers.append(start())
    assert sum(acknowledged.values()) >= 60

    check_data_file(path / "data.mdb", "here", deep=True)
    store = LmdbStore(path, create=False)
    with store.read() as transaction:
        pairs = 0
        for name, count in acknowledged.items():
            keys = [key for key, _ in transaction.scan(name + b"-")]
            assert len(keys) % 2 == 0, "half of a transaction is there"
            assert keys == [b"%s-%06d-%s" % (name, n, half) for n in range(len(keys) // 2) for half in (b"a", b"b")]
            # One more may have been committed and not yet told.
            assert count <= len(keys) // 2 <= count + 1
            pairs += len(keys) // 2
        assert transaction.get(b"total") == b"%d" % pairs
    with store.write() as transaction:
        transaction.put(b"after", b"all of them")
    store.close()
