"""Every kind of driver: threads, tasks, actors, other processes, Ray Client, Ray jobs, code without a file.

One cluster, made by `ray start`, and one platform on it for all of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from holdfast import workflow
from tests.integration.clusters import own_folder
from tests.printed import own_lines

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Head:
    address: str
    client: str
    dashboard: str
    folder: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(**more: str) -> dict[str, str]:
    return {
        key: value for key, value in os.environ.items() if not key.startswith("RAY_") or key == "RAY_AUTH_MODE"
    } | more


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[str]:
    with own_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, ray_folder: str) -> Iterator[Head]:
    """A cluster that is there before any driver, and goes after the last."""
    root = tmp_path_factory.mktemp("head")
    port, client, dashboard, agent = free_ports(4)
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=4"),
        *(f"--port={port}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=true", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *("--disable-usage-stats", f"--temp-dir={ray_folder}"),
    ]
    with (root / "log").open("w") as log:
        # In a session of its own: what it starts is ended with it.
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in (root / "log").read_text():
            assert process.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, "ray did not start in time"
            time.sleep(0.05)
        made = Head(
            f"{ray.util.get_node_ip_address()}:{port}",
            f"ray://127.0.0.1:{client}",
            f"http://127.0.0.1:{dashboard}",
            str(root / "storage"),
        )
        ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
        workflow.init(made.folder)
        yield made
        workflow.shutdown()
    finally:
        ray.shutdown()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run_python(arguments: list[str], *, given: str | None = None, **variables: str) -> Any:
    """Run Python; what it says on its last line, as JSON."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(own_lines(ran.stdout)[-1])


@ray.remote
def add(a: int, b: int) -> int:
    return a + b


# -- in this cluster -----------------------------------------------------------------------------------------------


def test_eight_threads_run_workflows_at_once(head: Head) -> None:
    def run_some(number: int) -> list[int]:
        return [workflow.run(add.bind(add.bind(number, i), 1), workflow_id=f"t{number}-{i}") for i in range(5)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(run_some, range(8)))
    assert found == [[number + i + 1 for i in range(5)] for number in range(8)]


def test_a_plain_task_runs_a_workflow(head: Head) -> None:
    @ray.remote
    def outer() -> tuple[int, str]:
        return workflow.run(add.bind(1, 2), workflow_id="from-task"), workflow.get_status("from-task").value

    assert ray.get(outer.remote()) == (3, "SUCCESSFUL")
    assert workflow.get_output("from-task") == 3


def test_an_actor_and_an_asynchronous_actor_run_workflows(head: Head) -> None:
    @ray.remote(num_cpus=0)
    class Plain:
        def run(self, number: int) -> int:
            return workflow.run(add.bind(number, 1))

    @ray.remote(num_cpus=0)
    class Asynchronous:
        async def run(self, number: int) -> int:
            return await workflow.aio.run(add.bind(number, 1))

    plain, asynchronous = Plain.remote(), Asynchronous.remote()
    assert ray.get([plain.run.remote(1), *(asynchronous.run.remote(number) for number in range(10))]) == [
        2,
        *range(1, 11),
    ]


def test_a_task_of_a_workflow_runs_another_workflow(head: Head) -> None:
    @ray.remote
    def outer() -> int:
        return workflow.run(add.bind(20, 22), workflow_id="inner")

    assert workflow.run(outer.bind(), workflow_id="outer") == 42
    assert workflow.get_status("inner") == "SUCCESSFUL"


def test_init_from_inside_a_task_finds_the_platform_and_refuses_another_storage(head: Head, tmp_path: Path) -> None:
    @ray.remote
    def inits(other: str) -> str:
        workflow.init()
        workflow.init(head.folder)
        try:
            workflow.init(other)
        except ValueError as error:
            return str(error)
        return "accepted"

    for said in (
        ray.get(inits.remote(str(tmp_path / "other"))),
        run_python(["-c", INIT, head.folder, str(tmp_path / "other")], RAY_ADDRESS=head.address),
    ):
        assert head.folder in said
        assert str(tmp_path / "other") in said
    assert not (tmp_path / "other").exists()


INIT = """
import json, sys
from holdfast import workflow
workflow.init()
workflow.init(sys.argv[1])
try:
    workflow.init(sys.argv[2])
except ValueError as error:
    print(json.dumps(str(error)))
"""


# -- other processes -----------------------------------------------------------------------------------------------

CELLS = """
import json, os, sys
import ray
from holdfast import workflow
ray.init(log_to_driver=False, logging_level="ERROR")

class Point:
    def __init__(self, x):
        self.x = x

SHIFT = 10

def shifted(point):
    return Point(point.x + SHIFT)

@ray.remote
def make(x):
    return shifted(Point(x))

@ray.remote
def last(point):
    assert isinstance(point, Point)
    return point

result = workflow.run(last.bind(make.bind(5)), workflow_id=os.environ["ID"])
print(json.dumps([result.x, isinstance(result, Point), workflow.get_status(os.environ["ID"]).value]))
"""

# As a notebook does: cell by cell, in a `__main__` that has no file.
NOTEBOOK = """
import sys, types
cells = sys.stdin.read().split("\\n\\n")
main = types.ModuleType("__main__")
sys.modules["__main__"] = main
for number, cell in enumerate(cells):
    exec(compile(cell, f"<ipython-input-{number}>", "exec"), main.__dict__)
"""


def test_drivers_whose_code_has_no_file_share_the_platform_at_once(head: Head) -> None:
    def drive(kind: str) -> Any:
        arguments = {"command": ["-c", CELLS], "stdin": ["-"], "notebook": ["-c", NOTEBOOK]}[kind]
        given = None if kind == "command" else CELLS
        return run_python(arguments, given=given, RAY_ADDRESS=head.address, ID=f"no-file-{kind}")

    kinds = ["command", "stdin", "notebook"]
    with ThreadPoolExecutor(3) as threads:
        running = threads.map(drive, kinds)
        here = [workflow.run(add.bind(number, 1)) for number in range(20)]
    assert here == list(range(1, 21))
    assert list(running) == [[15, True, "SUCCESSFUL"]] * 3
    assert [workflow.get_output(f"no-file-{kind}").x for kind in kinds] == [15] * 3


# -- Ray Client ----------------------------------------------------------------------------------------------------

CLIENT = """
import json, os, sys
import numpy, ray
from holdfast import workflow
for left in (2, 1, 0):
    try:
        ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR",
                 runtime_env={"env_vars": {"COLOUR": "blue"}})
        break
    except ConnectionAbortedError:
        # The process that Ray starts for each client gives up where the machine has no time for it.
        if not left:
            raise
workflow.init(sys.argv[2])
said = {}

class Odd(Exception):
    pass

@ray.remote
def add(a, b):
    return a + b

@ray.remote
def colour():
    return os.environ.get("COLOUR")

@ray.remote(max_retries=0)
def fail():
    raise Odd("too odd")

@ray.remote
def read(refs, direct):
    return ray.get(refs[0]) + direct

name = "client"
said["run"] = workflow.run(add.bind(add.bind(1, 2), 3), workflow_id=name + "-run")
said["again"] = workflow.run(add.bind(0, 0), workflow_id=name + "-run")
reference = workflow.run_async(add.bind(4, 5), workflow_id=name + "-async")
said["async"] = ray.get(reference)
said["output"] = workflow.get_output(name + "-async")
said["large"] = int(workflow.run(add.bind(numpy.ones(4_000_000), numpy.ones(4_000_000))).sum())
said["refs"] = workflow.run(read.bind([ray.put(20)], ray.put(22)))
try:
    workflow.run(fail.bind(), workflow_id=name + "-fail")
except workflow.WorkflowExecutionError as error:
    said["error"] = [isinstance(error.__cause__, Odd), str(error.__cause__)]
try:
    workflow.init("/somewhere/else")
except ValueError as error:
    said["storage"] = str(error)
try:
    workflow.get_status("nobody")
except workflow.exceptions.WorkflowNotFoundError:
    said["unknown"] = "not found"
said["status"] = workflow.get_status(name + "-fail").value
said["metadata"] = workflow.get_metadata(name + "-run")["status"]
said["colour"] = workflow.run(colour.bind())
workflow.delete(name + "-fail")
said["listed"] = sorted(found for found, _ in workflow.list_all() if found.startswith(name))
print(json.dumps(said))
"""


def test_a_ray_client_does_all_that_a_driver_does(head: Head) -> None:
    said = run_python(["-c", CLIENT, head.client, head.folder])
    refused = said.pop("storage")
    assert head.folder in refused
    assert "/somewhere/else" in refused
    assert said == {
        "run": 6,
        "again": 6,
        "async": 9,
        "output": 9,
        "large": 8_000_000,
        "refs": 42,
        "error": [True, "too odd"],
        "unknown": "not found",
        "status": "FAILED",
        "metadata": "SUCCESSFUL",
        "colour": "blue",
        "listed": ["client-async", "client-run"],
    }
    # It left, and what it made stays.
    assert workflow.get_output("client-run") == 6


# -- Ray jobs ------------------------------------------------------------------------------------------------------

JOB = """
import ray
from holdfast import workflow
import beside

@ray.remote
def work():
    import lazily
    return beside.word() + lazily.word() + open("note.txt").read()

ray.init()
print("job said", workflow.run(work.bind(), workflow_id="job"))
"""


def test_a_ray_job_with_a_working_dir_runs_workflows(head: Head, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(JOB)
    (tmp_path / "beside.py").write_text("def word():\n    return 'a'\n")
    (tmp_path / "lazily.py").write_text("def word():\n    return 'b'\n")
    (tmp_path / "note.txt").write_text("c")
    client = JobSubmissionClient(head.dashboard)
    job = client.submit_job(entrypoint=f"{sys.executable} script.py", runtime_env={"working_dir": str(tmp_path)})
    deadline = time.monotonic() + 90
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)
        time.sleep(0.2)
    assert client.get_job_status(job) is JobStatus.SUCCEEDED, client.get_job_logs(job)
    assert "job said abc" in client.get_job_logs(job)
    assert workflow.get_output("job") == "abc"
