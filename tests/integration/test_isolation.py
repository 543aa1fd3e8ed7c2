"""What a user asked for of Ray is kept, though tiny tasks share workers: resources, environments, workers that end."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow

pytestmark = pytest.mark.usefixtures("platform")


@pytest.fixture(scope="module")
def local_ray(ray_of_others_is_over: None) -> Iterator[None]:
    """A Ray with two GPUs, which nothing touches, and one licence."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        resources={"licence": 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def where() -> tuple[int, str, float, float]:
    """Process, GPUs to be seen, and when it began and ended."""
    began = time.monotonic()
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), began, time.monotonic()


def slowly() -> tuple[int, str, float, float]:
    began = time.monotonic()
    time.sleep(0.02)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), began, time.monotonic()


@ray.remote(num_cpus=0)
def gather(*found: Any) -> list[Any]:
    return list(found)


def run_many(function: Any, count: int, wid: str) -> list[Any]:
    """What each of many tasks found."""
    found: list[Any] = workflow.run(gather.bind(*(function.bind() for _ in range(count))), workflow_id=wid)
    return found


def at_once(found: list[tuple[int, str, float, float]]) -> int:
    """How many ran at the same time, at most."""
    changes = sorted([(began, 1) for *_, began, _ in found] + [(ended, -1) for *_, ended in found])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def test_tiny_tasks_share_workers_and_take_no_more_than_the_cpus(wid: str) -> None:
    # Of a function that nobody has measured a few go ahead.
    run_many(ray.remote(where), 20, f"{wid}-first")
    found = run_many(ray.remote(where), 100, wid)
    assert len({pid for pid, *_ in found}) <= 4
    assert at_once(run_many(ray.remote(slowly), 20, f"{wid}-slow")) <= 2


@pytest.mark.parametrize("options", [{"resources": {"licence": 1}}, {"num_cpus": 2}], ids=["resource", "cpus"])
def test_a_resource_is_held_by_one_at_a_time(wid: str, options: dict[str, Any]) -> None:
    assert at_once(run_many(ray.remote(**options)(slowly), 6, wid)) == 1


@pytest.mark.parametrize(("limit", "named"), [(1, False), (3, True)])
def test_a_worker_ends_after_as_many_runs_as_the_user_allowed(wid: str, limit: int, *, named: bool) -> None:
    function: Any = ray.remote(num_cpus=1, max_calls=limit)(where)
    if named:
        function = function.options(**workflow.options(name="limited"))
    runs = Counter(pid for pid, *_ in run_many(function, 7, wid))
    assert sum(runs.values()) == 7
    assert max(runs.values()) <= limit


def test_each_task_with_a_gpu_has_one_of_its_own_and_leaves_it_to_nobody(wid: str) -> None:
    found = run_many(ray.remote(num_cpus=0, num_gpus=1)(slowly), 5, wid)
    assert {gpus for _, gpus, *_ in found} == {"0", "1"}
    for gpu in "01":
        assert at_once([one for one in found if one[1] == gpu]) == 1
    # What a process holds of a GPU it lets go of when it ends.
    assert len({pid for pid, *_ in found}) == len(found)


def test_two_environments_share_no_worker(wid: str) -> None:
    def variable() -> tuple[int, str]:
        return os.getpid(), os.environ.get("HOLDFAST_TEST_COLOUR", "")

    red, blue = (
        ray.remote(variable).options(runtime_env={"env_vars": {"HOLDFAST_TEST_COLOUR": colour}})
        for colour in ("red", "blue")
    )
    nodes = [(red if number % 2 else blue).bind() for number in range(40)]
    found = workflow.run(gather.bind(*nodes), workflow_id=wid)
    assert [colour for _, colour in found] == ["red" if number % 2 else "blue" for number in range(40)]
    assert not {pid for pid, colour in found if colour == "red"} & {pid for pid, colour in found if colour == "blue"}


def test_a_variable_by_reference_has_its_value_in_the_task_and_is_stored_as_the_reference(
    wid: str, platform: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @ray.remote
    def look() -> str:
        return os.environ["HOLDFAST_TEST_SEARCH"]

    by_reference = look.options(runtime_env={"env_vars": {"HOLDFAST_TEST_SEARCH": "${PATH}"}})
    assert os.environ["PATH"] in workflow.run(by_reference.bind(), workflow_id=wid)
    assert "plain_env_vars" not in caplog.text
    stored = b"".join(path.read_bytes() for path in platform.rglob("*") if path.is_file() and path.name != "lock.mdb")
    assert b"${PATH}" in stored
    # What is not a reference is stored as it is, and said.
    written_out = look.options(runtime_env={"env_vars": {"HOLDFAST_TEST_SEARCH": "hunter2"}})
    assert workflow.run(written_out.bind(), workflow_id=f"{wid}-plain") == "hunter2"
    assert "storage.plain_env_vars names=HOLDFAST_TEST_SEARCH:" in caplog.text
    assert "hunter2" not in caplog.text


def test_virtual_actors_with_a_gpu_have_a_host_that_holds_one(wid: str) -> None:
    class Sees:
        def gpus(self) -> tuple[int, str]:
            return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")

    # The last test: the host keeps its GPU as long as the platform lives.
    with_one = workflow.virtual_actor(num_gpus=1)(Sees).get_or_create(f"{wid}-with")
    plain = workflow.virtual_actor(type("Plain", (Sees,), {})).get_or_create(f"{wid}-plain")
    process, gpus = with_one.gpus.run()
    assert gpus in ("0", "1")
    other, none = plain.gpus.run()
    assert (other != process, none) == (True, "")
