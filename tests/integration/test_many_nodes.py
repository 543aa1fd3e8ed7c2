"""Tasks on nodes that cannot see the storage folder, and nodes that die.

All nodes are of one machine, so the folder is there for everybody: a probe in
every Python process of the remote nodes writes down each file of it that is
opened, and each test ends by looking that there is none.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import ray
from ray.cluster_utils import Cluster

from holdfast import workflow
from holdfast.actors.ray_repeats import RAY_RETRIES, RepeatedByRayError, refuse_repetition
from tests.integration.clusters import own_cluster

pytestmark = pytest.mark.cluster

_MIB = 1024 * 1024

PROBE = """
import os, sys

_folder, _notes = os.environ["PROBED_FOLDER"], os.environ["PROBE_NOTES"]

def _note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename") and arguments:
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(_folder):
            handle = os.open(_notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, (event + " " + path + "\\n").encode())
            os.close(handle)

sys.addaudithook(_note)
"""


class Nodes:
    """A cluster whose head has the storage, with two more nodes, "a" and "b"."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.folder, self.notes = root / "storage", root / "notes"
        probe = root / "probe"
        probe.mkdir()
        (probe / "sitecustomize.py").write_text(PROBE)
        self._probed = {
            # Before what is there: the nodes run the Holdfast that is tested.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(probe), os.environ.get("PYTHONPATH")))),
            "PROBED_FOLDER": str(self.folder),
            "PROBE_NOTES": str(self.notes),
        }
        self.cluster = cluster
        self.add("a")
        self.add("b")

    def add(self, resource: str) -> Any:
        return self.cluster.add_node(
            num_cpus=1,
            resources={resource: 10},
            env_vars=self._probed,
            object_store_memory=500 * _MIB,
        )

    def opened(self) -> list[str]:
        """What processes of the remote nodes opened of the folder."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    head = {
        "num_cpus": 2,
        "resources": {"head": 10},
        "object_store_memory": 500 * _MIB,
        # A node that was killed is missed after a second, not after fifteen.
        "_system_config": {"health_check_period_ms": 300, "health_check_failure_threshold": 3},
    }
    with own_cluster(**head) as cluster:
        made = Nodes(tmp_path_factory.mktemp("nodes"), cluster)
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        workflow.init(str(made.folder))
        yield made
        workflow.shutdown()
        ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_opened_elsewhere(nodes: Nodes) -> Iterator[None]:
    yield
    assert nodes.opened() == []


def on(node: str, function: Any) -> Any:
    return function.options(resources={node: 0.01}, num_cpus=0)


def wait_for(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@ray.remote
def make(nbytes: int) -> Any:
    return numpy.arange(nbytes // 8, dtype=numpy.int64)


@ray.remote
def add_one(array: Any) -> Any:
    return array + 1


@ray.remote
def summed(array: Any) -> int:
    return int(array.sum())


def total(nbytes: int, added: int = 0) -> int:
    count = nbytes // 8
    return count * (count - 1) // 2 + count * added


def test_the_tasks_do_run_on_the_nodes_they_are_sent_to(nodes: Nodes) -> None:
    @ray.remote
    def where(*before: str) -> Any:
        return [*before, ray.get_runtime_context().get_node_id()]

    here = {name: workflow.run(on(name, where).bind())[0] for name in ("head", "a", "b")}
    assert len(set(here.values())) == 3
    assert here["head"] == workflow.platform_status()["management"]["node_id"]


@pytest.mark.parametrize("nbytes", [800, 100 * _MIB], ids=["small", "100 MiB"])
def test_a_value_goes_from_the_storage_node_over_two_others_to_the_driver(nodes: Nodes, nbytes: int) -> None:
    on_a = on("a", add_one).bind(on("head", make).bind(nbytes))
    array = workflow.run(on("b", add_one).bind(on_a))
    assert array.nbytes == nbytes
    assert int(array.sum()) == total(nbytes, added=2)


def test_a_large_value_of_a_remote_node_reaches_a_task_on_the_storage_node(nodes: Nodes) -> None:
    nbytes = 2 * _MIB
    assert workflow.run(on("head", summed).bind(on("a", make).bind(nbytes))) == total(nbytes)


def test_a_large_argument_and_an_object_of_the_driver_reach_a_remote_node(nodes: Nodes) -> None:
    @ray.remote
    def both(array: Any, held: dict[str, Any]) -> int:
        return int(array.sum()) + int(ray.get(held["ref"]).sum())

    array = numpy.arange(_MIB // 8)
    assert workflow.run(on("a", both).bind(array, {"ref": ray.put(array)})) == 2 * total(_MIB)


def test_object_refs_inside_a_value_of_a_remote_node_lead_somewhere_on_every_node(nodes: Nodes) -> None:
    @ray.remote
    def hand_out() -> Any:
        return {"small": ray.put("x"), "large": [ray.put(numpy.arange(_MIB // 8))]}

    @ray.remote
    def read(refs: dict[str, Any]) -> Any:
        return ray.get(refs["small"]), int(ray.get(refs["large"][0]).sum())

    refs = on("a", hand_out).bind()
    assert workflow.run(on("b", read).bind(refs)) == ("x", total(_MIB))
    assert workflow.run(on("head", read).bind(refs)) == ("x", total(_MIB))
    handed = workflow.run(refs, workflow_id="refs")
    assert int(ray.get(handed["large"][0]).sum()) == total(_MIB)


def test_a_remote_node_continues_with_large_arguments(nodes: Nodes) -> None:
    @ray.remote
    def go_on(depth: int, array: Any) -> Any:
        if depth == 0:
            return int(array.sum())
        node = ("a", "b", "head")[depth % 3]
        return workflow.continuation(on(node, go_on).bind(depth - 1, array + 1))

    assert workflow.run(on("a", go_on).bind(4, numpy.arange(_MIB // 8))) == total(_MIB, added=4)


def test_errors_and_classes_of_the_script_come_back_from_a_remote_node(nodes: Nodes) -> None:
    class Odd(Exception):
        pass

    @ray.remote(max_retries=0)
    def fail() -> None:
        raise Odd("far away")

    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(on("b", fail).bind())
    assert type(caught.value.__cause__).__name__ == "Odd"
    assert str(caught.value.__cause__) == "far away"


def test_in_place_tasks_follow_each_other_on_a_remote_node(nodes: Nodes) -> None:
    @ray.remote
    def count_down(left: int, pids: list[int]) -> Any:
        pids = [*pids, os.getpid()]
        if left == 0:
            return pids
        step = count_down.options(**workflow.options(allow_inplace=True))
        return workflow.continuation(step.bind(left - 1, pids))

    pids = workflow.run(on("a", count_down).bind(5, []))
    assert len(pids) == 6
    assert len(set(pids)) == 1


def test_a_task_whose_node_dies_runs_again_elsewhere_and_what_the_node_had_returned_is_kept(
    nodes: Nodes, tmp_path: Path
) -> None:
    started, made = tmp_path / "started", tmp_path / "made"

    @ray.remote
    def make_once() -> Any:
        with made.open("a") as notes:
            notes.write(ray.get_runtime_context().get_node_id() + "\n")
        return numpy.arange(4 * _MIB // 8)

    @ray.remote(max_retries=2)
    def hang_at_first(array: Any) -> Any:
        node_id = ray.get_runtime_context().get_node_id()
        with started.open("a") as notes:
            notes.write(node_id + "\n")
        if len(started.read_text().splitlines()) == 1:
            time.sleep(600)
        return node_id, int(array.sum())

    doomed = nodes.add("spot")
    reference = workflow.run_async(on("spot", hang_at_first).bind(on("spot", make_once).bind()), workflow_id="spot")
    wait_for(started.exists)
    nodes.cluster.remove_node(doomed, allow_graceful=False)
    # A node that joins later, with the same resource.
    nodes.add("spot")
    node_id, found = ray.get(reference, timeout=90)
    assert found == total(4 * _MIB)
    first, second = started.read_text().split()
    assert second == node_id != first
    assert made.read_text().split() == [first]


def test_a_reply_that_was_lost_with_its_node_is_not_made_again(nodes: Nodes, tmp_path: Path) -> None:
    begun, through = tmp_path / "begun", tmp_path / "through"

    @ray.remote(num_cpus=0, resources={"brief": 0.01}, **RAY_RETRIES)
    def reply() -> Any:
        with begun.open("a") as notes:
            notes.write("begun\n")
        refuse_repetition()
        with through.open("a") as notes:
            notes.write("through\n")
        return numpy.arange(_MIB // 8)

    doomed = nodes.add("brief")
    reference = reply.remote()
    ray.wait([reference], fetch_local=False)
    nodes.cluster.remove_node(doomed, allow_graceful=False)
    nodes.add("brief")
    with pytest.raises(RepeatedByRayError):
        ray.get(reference, timeout=90)
    assert len(begun.read_text().splitlines()) == 2
    assert len(through.read_text().splitlines()) == 1


def test_the_probe_would_have_seen_it(nodes: Nodes) -> None:
    @ray.remote
    def look() -> None:
        os.listdir(nodes_folder)

    nodes_folder = str(nodes.folder)
    workflow.run(on("a", look).bind())
    assert nodes.opened() == [f"os.listdir {nodes_folder}"]
    nodes.notes.unlink()


@ray.remote
def hold(lock: str, held: str) -> None:
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(held).write_text(str(os.getpid()))
        signal.pause()


def test_a_cancel_whose_executor_dies_in_it_waits_for_tasks_on_other_nodes(nodes: Nodes, tmp_path: Path) -> None:
    lock, held = tmp_path / "lock", tmp_path / "held"
    workflow.run_async(on("b", hold).bind(str(lock), str(held)), workflow_id="held elsewhere")
    wait_for(lambda: held.exists() and held.read_text() != "")
    # It does not hear that it is to end, and the executor waits for it.
    os.kill(int(held.read_text()), signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        cancelling = pool.submit(workflow.cancel, "held elsewhere")
        wait_for(lambda: workflow.get_status("held elsewhere") == "CANCELED")
        for executor in workflow.platform_status()["executors"]:
            os.kill(executor["pid"], signal.SIGKILL)
        cancelling.result(timeout=60)
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
