"""What makes a folder ours, and what is refused as one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageCorruptError, StorageFormatError, StorageFullError, StorageNotWritableError
from holdfast.storage import own_files
from holdfast.storage.folder import FORMAT_VERSION, StorageFolder
from holdfast.storage.location import parse_location
from holdfast.storage.payload import Payload
from holdfast.storage.platform_lock import PlatformLock
from tests.other_user import NOBODY, as_nobody, needs_root, readable

PARTS = ["FORMAT", "blobs", "code", "meta.lmdb"]


def made(path: Path) -> str:
    folder = StorageFolder.open(str(path))
    folder.close()
    return folder.storage_id


def test_a_folder_is_made_with_its_parts_and_keeps_its_id(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "with a space" / "storage"
    folder = StorageFolder.open(str(path))
    assert sorted(entry.name for entry in path.iterdir()) == PARTS
    assert json.loads((path / "FORMAT").read_text()) == {"format": FORMAT_VERSION, "storage_id": folder.storage_id}
    with folder.kv.write() as transaction:
        transaction.put(b"a", b"1")
    key = folder.blobs.write("a0", Payload(b"value"))
    name = folder.code.put(b"code")
    folder.close()

    again = StorageFolder.open(folder.url, create=False)
    assert (again.storage_id, again.path, again.url) == (folder.storage_id, path, path.as_uri())
    with again.kv.read() as transaction:
        assert transaction.get(b"a") == b"1"
    assert bytes(again.blobs.read(key).inband) == b"value"
    assert again.code.get(name) == b"code"
    again.close()
    assert made(tmp_path / "another") != folder.storage_id


@pytest.mark.parametrize("parts", range(len(PARTS)))
def test_a_making_interrupted_anywhere_is_completed(tmp_path: Path, parts: int) -> None:
    path = tmp_path / "storage"
    made(path)
    for part in PARTS[: parts + 1]:
        (path / part).unlink() if part == "FORMAT" else shutil.rmtree(path / part)
    (path / ".writing-0123").write_bytes(b'{"form')
    storage_id = made(path)
    assert sorted(entry.name for entry in path.iterdir()) == PARTS
    assert made(path) == storage_id


def test_processes_that_make_one_folder_at_once_agree_on_its_id(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    script = """
import sys
from holdfast.storage.folder import StorageFolder
print("ready", flush=True)
sys.stdin.readline()
print(StorageFolder.open(sys.argv[1]).storage_id)
"""
    makers = [start_python(script, tmp_path / "storage") for _ in range(4)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    told = [maker.communicate(timeout=60) for maker in makers]
    assert {complaint for _, complaint in told} == {""}
    assert len({storage_id for storage_id, _ in told}) == 1


def test_a_newer_format_is_refused_naming_both(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "FORMAT").write_text('{"format": 7, "shape": "unknown to us"}')
    with pytest.raises(StorageFormatError, match=rf"format 7, .* up to {FORMAT_VERSION}"):
        StorageFolder.open(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"1",
        b"[]",
        b"{}",
        b'{"format": "1", "storage_id": "a"}',
        b'{"format": 0, "storage_id": "a"}',
        b'{"format": true, "storage_id": "a"}',
        b'{"format": 1}',
        b'{"format": 1, "storage_id": ""}',
    ],
)
def test_a_format_file_of_garbage_is_corrupt(tmp_path: Path, content: bytes) -> None:
    made(tmp_path)
    (tmp_path / "FORMAT").write_bytes(content)
    with pytest.raises(StorageCorruptError, match="FORMAT is not readable"):
        StorageFolder.open(str(tmp_path))


def test_a_folder_of_somebody_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(StorageFormatError, match=r"not a Holdfast storage and not empty: it has 'thesis\.txt'"):
        StorageFolder.open(str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_records_without_a_format_file_are_corrupt(tmp_path: Path) -> None:
    folder = StorageFolder.open(str(tmp_path))
    with folder.kv.write() as transaction:
        transaction.put(b"a", b"1")
    folder.close()
    (tmp_path / "FORMAT").unlink()
    with pytest.raises(StorageCorruptError, match="FORMAT is missing"):
        StorageFolder.open(str(tmp_path))


@pytest.mark.parametrize("loss", ["emptied", "gone"])
def test_records_that_are_gone_are_not_taken_for_a_new_store(tmp_path: Path, loss: str) -> None:
    made(tmp_path)
    records = tmp_path / "meta.lmdb" / "data.mdb"
    records.write_bytes(b"") if loss == "emptied" else records.unlink()
    with pytest.raises(StorageCorruptError, match=r"data\.mdb is (truncated|missing)"):
        StorageFolder.open(str(tmp_path))


@pytest.mark.parametrize("below", ["file", "file/storage", "file/deep/storage"])
def test_a_file_in_place_of_the_folder_is_not_writable(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("words")
    for create in (True, False):
        with pytest.raises(StorageNotWritableError, match=below):
            StorageFolder.open(str(tmp_path / below), create=create)
    assert (tmp_path / "file").read_text() == "words"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_one_may_not_write_is_not_writable(tmp_path: Path) -> None:
    made(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(StorageNotWritableError, match="may not write"):
        StorageFolder.open(str(tmp_path))
    tmp_path.chmod(0o700)


def test_a_read_only_file_system_is_not_writable(small_disk: Path) -> None:
    made(small_disk / "storage")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for name in ("storage", "other"):
        with pytest.raises(StorageNotWritableError, match=name):
            StorageFolder.open(str(small_disk / name))


def test_a_part_that_is_a_file_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_text("words")
    with pytest.raises(StorageNotWritableError, match="blobs"):
        StorageFolder.open(str(tmp_path))
    (tmp_path / "blobs").unlink()
    assert made(tmp_path)


def test_a_folder_that_is_not_there_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(StorageNotWritableError, match="it is not there"):
        StorageFolder.open(str(tmp_path / "storage"), create=False)
    with pytest.raises(StorageFormatError, match="no FORMAT"):
        StorageFolder.open(str(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_making_that_found_no_space_is_completed_when_there_is_some(
    small_disk: Path, fill_up: Callable[[Path], Path]
) -> None:
    filler = fill_up(small_disk)
    with pytest.raises(StorageFullError, match="no space left"):
        StorageFolder.open(str(small_disk / "storage"))
    filler.unlink()
    assert made(small_disk / "storage")


def test_locations_are_paths_and_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_location("storage") == tmp_path / "storage"
    assert parse_location("a/../storage/") == tmp_path / "storage"
    assert parse_location(tmp_path / "x") == tmp_path / "x"
    assert parse_location("~/storage") == Path("/home/somebody/storage")
    assert parse_location("file:///srv/with%20space") == Path("/srv/with space")
    assert parse_location("file://localhost/srv/x") == Path("/srv/x")
    assert parse_location((tmp_path / "ü?#%").as_uri()) == tmp_path / "ü?#%"


def test_the_default_is_the_environment_then_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOLDFAST_STORAGE", str(tmp_path / "given"))
    assert parse_location(None) == tmp_path / "given"
    monkeypatch.delenv("HOLDFAST_STORAGE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with caplog.at_level("INFO"):
        assert parse_location(None) == tmp_path / "data" / "holdfast"
    assert f"storage.default_location path={tmp_path / 'data' / 'holdfast'}" in caplog.text


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://bucket/x", "scheme 's3' is not known; give a local path or a file:// URI"),
        ("gs://bucket", "scheme 'gs'"),
        ("file://host/srv", "on this host"),
        ("file://relative", "absolute path"),
        ("file:///", "absolute path"),
        ("", "not a path"),
        ("  ", "not a path"),
        ("a\0b", "not a path"),
    ],
)
def test_other_locations_are_refused(location: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_location(location)


def test_a_location_that_is_not_text_is_refused() -> None:
    for bad in (7, b"bytes"):
        with pytest.raises(TypeError):
            parse_location(bad)  # type: ignore[arg-type]


def modes(path: Path) -> dict[str, str]:
    """Of a folder and all in it that others may open."""
    found = {entry: entry.stat().st_mode & 0o777 for entry in (path, *path.rglob("*"))}
    right = {entry: 0o700 if entry.is_dir() else 0o600 for entry in found}
    return {str(entry.relative_to(path)): oct(mode) for entry, mode in found.items() if mode != right[entry]}


def filled(path: Path) -> StorageFolder:
    """A folder with one of each: rows, blobs of each way that they are written, code, locks, a temporary file."""
    folder = StorageFolder.open(str(path))
    PlatformLock(path).acquire("platform")
    other = PlatformLock(path)
    other.join("platform")
    other.release()
    with folder.kv.write() as transaction:
        transaction.put(b"a", b"1")
    folder.blobs.write("a0", Payload(b"value"))
    folder.blobs.write("a0", Payload(b"large", (bytes(2 << 20),)))
    folder.blobs.link_group("a0", "a1")
    folder.code.put(b"code")
    return folder


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277], indirect=True, ids=oct)
def test_only_its_user_can_open_what_is_in_a_folder_whatever_the_umask(umask: None, tmp_path: Path) -> None:
    path = tmp_path / "storage"
    folder = filled(path)
    folder.kv.copy(path / "copy")
    assert {"LOCK", "LOCK.members", *PARTS} < {entry.name for entry in path.iterdir()}
    assert modes(path) == {}
    folder.close()


def opened_to_all(path: Path) -> None:
    """A folder as earlier releases left it."""
    for entry in (path, *path.rglob("*")):
        entry.chmod(0o755 if entry.is_dir() else 0o644)


def test_a_folder_that_was_open_to_all_is_closed_when_it_is_opened_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    filled(path).close()
    (path / "LOCK").touch()
    opened_to_all(path)
    folder = StorageFolder.open(str(path), create=False)
    assert modes(path) == {}
    with folder.kv.read() as transaction:
        assert transaction.get(b"a") == b"1"
    folder.close()


def test_a_closing_that_was_interrupted_anywhere_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "storage"
    filled(path).close()
    closed, close = 0, own_files.close_to_others

    def die_then(at: Path) -> bool:
        nonlocal closed
        closed += 1
        if closed > 3:
            raise KeyboardInterrupt
        return close(at)

    opened_to_all(path)
    with monkeypatch.context() as context:
        context.setattr(own_files, "close_to_others", die_then)
        with pytest.raises(KeyboardInterrupt):
            StorageFolder.open(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    assert modes(path) != {}
    StorageFolder.open(str(path)).close()
    assert modes(path) == {}


def test_of_very_many_files_the_last_stay_as_they_are_behind_a_closed_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "storage"
    filled(path).close()
    opened_to_all(path)
    monkeypatch.setattr(own_files, "MOST_CLOSED", 5)
    StorageFolder.open(str(path)).close()
    closed = {str(entry.relative_to(path)) for entry in path.rglob("*") if own_files.is_closed(entry)}
    # The lock table is closed by whoever opens it.
    assert closed == {"FORMAT", "LOCK", "LOCK.members", "blobs", "code", "meta.lmdb", "meta.lmdb/lock.mdb"}
    assert own_files.is_closed(path)


@needs_root
def test_another_user_can_neither_read_a_folder_nor_hold_its_locks(tmp_path: Path) -> None:
    path = readable(tmp_path) / "storage"
    filled(path).close()

    def hold(name: str) -> None:
        fcntl.flock(os.open(path / name, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)

    for name in (".", "LOCK", "LOCK.members", "FORMAT", "meta.lmdb", "meta.lmdb/data.mdb", "meta.lmdb/lock.mdb"):
        assert isinstance(as_nobody(partial(hold, name)), PermissionError), name


@needs_root
def test_a_folder_of_another_user_is_refused_naming_both(tmp_path: Path) -> None:
    path = readable(tmp_path) / "storage"
    made(path)

    def said() -> str:
        try:
            StorageFolder.open(str(path))
        except StorageNotWritableError as error:
            return str(error)
        return "opened"

    assert f"it belongs to user 0, and user {NOBODY} may not write it" in as_nobody(said)
