"""Where virtual actors run: which process, in which environment, with whose code, and beside whom."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors.virtual.rooms import THREADS

pytestmark = pytest.mark.usefixtures("platform")


@workflow.virtual_actor
class Plain:
    def pid(self) -> int:
        return os.getpid()

    def variable(self) -> str | None:
        return os.environ.get("OF_THE_ACTOR")


@workflow.virtual_actor
class Blocking:
    def wait_for(self, path: str) -> None:
        deadline = time.monotonic() + 60
        while not Path(path).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@workflow.virtual_actor
class Sleeping:
    async def wait_for(self, path: str) -> None:
        while not Path(path).exists():
            await asyncio.sleep(0.05)

    @workflow.virtual_actor.readonly
    async def look(self) -> str:
        await asyncio.sleep(0)
        return "looked"


def test_actors_without_needs_share_a_process(wid: str) -> None:
    pids = {Plain.get_or_create(f"{wid}-{number}").pid.run() for number in range(3)}
    assert len(pids) == 1
    hosts = workflow.platform_status()["virtual_actor_hosts"]
    assert pids == {host["pid"] for host in hosts}


def test_a_class_with_ray_options_has_processes_of_its_own(wid: str) -> None:
    @workflow.virtual_actor(num_cpus=0.5)
    class Needy(Plain):  # type: ignore[misc]
        def own_cpus(self) -> Any:
            return ray.get_runtime_context().get_assigned_resources().get("CPU")

    needy = Needy.get_or_create(wid)
    assert needy.own_cpus.run() == 0.5
    assert needy.pid.run() != Plain.get_or_create(f"{wid}-plain").pid.run()
    assert workflow.get_actor(wid).pid.run() == needy.pid.run()


def test_a_class_with_a_runtime_environment_runs_in_it(wid: str) -> None:
    @workflow.virtual_actor(runtime_env={"env_vars": {"OF_THE_ACTOR": "seven"}})
    class There(Plain):  # type: ignore[misc]
        pass

    assert There.get_or_create(wid).variable.run() == "seven"
    assert Plain.get_or_create(f"{wid}-plain").variable.run() is None


def test_a_class_that_blocks_keeps_only_its_own_actors_waiting(wid: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    blocked = [Blocking.get_or_create(f"{wid}-{n}").wait_for.run_async(str(gate)) for n in range(THREADS + 4)]
    assert Plain.get_or_create(f"{wid}-plain").pid.run() > 0
    gate.touch()
    ray.get(blocked)


def test_async_methods_take_no_thread_while_they_wait(wid: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    waiting = [Sleeping.get_or_create(f"{wid}-{n}").wait_for.run_async(str(gate)) for n in range(THREADS + 4)]
    assert workflow.get_actor(f"{wid}-0").look.run() == "looked"
    gate.touch()
    ray.get(waiting)


_MAKER = """
import sys
import ray
from holdfast import workflow
from till_of_test import Till

ray.init(address=sys.argv[1], log_to_driver=False)
workflow.init(sys.argv[2])
till = Till.get_or_create(sys.argv[3], 10)
assert till.take.run(5) == "till: 15"
"""

_TILL = """
from holdfast import workflow
from words_of_test import NAME

@workflow.virtual_actor
class Till:
    def __init__(self, content):
        self.content = content

    def take(self, amount):
        self.content += amount
        return f"{NAME}: {self.content}"
"""


def test_an_actor_made_by_one_job_is_called_from_another_without_its_code(
    wid: str, tmp_path: Path, platform: Path
) -> None:
    for name, content in (("till_of_test", _TILL), ("words_of_test", 'NAME = "till"\n'), ("maker", _MAKER)):
        (tmp_path / f"{name}.py").write_text(content)
    address = ray.get_runtime_context().gcs_address
    maker = subprocess.run(
        [sys.executable, "-W", "ignore", "maker.py", address, str(platform), wid],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert maker.returncode == 0, maker.stderr[-3000:]
    for name in ("till_of_test", "words_of_test"):
        (tmp_path / f"{name}.py").unlink()
    assert workflow.get_actor(wid).take.run(1) == "till: 16"
