"""What a listener host is made of: loops that one blocker cannot hold, and a note of who ran at the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.actors.black_box import BlackBox, Blame
from holdfast.actors.host_guard import MEMORY_VARIABLE
from holdfast.actors.memory_limit import memory_limit_bytes
from holdfast.actors.poll_loops import PollLoops
from holdfast.actors.user_code import EndedError

DEADLINE_S = 30.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def loops() -> PollLoops:
    return PollLoops(lambda number, key: None)


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

    assert run(loops.run((1, 1, 0), gives)) == 1
    with pytest.raises(LookupError, match="gone"):
        run(loops.run((1, 1, 0), raises))
    with pytest.raises(EndedError) as ended:
        run(loops.run((1, 1, 0), cancels_itself))
    assert isinstance(ended.value.error, asyncio.CancelledError)


def test_errors_and_cancellations_reach_the_code_where_it_awaits(loops: PollLoops) -> None:
    async def catches():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(600), 0.01)
        return "went on"

    assert run(loops.run((1, 1, 0), catches)) == "went on"


def test_to_cancel_the_run_is_to_cancel_the_code(loops: PollLoops) -> None:
    began, ended = threading.Event(), threading.Event()

    async def waits():
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    async def cancel():
        running = asyncio.ensure_future(loops.run((1, 1, 0), waits))
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
        other = asyncio.ensure_future(loops.run((1, 2, 0), waits))
        blocker = asyncio.ensure_future(loops.run((1, 1, 0), blocks))
        fresh = await other
        release.set()
        return fresh, await blocker

    fresh, blocked = run(both())
    assert begun == [blocked, fresh]
    assert fresh is not blocked
    # Its thread ends with it.
    blocked.join(DEADLINE_S)
    assert not blocked.is_alive()


def test_a_copy_that_was_left_behind_does_not_disturb_the_one_that_began_anew() -> None:
    """It takes its last step in the middle of a step of the new one."""
    blocks_now, begun_anew, both_gave_back = threading.Event(), threading.Event(), threading.Event()
    gave_back: list[int] = []

    def on_step(number: int, key: tuple[int, int, int] | None) -> None:
        if key is None and number == 0 and begun_anew.is_set():
            gave_back.append(number)
            if len(gave_back) == 2:
                both_gave_back.set()

    loops = PollLoops(on_step)

    async def blocks() -> str:
        blocks_now.set()
        assert begun_anew.wait(DEADLINE_S)
        return "the blocker"

    async def waits() -> str:
        if blocks_now.is_set():
            begun_anew.set()
            assert both_gave_back.wait(DEADLINE_S)
            return "the new one"
        while True:
            await asyncio.sleep(0.01)

    async def both() -> list[str]:
        return await asyncio.gather(loops.run((1, 2, 0), waits), loops.run((1, 1, 0), blocks))

    assert run(both()) == ["the new one", "the blocker"]


def test_whose_code_runs_is_told_at_every_step() -> None:
    told = []
    loops = PollLoops(lambda number, key: told.append((number, key)))

    async def two_steps():
        await asyncio.sleep(0)

    run(loops.run((3, 4, 0), two_steps))
    assert told == [(0, (3, 4, 0)), (0, None), (0, (3, 4, 0)), (0, None)]


def test_who_ran_when_the_process_died_is_blamed_for_that_attempt(name: str, tmp_path: Path) -> None:
    imports = "import os, sys; from holdfast.actors.black_box import BlackBox"
    notes = "box.note(0, (5, 6, 0)); box.note(1, (7, 8, 0)); box.note(1, None)"
    dies = f"{imports}; box = BlackBox(sys.argv[1]); {notes}; os._exit(3)"
    ended = subprocess.run(
        [sys.executable, "-c", dies, name], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False, timeout=DEADLINE_S
    )
    assert ended.returncode == 3
    successor = BlackBox(name)
    assert successor.explains
    assert successor.blame_of((5, 6, 0)) is Blame.RAN
    assert [successor.blame_of(other) for other in [(7, 8, 0), (5, 6, 1)]] == [None, None]


def test_a_blame_stands_through_later_deaths_for_its_answer_may_be_lost_with_the_process(name: str) -> None:
    BlackBox(name).note(0, (5, 6, 7))
    BlackBox(name).accuse((8, 9, 1))
    for _ in range(3):
        box = BlackBox(name)
        assert [box.blame_of(key) for key in [(5, 6, 7), (8, 9, 1)]] == [Blame.RAN, Blame.ACCUSED]
    # That is not why the last one died.
    assert not box.explains
    assert box.take_all_blame() == [(5, 6, 7), (8, 9, 1)]
    assert BlackBox(name).take_all_blame() == []


def test_the_oldest_blame_is_forgotten_where_there_are_very_many(name: str) -> None:
    for number in range(1100):
        box = BlackBox(name)
        box.note(0, (number, 0, 0))
    box = BlackBox(name)
    assert [box.blame_of((number, 0, 0)) for number in (0, 1099)] == [None, Blame.RAN]


def test_all_that_ran_are_blamed_unless_one_is_known_to_be_at_fault(name: str) -> None:
    BlackBox(name).note(0, (1, 1, 0))
    box = BlackBox(name)
    assert box.blame_of((1, 1, 0))
    for slot in (0, 1, 300):
        box.note(slot, (slot, slot, 0))
    box = BlackBox(name)
    assert box.explains
    assert [box.blame_of((slot, slot, 0)) for slot in (0, 1, 300)] == [Blame.RAN] * 3
    box.note(0, (0, 0, 1))
    box.accuse((9, 9, 1))
    box.note(1, (1, 1, 1))
    box = BlackBox(name)
    assert [box.blame_of((number, number, 1)) for number in (0, 1, 9)] == [None, None, Blame.ACCUSED]


def test_whose_steps_make_the_process_grow_is_known(loops: PollLoops) -> None:
    held = []

    async def grows():
        held.append(bytearray(64 * MIB))
        within_a_step = loops.hungriest()
        await asyncio.sleep(0)
        held.append(bytearray(32 * MIB))
        await asyncio.sleep(0)
        found = loops.hungriest()
        held.clear()
        return within_a_step, found

    async def waits():
        await asyncio.sleep(0.1)

    async def both():
        _, found = await asyncio.gather(loops.run((1, 1, 0), waits), loops.run((1, 2, 0), grows))
        return found

    (key_within, grown_within), (key, grown) = run(both())
    assert key_within == key == (1, 2, 0)
    assert grown_within > 60 * MIB
    assert grown > 90 * MIB
    assert loops.hungriest() is None


GUARDED = """
import asyncio, ctypes, os, sys
from holdfast.actors.black_box import BlackBox
from holdfast.actors.host_guard import HostGuard
from holdfast.actors.poll_loops import PollLoops
from holdfast.actors.user_code import EndedError

box = BlackBox(sys.argv[1])
guard = HostGuard(box, limit_bytes=int(sys.argv[2]), frozen_s=3.0)
loops = PollLoops(box.note, guard.look)
held = []

async def innocent():
    while True:
        await asyncio.sleep(0.001)

async def leaks():
    while True:
        held.append(bytearray(4 << 20))
        await asyncio.sleep(0.005)

async def freezes():
    # Nothing in here gives Python's lock back.
    ctypes.PyDLL(None).sleep(3600)

async def main():
    await asyncio.gather(loops.run((1, 1, 0), innocent), loops.run((6, 6, 0), globals()[sys.argv[3]]))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("does", "limit", "said", "blame"),
    [("leaks", 256, "memory", Blame.ACCUSED), ("freezes", 4096, "Timeout", Blame.RAN)],
)
def test_one_that_leaks_or_freezes_ends_the_process_and_is_blamed(
    name: str, tmp_path: Path, does: str, limit: int, said: str, blame: Blame
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", GUARDED, name, str(limit * MIB), does],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * DEADLINE_S,
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    successor = BlackBox(name)
    assert successor.blame_of((6, 6, 0)) is blame
    assert successor.blame_of((1, 1, 0)) is None


def test_the_memory_limit_is_a_quarter_of_the_machine_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEMORY_VARIABLE, raising=False)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_limit_bytes(MEMORY_VARIABLE) <= machine // 4
    monkeypatch.setenv(MEMORY_VARIABLE, "300")
    assert memory_limit_bytes(MEMORY_VARIABLE) == 300 * MIB
    monkeypatch.setenv(MEMORY_VARIABLE, "much")
    with pytest.raises(ValueError, match="much"):
        memory_limit_bytes(MEMORY_VARIABLE)


def test_nobody_is_blamed_when_nobody_ran(name: str) -> None:
    box = BlackBox(name)
    box.note(0, (0, 0, 0))
    box.note(0, None)
    # Whoever runs for no listener will not come to be told.
    box.note(1, (-1, 0, 0))
    box = BlackBox(name)
    assert not box.explains
    assert not box.blame_of((0, 0, 0))


def test_a_file_that_was_cut_short_blames_nobody(name: str, tmp_path: Path) -> None:
    BlackBox(name).note(0, (1, 1, 0))
    (file,) = tmp_path.glob("*/*")
    file.write_bytes(b"\0")
    assert not BlackBox(name).blame_of((0, 0, 0))
