"""Clients that write their workflows down themselves, and die, or are stopped, before they tell anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import ray

from holdfast import workflow
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from tests.recovery.processes import the_one, until

WAIT_S = 60.0

# Writes a workflow down as `run_async` does, and is killed when that is durable.
KILLED = """
import os, signal, sys
import ray
from holdfast import workflow
from holdfast.actors.client import find_platform

@ray.remote
def touch(path):
    open(path, "x").close()
    return "done"

ray.init(address=sys.argv[1], log_to_driver=False)
handle = find_platform().executor("holdfast-executor-0")
# The first thing that it would say to an actor.
type(handle)._actor_method_call = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
workflow.run_async(touch.bind(sys.argv[2]), workflow_id="of-the-dead")
"""

# Stops itself while it holds the store's lock, as Ctrl-Z would.
STOPPED = """
import os, signal, sys
from holdfast.storage.folder import StorageFolder
folder = StorageFolder.open(sys.argv[1], create=False)
with folder.kv.write() as txn:
    txn.put(b"0", b"")
    txn.delete(b"0")
    os.kill(os.getpid(), signal.SIGSTOP)
signal.pause()
"""


@ray.remote
def double(number: int) -> int:
    return 2 * number


def test_a_workflow_whose_client_was_killed_before_it_told_of_it_runs(storage: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    address = ray.get_runtime_context().gcs_address
    ended = subprocess.run([sys.executable, "-c", KILLED, address, str(touched)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not touched.exists() or workflow.get_status("of-the-dead") in ("RUNNING", "SUCCESSFUL")
    until(lambda: workflow.get_status("of-the-dead") == "SUCCESSFUL", "it has run", within_s=WAIT_S)
    assert workflow.get_output("of-the-dead") == "done"
    assert touched.exists()


def test_an_executor_that_dies_with_workflows_that_it_was_not_told_of_runs_them_when_it_is_back(storage: Path) -> None:
    assert workflow.run(double.bind(1)) == 2
    executor = the_one("executor")
    os.kill(executor.pid, signal.SIGSTOP)
    references = [workflow.run_async(double.bind(number), workflow_id=f"w{number}") for number in range(20)]
    opened = StorageFolder.open(storage, create=False)
    with opened.kv.read() as txn:
        # The client needed nobody for this.
        assert all(store.find(txn, f"w{number}") is not None for number in range(20))
    opened.close()
    executor.kill()
    assert ray.get(references, timeout=WAIT_S) == [2 * number for number in range(20)]


def test_a_client_that_is_stopped_while_it_writes_holds_nobody_up(storage: Path) -> None:
    assert workflow.run(double.bind(1)) == 2
    client = subprocess.Popen([sys.executable, "-c", STOPPED, str(storage)])
    try:
        until(lambda: _state(client.pid) == "T", "it is stopped in its transaction")
        assert workflow.run(double.bind(2)) == 4
        until(lambda: _state(client.pid) == "T", "it is stopped again")
    finally:
        client.kill()
        client.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
