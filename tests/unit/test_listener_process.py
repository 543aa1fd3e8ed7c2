"""What a listener host is made of: loops that one blocker cannot hold, and a note of who ran at the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.actors.black_box import BlackBox
from holdfast.actors.poll_loops import PollLoops

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def loops() -> PollLoops:
    return PollLoops(lambda key: None)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return uuid.uuid4().hex


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))


def test_results_and_errors_come_back(loops: PollLoops) -> None:
    async def gives():
        await asyncio.sleep(0)
        return 1

    async def raises():
        await asyncio.sleep(0)
        raise LookupError("gone")

    async def cancels_itself():
        raise asyncio.CancelledError

    assert run(loops.run((1, 1), gives)) == 1
    with pytest.raises(LookupError, match="gone"):
        run(loops.run((1, 1), raises))
    with pytest.raises(RuntimeError, match="cancelled itself"):
        run(loops.run((1, 1), cancels_itself))


def test_errors_and_cancellations_reach_the_code_where_it_awaits(loops: PollLoops) -> None:
    async def catches():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(600), 0.01)
        return "went on"

    assert run(loops.run((1, 1), catches)) == "went on"


def test_to_cancel_the_run_is_to_cancel_the_code(loops: PollLoops) -> None:
    began, ended = threading.Event(), threading.Event()

    async def waits():
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    async def cancel():
        running = asyncio.ensure_future(loops.run((1, 1), waits))
        await asyncio.to_thread(began.wait, DEADLINE_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(cancel())
    assert ended.wait(DEADLINE_S)


def test_one_that_blocks_is_left_alone_and_the_others_begin_anew(loops: PollLoops) -> None:
    release, begun = threading.Event(), []

    async def blocks():
        release.wait(DEADLINE_S)
        await asyncio.sleep(0)
        return threading.current_thread()

    async def waits():
        begun.append(threading.current_thread())
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        return threading.current_thread()

    async def both():
        other = asyncio.ensure_future(loops.run((1, 2), waits))
        blocker = asyncio.ensure_future(loops.run((1, 1), blocks))
        fresh = await other
        release.set()
        return fresh, await blocker

    fresh, blocked = run(both())
    assert begun == [blocked, fresh]
    assert fresh is not blocked
    # Its thread ends with it.
    blocked.join(DEADLINE_S)
    assert not blocked.is_alive()


def test_whose_code_runs_is_told_at_every_step() -> None:
    told = []
    loops = PollLoops(told.append)

    async def two_steps():
        await asyncio.sleep(0)

    run(loops.run((3, 4), two_steps))
    assert told == [(3, 4), None, (3, 4), None]


def test_who_ran_when_the_process_died_is_blamed_once(name: str, tmp_path: Path) -> None:
    imports = "import os, sys; from holdfast.actors.black_box import BlackBox"
    dies = f"{imports}; BlackBox(sys.argv[1]).note((5, 6)); os._exit(3)"
    ended = subprocess.run(
        [sys.executable, "-c", dies, name], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False, timeout=DEADLINE_S
    )
    assert ended.returncode == 3
    successor = BlackBox(name)
    assert not successor.take_blame((5, 7))
    assert successor.take_blame((5, 6))
    assert not successor.take_blame((5, 6))
    assert not BlackBox(name).take_blame((5, 6))


def test_nobody_is_blamed_when_nobody_ran(name: str) -> None:
    box = BlackBox(name)
    box.note((0, 0))
    box.note(None)
    assert not BlackBox(name).take_blame((0, 0))
    assert not BlackBox(name).take_blame((-1, 0))


def test_a_file_that_was_cut_short_blames_nobody(name: str, tmp_path: Path) -> None:
    BlackBox(name).note((1, 1))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\0")
    assert not BlackBox(name).take_blame((0, 0))


def test_a_note_costs_next_to_nothing(name: str) -> None:
    box, began = BlackBox(name), time.perf_counter()
    for _ in range(10_000):
        box.note((1, 1))
    assert time.perf_counter() - began < 1.0
