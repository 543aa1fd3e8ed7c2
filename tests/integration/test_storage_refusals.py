"""A storage folder that cannot be used, or has no space left: a clear error, a whole store, nothing left running."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from holdfast import workflow
from holdfast.storage import layout, workflow_store
from holdfast.storage.folder import StorageFolder
from holdfast.workflow.exceptions import (
    StorageCorruptError,
    StorageError,
    StorageFormatError,
    StorageFullError,
    StorageNotWritableError,
    WorkflowExecutionError,
)
from tests.integration.leftovers import nothing_left, until
from tests.printed import own_lines

KIB = 1024


@ray.remote
def give(value: Any = None) -> Any:
    return value


@ray.remote
def array(kib: int) -> Any:
    return np.ones(kib * KIB, dtype=np.uint8)


@ray.remote(num_cpus=0)
def array_later(gate: str, kib: int) -> Any:
    Path(gate + ".waits").touch()
    until(Path(gate).exists, 60.0)
    return np.ones(kib * KIB, dtype=np.uint8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    place = tmp_path / "small-disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    yield place
    workflow.shutdown()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave_kib: int) -> Path:
    """Take the space of a disk but for so much. Returns the file that has it."""
    filler = disk / "filler"
    left = os.statvfs(disk)
    with open(filler, "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, left.f_bavail * left.f_frsize - leave_kib * KIB))
    return filler


def submit(workflow_id: str, value: Any) -> StorageFullError | None:
    """Submit a workflow. Returns the refusal, when it is refused."""
    try:
        workflow.run_async(give.bind(value), workflow_id=workflow_id)
    except StorageFullError as error:
        return error
    return None


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- refused when it is opened -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used_folder(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a folder that a platform has used and left."""
    folder = tmp_path_factory.mktemp("used") / "storage"
    workflow.init(str(folder))
    for number in range(20):
        workflow.run(give.bind("x" * 2000), workflow_id=f"w{number}")
    workflow.shutdown()
    return files_of(folder)


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def below_a_file(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, {"file": b"words"}) / "file" / "storage"


def newer_format(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, used | {"FORMAT": used["FORMAT"].replace(b'"format":1', b'"format":7')})


def garbage_format(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, used | {"FORMAT": b"\xff\xfe"})


def truncated(folder: Path, used: dict[str, bytes]) -> Path:
    records = used["meta.lmdb/data.mdb"]
    return lay_out(folder, used | {"meta.lmdb/data.mdb": records[: len(records) // 2]})


def garbage(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, used | {"meta.lmdb/data.mdb": b"garbage!" * 8192})


def empty_records(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, used | {"meta.lmdb/data.mdb": b""})


def not_ours(folder: Path, used: dict[str, bytes]) -> Path:
    return lay_out(folder, {"holiday.jpg": b"sun"})


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (below_a_file, StorageNotWritableError, "Not a directory.*Give a folder that this user can write"),
        (newer_format, StorageFormatError, "it has format 7, and this release reads formats up to 1"),
        (garbage_format, StorageCorruptError, "FORMAT is not readable"),
        (truncated, StorageCorruptError, r"data\.mdb is truncated"),
        (garbage, StorageCorruptError, r"data\.mdb is not an LMDB|damaged|not a"),
        (empty_records, StorageCorruptError, r"data\.mdb is truncated"),
        (not_ours, StorageFormatError, "'holiday.jpg'.*Give a new or empty folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_cannot_be_used_is_refused_as_it_is(
    used_folder: dict[str, bytes],
    tmp_path: Path,
    make: Callable[[Path, dict[str, bytes]], Path],
    error: type[StorageError],
    said: str,
) -> None:
    folder = make(tmp_path / "folder", used_folder)
    before = files_of(tmp_path / "folder")
    with pytest.raises(error, match=f"(?s){folder}.*({said})"):
        workflow.init(str(folder))
    assert {name: data for name, data in files_of(tmp_path / "folder").items() if "lock" not in name.lower()} == {
        name: data for name, data in before.items() if "lock" not in name.lower()
    }
    assert ray.util.list_named_actors(all_namespaces=True) == []


def test_after_a_refusal_another_folder_works(used_folder: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(StorageCorruptError):
        workflow.init(str(truncated(tmp_path / "folder", used_folder)))
    workflow.init(str(tmp_path / "good"))
    assert workflow.run(give.bind(1)) == 1
    workflow.shutdown()


def test_a_read_only_file_system_is_refused(local_ray: None, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageNotWritableError, match=r"Read-only file system.*Give a folder"):
        workflow.init(str(small_disk / "storage"))
    assert ray.util.list_named_actors(all_namespaces=True) == []


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://bucket/folder", "scheme 's3' is not known; give a local path or a file:// URI"),
        ("file://elsewhere/folder", "give an absolute path on this host"),
        ("", "is not a path"),
    ],
)
def test_a_location_that_is_none_is_refused(local_ray: None, location: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"'{location}'.*{said}"):
        workflow.init(location)
    assert ray.util.list_named_actors(all_namespaces=True) == []


def test_a_full_disk_is_refused_and_taken_when_there_is_space_again(local_ray: None, small_disk: Path) -> None:
    filler = fill(small_disk, leave_kib=0)
    with pytest.raises(StorageFullError, match=r"no space left on the device.*Free some space"):
        workflow.init(str(small_disk / "storage"))
    assert ray.util.list_named_actors(all_namespaces=True) == []
    filler.unlink()
    workflow.init(str(small_disk / "storage"))
    assert workflow.run(give.bind(1)) == 1


def test_a_folder_that_was_filled_up_while_nobody_used_it_is_refused_or_works(
    local_ray: None, small_disk: Path
) -> None:
    workflow.init(str(small_disk / "storage"))
    workflow.run(give.bind(1), workflow_id="before")
    workflow.shutdown()
    filler = fill(small_disk, leave_kib=0)
    try:
        workflow.init(str(small_disk / "storage"))
    except StorageFullError:
        assert ray.util.list_named_actors(all_namespaces=True) == []
    filler.unlink()
    workflow.init(str(small_disk / "storage"))
    assert workflow.get_output("before") == 1
    assert workflow.run(give.bind(2)) == 2
    workflow.shutdown()


def test_a_workflow_whose_record_is_damaged_does_not_fail_what_others_ask_meanwhile(storage: Path) -> None:
    workflow.run(give.bind(1), workflow_id="damaged")
    opened = StorageFolder.open(storage, create=False)
    with opened.kv.write() as txn:
        row = workflow_store.find(txn, "damaged")
        assert row is not None
        txn.put(layout.workflow(row.seq), b"garbage")
    opened.close()
    with ThreadPoolExecutor(16) as pool:
        damaged = [pool.submit(workflow.cancel, "damaged") for _ in range(30)]
        others = [pool.submit(workflow.run, give.bind(number)) for number in range(30)]
    assert [other.result() for other in others] == list(range(30))
    assert {type(call.exception()) for call in damaged} == {StorageCorruptError}


# -- full while it is used ---------------------------------------------------------------------------------------------


def test_a_value_that_is_too_large_for_the_space_left_fails_alone(
    local_ray: None, small_disk: Path, tmp_path: Path
) -> None:
    folder = small_disk / "storage"
    workflow.init(str(folder))
    gate = tmp_path / "gate"
    later = workflow.run_async(array_later.bind(str(gate), 2048), workflow_id="later")
    until(Path(f"{gate}.waits").exists)
    workflow.run(give.bind(1))
    filler = fill(small_disk, leave_kib=1024)

    with nothing_left(folder), pytest.raises(StorageFullError, match=r"blobs/.*no space left.*Free some space"):
        workflow.run(give.bind(np.ones(2048 * KIB, dtype=np.uint8)), workflow_id="argument")
    with pytest.raises(StorageFullError, match="no space left"):
        workflow.send_event("later", "key", np.ones(2048 * KIB, dtype=np.uint8))
    with pytest.raises(WorkflowExecutionError) as failed:
        workflow.run(array.bind(2048), workflow_id="result")
    assert isinstance(failed.value.__cause__, StorageFullError)
    gate.touch()
    with pytest.raises(WorkflowExecutionError) as failed:
        ray.get(later)
    assert isinstance(failed.value.__cause__, StorageFullError)
    # Small ones go on.
    assert workflow.run(give.bind(2)) == 2

    filler.unlink()
    assert workflow.resume("result").nbytes == workflow.resume("later").nbytes == 2048 * KIB
    assert workflow.run(give.bind(np.ones(1024)), workflow_id="argument").sum() == 1024


def test_a_full_disk_refuses_what_has_to_be_written_and_all_goes_on_when_there_is_space(
    local_ray: None, small_disk: Path, tmp_path: Path
) -> None:
    workflow.init(str(small_disk / "storage"))
    gate = tmp_path / "gate"
    running = workflow.run_async(array_later.bind(str(gate), 1), workflow_id="running")
    until(Path(f"{gate}.waits").exists)
    workflow.run(give.bind(1), workflow_id="before")
    before = len(workflow.list_all())
    filler = fill(small_disk, leave_kib=0)

    # The store has some pages to spare: they last for so long only.
    refusal, taken = None, 0
    while refusal is None and taken < 1000:
        refusal = submit(f"w{taken}", "x" * 60_000)
        taken += refusal is None
    assert "meta.lmdb: no space left on the device. Free some space" in str(refusal)
    assert workflow.get_output("before") == 1
    assert [len(workflow.list_all()), workflow.get_status("running")] == [before + taken, "RUNNING"]
    gate.touch()

    filler.unlink()
    assert ray.get(running, timeout=60).nbytes == KIB
    for number in range(taken):
        assert len(workflow.get_output(f"w{number}")) == 60_000
    assert workflow.run(give.bind(2), workflow_id=f"w{taken}") == 2
    workflow.shutdown()
    workflow.init(str(small_disk / "storage"))
    assert {status.value for _, status in workflow.list_all()} == {"SUCCESSFUL"}


# -- other processes ---------------------------------------------------------------------------------------------------


def in_another_process(script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """What a script, run with a cluster of its own, says in its last line."""
    outcome = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # A cluster of its own, whatever else runs on this machine.
        env={
            name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == "RAY_AUTH_MODE"
        }
        | {"RAY_ADDRESS": "local"}
        | environment,
    )
    assert outcome.returncode == 0, outcome.stderr
    said: dict[str, Any] = json.loads(own_lines(outcome.stdout)[-1])
    return said


SECOND_PLATFORM = """
import json, sys
import ray
from holdfast import workflow
from holdfast.workflow.exceptions import StorageLockedError

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
try:
    workflow.init(sys.argv[1])
except StorageLockedError as error:
    print(json.dumps({"error": str(error), "actors": ray.util.list_named_actors(all_namespaces=True)}))
"""


def test_a_folder_that_another_live_platform_has_is_refused_by_pid_and_host(storage: Path) -> None:
    said = in_another_process(SECOND_PLATFORM, str(storage))
    management = workflow.platform_status()["management"]["pid"]
    assert f"process {management} on host {socket.gethostname()!r}" in said["error"]
    assert "Stop that platform, or give this one another storage." in said["error"]
    assert str(storage) in said["error"]
    assert said["actors"] == []
    assert workflow.run(give.bind(1)) == 1


WITHOUT_RAY = """
import json, logging, os, sys
import ray
from holdfast import workflow

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
said = {"refused": []}
for location in ("s3://bucket", sys.argv[1]):
    try:
        workflow.init(location)
    except (ValueError, workflow.exceptions.StorageError) as error:
        said["refused"].append([type(error).__name__, ray.is_initialized()])
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("holdfast").addHandler(handler)
workflow.init()
said["home"] = workflow.platform_status()["storage"]
said["logged"] = lines
workflow.shutdown()
os.environ["HOLDFAST_STORAGE"] = sys.argv[2]
workflow.init()
said["variable"] = workflow.platform_status()["storage"]
workflow.shutdown()
print(json.dumps(said))
"""


def test_ray_is_started_only_for_a_storage_that_works_and_the_default_one_is_durable_and_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    data, given = tmp_path / "home" / "data", tmp_path / "given"
    said = in_another_process(
        WITHOUT_RAY,
        str(tmp_path / "file" / "storage"),
        str(given),
        XDG_DATA_HOME=str(data),
        HOLDFAST_STORAGE="",
    )
    assert said["refused"] == [["ValueError", False], ["StorageNotWritableError", False]]
    assert said["home"] == str(data / "holdfast")
    assert any(str(data / "holdfast") in line for line in said["logged"])
    assert said["variable"] == str(given)
