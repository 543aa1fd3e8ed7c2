"""One listener among others misbehaves, in real processes: whom it harms, for how long, and what is said of it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors.host_guard import MEMORY_VARIABLE
from tests.integration.traces import mark, marks, put
from tests.recovery.processes import of_role, replaced, the_one, until

LIMIT_MIB = 400
OTHERS = 20
ANSWER_S = 120.0


@pytest.fixture(scope="module")
def small_hosts(ray_of_others_is_over: None) -> Iterator[None]:
    """The hosts of a Ray that is started after this may have little memory; no other module is to get that Ray."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MEMORY_VARIABLE, str(LIMIT_MIB))
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local_ray(small_hosts: None, local_ray: None) -> None:
    """This module's Ray, started in that order."""


@pytest.fixture(autouse=True)
def fresh_platform(storage: Path) -> None:
    """Hosts of its own for each test."""


class Patient(workflow.EventListener):
    """Polls for a file; notes in which process it begins."""

    async def poll_for_event(self, path, began):
        mark(began, str(os.getpid()))
        while not os.path.exists(path):
            await asyncio.sleep(0.05)
        return Path(path).read_text()


class Misbehaves(workflow.EventListener):
    """Does what it is told to, each time it is asked."""

    async def poll_for_event(self, does, tries):
        mark(tries, str(os.getpid()))
        match does:
            case "exits":
                os._exit(3)
            case "kills itself":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freezes":
                # Nothing in here gives Python's lock back, so no other thread of the process runs.
                ctypes.PyDLL(None).sleep(3600)
            case "blocks":
                # Gives the lock back, but not its thread.
                while True:
                    time.sleep(0.1)
            case "leaks step by step":
                held = []
                while True:
                    held.append(bytearray(16 << 20))
                    await asyncio.sleep(0.02)
            case "leaks in one step":
                held = []
                while True:
                    held.append(bytearray(16 << 20))
                    time.sleep(0.02)
            case "exits in a thread":
                threading.Timer(0.3, os._exit, (3,)).start()
                await asyncio.sleep(600)


class Others:
    """Listeners that do nothing wrong, each in a workflow of its own."""

    def __init__(self, folder: Path, count: int = OTHERS) -> None:
        self._folder, self._count = folder, count
        self._references = [
            workflow.run_async(
                workflow.wait_for_event(Patient, str(folder / "gate"), self._began(at)), workflow_id=f"other-{at}"
            )
            for at in range(count)
        ]
        until(lambda: min(self.hosts()) == 1, "the others poll", ANSWER_S)

    def _began(self, at: int) -> str:
        return str(self._folder / f"began-{at}")

    def hosts(self) -> list[int]:
        """In how many processes each has polled: what a loop that is blocked makes begin anew stays in its process."""
        return [len(set(marks(self._began(at)))) for at in range(self._count)]

    def get_their_events(self) -> None:
        """None of them has failed, and what they wait for reaches them."""
        put(self._folder / "gate", "fine")
        assert ray.get(self._references, timeout=ANSWER_S) == ["fine"] * self._count


def misbehave(does: str, folder: Path, workflow_id: str = "bad") -> Any:
    waiting = workflow.wait_for_event(Misbehaves, does, str(folder / f"tries-{workflow_id}"))
    return workflow.run_async(waiting, workflow_id=workflow_id)


def cause_of(reference: Any) -> BaseException | None:
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        ray.get(reference, timeout=2 * ANSWER_S)
    return caught.value.__cause__


def fails_alone_at_the_fourth_time(does: str, folder: Path, says: str) -> None:
    others = Others(folder)
    cause = cause_of(misbehave(does, folder))
    assert isinstance(cause, workflow.exceptions.WorkerLostError)
    assert "Misbehaves" in str(cause)
    assert says in str(cause)
    assert len(set(marks(folder / "tries-bad"))) == 4
    # Once it took the host of all with it; after that it was in a ward.
    until(lambda: min(others.hosts()) == 2, "the others have begun anew", ANSWER_S)
    others.get_their_events()
    assert others.hosts() == [2] * OTHERS


@pytest.mark.parametrize("does", ["exits", pytest.param("kills itself", marks=pytest.mark.slow)])
def test_one_that_ends_its_process_each_time_costs_the_others_one_restart_and_fails_alone(
    does: str, tmp_path: Path
) -> None:
    fails_alone_at_the_fourth_time(does, tmp_path, "ended its process")


@pytest.mark.slow
def test_one_that_freezes_the_interpreter_is_ended_with_its_process_and_fails_alone(tmp_path: Path) -> None:
    fails_alone_at_the_fourth_time("freezes", tmp_path, "froze it")


@pytest.mark.slow
@pytest.mark.parametrize("does", ["leaks step by step", "leaks in one step"])
def test_one_that_leaks_is_ended_at_the_limit_and_named(does: str, tmp_path: Path) -> None:
    fails_alone_at_the_fourth_time(does, tmp_path, f"{MEMORY_VARIABLE} ({LIMIT_MIB} MiB)")


def test_one_that_blocks_its_thread_keeps_nobody_from_polling_and_can_be_cancelled(tmp_path: Path) -> None:
    others = Others(tmp_path)
    host = the_one("listener host")
    blocked = misbehave("blocks", tmp_path)
    until(lambda: marks(tmp_path / "tries-bad"), "it blocks")
    others.get_their_events()
    assert the_one("listener host") == host
    workflow.cancel("bad")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(blocked, timeout=ANSWER_S)


@pytest.mark.slow
def test_five_that_end_their_process_each_time_fail_and_nobody_else_does(tmp_path: Path) -> None:
    others = Others(tmp_path)
    bad = [misbehave("exits", tmp_path, f"bad-{at}") for at in range(5)]
    for reference in bad:
        assert "Misbehaves" in str(cause_of(reference))
    others.get_their_events()


@pytest.mark.slow
def test_one_that_ends_its_process_unseen_is_found_and_nobody_else_fails(tmp_path: Path) -> None:
    others = Others(tmp_path)
    cause = cause_of(misbehave("exits in a thread", tmp_path))
    assert isinstance(cause, workflow.exceptions.WorkerLostError)
    assert "Misbehaves" in str(cause)
    others.get_their_events()


@pytest.mark.slow
def test_a_host_that_is_killed_from_outside_fails_nobody(tmp_path: Path) -> None:
    others = Others(tmp_path)
    for _ in range(3):
        before = others.hosts()
        hosts = of_role("listener host")
        for host in hosts:
            host.kill()
        until(
            lambda before=before: all(now > was for now, was in zip(others.hosts(), before, strict=True)),
            "all of them have begun anew",
            ANSWER_S,
        )
    others.get_their_events()


class TestAcknowledgement:
    def test_it_comes_after_the_event_is_durable_and_before_the_consumer_also_after_a_crash_between(
        self, tmp_path: Path
    ) -> None:
        trace, gate = tmp_path / "trace", tmp_path / "gate"

        class Acknowledging(workflow.EventListener):
            async def poll_for_event(self):
                mark(trace, "polled")
                return "event"

            async def event_checkpointed(self, event):
                mark(trace, f"told of {event}")
                while not gate.exists():
                    await asyncio.sleep(0.02)
                mark(trace, "acknowledged")

        @ray.remote(num_cpus=0)
        def consume(event):
            mark(trace, "consumed")
            return event

        reference = workflow.run_async(consume.bind(workflow.wait_for_event(Acknowledging)), workflow_id="w")
        until(lambda: marks(trace) == ["polled", "told of event"], "it is told")
        # Whatever knew of the event in memory is gone: only what is durable can be told again.
        executor, host = the_one("executor"), the_one("listener host")
        for process in (executor, host):
            process.kill()
        replaced("executor", [executor])
        until(lambda: marks(trace) == ["polled", "told of event", "told of event"], "it is told again")
        gate.touch()
        assert ray.get(reference, timeout=ANSWER_S) == "event"
        assert marks(trace) == ["polled", "told of event", "told of event", "acknowledged", "consumed"]
