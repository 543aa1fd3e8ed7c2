"""`dedicated_executor=True`: a process that drives one workflow, comes back when it dies, and ends with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors import names
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder

_OWN = "holdfast-executor-of-"


def wait_for(condition: Callable[[], Any], deadline_s: float = 60.0) -> Any:
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return found


def own_pids() -> list[int]:
    """Processes of the executors that drive one workflow only."""
    return [entry["pid"] for entry in workflow.platform_status()["executors"] if entry["name"].startswith(_OWN)]


@pytest.fixture(autouse=True)
def none_left(platform: Path) -> Iterator[None]:
    yield
    wait_for(lambda: own_pids() == [])


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@ray.remote
def note(path: str, *_: Any) -> int:
    with Path(path).open("a") as notes:
        notes.write(f"{os.getpid()}\n")
    return len(Path(path).read_text().splitlines())


@ray.remote
def wait_until(path: str, *values: Any) -> Any:
    while not Path(path).exists():
        time.sleep(0.02)
    return values


def test_a_workflow_runs_in_an_executor_of_its_own_which_ends_with_it(platform: Path, wid: str, tmp_path: Path) -> None:
    go, notes = str(tmp_path / "go"), str(tmp_path / "notes")
    assert own_pids() == []
    graph = wait_until.bind(go, note.options(**workflow.options(task_id="noted")).bind(notes))
    reference = workflow.run_async(graph, workflow_id=wid, dedicated_executor=True)
    (pid,) = wait_for(own_pids)
    assert workflow.get_output(wid, task_id="noted") == 1
    assert workflow.get_status(wid) == "RUNNING"
    Path(go).touch()
    assert ray.get(reference) == (1,)
    wait_for(lambda: not is_running(pid))
    assert own_pids() == []
    assert workflow.get_output(wid) == (1,)
    assert workflow.run(graph, workflow_id=wid) == (1,)


def test_run_gives_the_value_the_error_and_metadata(platform: Path, wid: str) -> None:
    @ray.remote(max_retries=0)
    def fail() -> None:
        raise ValueError("no")

    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    assert workflow.run(add.bind(add.bind(1, 2), 3), workflow_id=wid, dedicated_executor=True) == 6
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        workflow.run(fail.bind(), workflow_id=f"{wid}-fails", dedicated_executor=True)
    assert isinstance(caught.value.__cause__, ValueError)
    assert workflow.get_metadata(wid)["status"] == "SUCCESSFUL"


def test_events_metadata_and_cancel_find_the_executor(platform: Path, wid: str, tmp_path: Path) -> None:
    event = workflow.wait_for_event(workflow.http_event_provider.HTTPListener, event_key="k")
    started = note.options(**workflow.options(task_id="started")).bind(str(tmp_path / "started"), event)
    waits = wait_until.options(**workflow.options(task_id="waits")).bind(str(tmp_path / "never"), started)
    reference = workflow.run_async(waits, workflow_id=wid, dedicated_executor=True)
    assert workflow.send_event(wid, "k", "payload")
    assert workflow.get_output(wid, task_id="started") == 1
    assert workflow.get_metadata(wid, "waits")["task_id"] == "waits"
    workflow.cancel(wid)
    assert workflow.get_status(wid) == "CANCELED"
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)


def test_a_workflow_that_only_waits_goes_on_when_its_time_comes(platform: Path, wid: str) -> None:
    assert workflow.run(workflow.sleep(0.5), workflow_id=wid, dedicated_executor=True) is None


def test_it_is_recovered_when_it_dies_and_when_the_management_actor_dies(
    platform: Path, wid: str, tmp_path: Path
) -> None:
    go, notes = str(tmp_path / "go"), str(tmp_path / "notes")
    noted = note.options(**workflow.options(task_id="noted")).bind(notes)
    reference = workflow.run_async(wait_until.bind(go, noted), workflow_id=wid, dedicated_executor=True)
    (first,) = wait_for(own_pids)
    assert workflow.get_output(wid, task_id="noted") == 1

    os.kill(first, signal.SIGKILL)
    (second,) = wait_for(lambda: [pid for pid in own_pids() if pid != first])
    os.kill(workflow.platform_status()["management"]["pid"], signal.SIGKILL)
    assert own_pids() == [second]

    Path(go).touch()
    assert ray.get(reference, timeout=60) == (1,)
    assert len(Path(notes).read_text().splitlines()) == 1
    wait_for(lambda: not is_running(second))


def test_a_resumed_workflow_gets_an_executor_of_its_own_when_asked_for(
    platform: Path, wid: str, tmp_path: Path
) -> None:
    mended, go = tmp_path / "mended", tmp_path / "go"

    @ray.remote(max_retries=0)
    def fail_at_first(path: str) -> int:
        if not os.path.exists(path):
            raise ValueError("not mended")
        return 7

    graph = wait_until.bind(str(go), fail_at_first.bind(str(mended)))
    for dedicated in (False, True, False):
        with pytest.raises(workflow.WorkflowExecutionError):
            workflow.run(graph, workflow_id=wid, dedicated_executor=dedicated)
    mended.touch()
    reference = workflow.resume_async(wid, dedicated_executor=True)
    wait_for(own_pids)
    go.touch()
    assert ray.get(reference, timeout=60) == (7,)
    assert workflow.resume(wid, dedicated_executor=True) == (7,)


def test_a_queued_workflow_gets_its_executor_when_its_turn_comes(platform: Path, tmp_path: Path) -> None:
    workflow.shutdown()
    workflow.init(str(tmp_path / "storage"), max_running_workflows=1)
    go = str(tmp_path / "go")
    first = workflow.run_async(wait_until.bind(go, 1), workflow_id="first")
    second = workflow.run_async(wait_until.bind(go, 2), workflow_id="second", dedicated_executor=True)
    assert workflow.get_status("second") == "PENDING"
    assert own_pids() == []
    Path(go).touch()
    assert ray.get([first, second], timeout=60) == [(1,), (2,)]


def recorded(storage: Path) -> list[str]:
    """Executors of one workflow whose processes are written down."""
    folder = StorageFolder.open(storage, create=False)
    try:
        with folder.kv.read() as txn:
            return list(store.settings_beginning(txn, names.process_setting(names.DEDICATED)))
    finally:
        folder.close()


def test_a_resume_gives_it_an_executor_of_its_own_again_unless_told_otherwise(
    platform: Path, wid: str, tmp_path: Path
) -> None:
    mended, go = tmp_path / "mended", tmp_path / "go"

    @ray.remote(max_retries=0)
    def fail_at_first(path: str) -> int:
        if not os.path.exists(path):
            raise ValueError("not mended")
        return 7

    graph = wait_until.bind(str(go), fail_at_first.bind(str(mended)))
    for name in ("again", "otherwise"):
        with pytest.raises(workflow.WorkflowExecutionError):
            workflow.run(graph, workflow_id=f"{wid}-{name}", dedicated_executor=True)
    wait_for(lambda: own_pids() == [])
    mended.touch()
    again = workflow.resume_async(f"{wid}-again")
    otherwise = workflow.resume_async(f"{wid}-otherwise", dedicated_executor=False)
    wait_for(lambda: len(own_pids()) == 1)
    go.touch()
    assert ray.get([again, otherwise], timeout=60) == [(7,), (7,)]


def test_it_is_remembered_when_the_cluster_is_lost(platform: Path, tmp_path: Path) -> None:
    go, storage = str(tmp_path / "go"), str(tmp_path / "storage")
    workflow.shutdown()
    workflow.init(storage)
    workflow.run_async(wait_until.bind(go, 1), workflow_id="own", dedicated_executor=True)
    wait_for(own_pids)
    workflow.shutdown()
    workflow.init(storage, resume="auto")
    wait_for(own_pids)
    Path(go).touch()
    assert workflow.get_output("own") == (1,)


def test_what_is_written_down_of_it_goes_when_it_was_killed_too(wid: str, local_ray: None, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    workflow.shutdown()
    workflow.init(str(storage))
    workflow.run_async(wait_until.bind(str(tmp_path / "never")), workflow_id="killed", dedicated_executor=True)
    (pid,) = wait_for(own_pids)
    assert len(wait_for(lambda: recorded(storage))) == 1
    (name,) = [entry["name"] for entry in workflow.platform_status()["executors"] if entry["name"].startswith(_OWN)]
    workflow.cancel("killed")
    # It is to end by now, and may be doing it: for good, and by another's hand.
    try:
        ray.kill(ray.get_actor(name, namespace=names.NAMESPACE), no_restart=True)
    except ValueError:
        assert not is_running(pid)
    wait_for(lambda: recorded(storage) == [])
    wait_for(lambda: not is_running(pid))


def test_what_a_lost_cluster_has_left_written_down_goes_when_a_platform_starts(
    platform: Path, local_ray: None, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    workflow.shutdown()
    folder = StorageFolder.open(storage)
    with folder.kv.write() as txn:
        store.save_setting(txn, names.process_setting(f"{names.DEDICATED}0123-1"), [2**22 + 1, 1])
    folder.close()
    workflow.init(str(storage))
    wait_for(lambda: recorded(storage) == [])
