"""What the LMDB store promises beyond the contract: files that are damaged, disks that are full, forks."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageCorruptError, StorageError, StorageFullError, StorageNotWritableError
from holdfast.storage.datafile import check_data_file
from holdfast.storage.lmdb import LmdbStore

Start = Callable[..., "subprocess.Popen[str]"]

OPEN_SCRIPT = """
import resource, sys
from holdfast.storage.lmdb import LmdbStore
from holdfast.engine.errors import StorageCorruptError
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
try:
    store = LmdbStore(sys.argv[1])
except StorageCorruptError as error:
    print("refused:", error)
else:
    with store.read() as transaction:
        print("opened:", len([value for _, value in transaction.scan(b"")]))
"""


def filled(path: Path) -> Path:
    store = LmdbStore(path)
    for number in range(30):
        with store.write() as transaction:
            for part in range(20):
                transaction.put(b"key-%03d-%02d" % (number, part), os.urandom(300))
            transaction.put(b"large-%03d" % number, os.urandom(20_000))
    store.close()
    return path / "data.mdb"


def test_one_process_shares_one_environment_until_its_last_holder_closes(tmp_path: Path) -> None:
    first = LmdbStore(tmp_path / "store")
    (tmp_path / "alias").symlink_to(tmp_path / "store")
    second = LmdbStore(tmp_path / "alias")
    with first.write() as transaction:
        transaction.put(b"a", b"1")
        with pytest.raises(StorageError, match="already writing"), second.write():
            raise AssertionError("one environment has one writer")
    first.close()
    with second.read() as transaction:
        assert transaction.get(b"a") == b"1"
    second.close()
    again = LmdbStore(tmp_path / "store", create=False)
    with again.read() as transaction:
        assert transaction.get(b"a") == b"1"
    again.close()


@pytest.mark.parametrize("kept", [0.0, 1, 100, 4095, 4096, 4200, 8192, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999, -1])
def test_a_truncated_file_is_refused_before_it_is_mapped(tmp_path: Path, start_python: Start, kept: float) -> None:
    file = filled(tmp_path / "store")
    size = file.stat().st_size
    os.truncate(file, size - 1 if kept == -1 else int(size * kept) if isinstance(kept, float) else kept)
    process = start_python(OPEN_SCRIPT, tmp_path / "store")
    told, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")
    assert told.startswith("refused:")
    assert "data.mdb" in told


@pytest.mark.parametrize("lost", [1, 4096, 20_000])
def test_a_large_value_that_is_cut_off_is_found_though_the_tree_is_whole(tmp_path: Path, lost: int) -> None:
    file = filled(tmp_path / "store")
    store = LmdbStore(tmp_path / "store")
    with store.write() as transaction:
        transaction.put(b"last", os.urandom(200_000))
    # These put the tree into pages that were freed, in front of the large value.
    for number in range(6):
        with store.write() as transaction:
            transaction.put(b"small", b"%d" % number)
    store.close()
    os.truncate(file, file.stat().st_size - lost)
    with pytest.raises(StorageCorruptError, match=r"the large value at page .* is cut off"):
        LmdbStore(tmp_path / "store")


@pytest.mark.parametrize("damage", ["all", "after the header", "header", "text"])
def test_a_file_of_garbage_is_refused(tmp_path: Path, damage: str) -> None:
    file = filled(tmp_path / "store")
    content = bytearray(file.read_bytes())
    noise = random.Random(damage)
    if damage == "text":
        content[:] = b"this is not a store\n" * 1000
    else:
        begin, end = {"all": (0, len(content)), "after the header": (8192, len(content)), "header": (0, 8192)}[damage]
        content[begin:end] = noise.randbytes(end - begin)
    file.write_bytes(content)
    with pytest.raises(StorageCorruptError, match=r"data\.mdb .*(not an LMDB file|overwritten)"):
        LmdbStore(tmp_path / "store")


def test_a_deep_check_finds_an_overwritten_page_and_passes_a_whole_file(tmp_path: Path) -> None:
    file = filled(tmp_path / "store")
    check_data_file(file, "here", deep=True)
    content = bytearray(file.read_bytes())
    at = content.index(b"key-015-00") // 4096 * 4096
    content[at : at + 4096] = bytes(4096)
    file.write_bytes(content)
    with pytest.raises(StorageCorruptError, match=f"page {at // 4096} was overwritten"):
        check_data_file(file, "here", deep=True)


def test_a_file_shorter_than_its_header_says_is_taken_when_no_page_in_use_is_missing(tmp_path: Path) -> None:
    file = filled(tmp_path / "store")
    store = LmdbStore(tmp_path / "store")
    with store.write() as transaction:
        transaction.delete_prefix(b"")
    with store.write() as transaction:
        transaction.put(b"small", b"value")
    store.close()
    content = file.read_bytes()
    length = len(content)
    shortest = None
    for kept in range(length - 4096, 8192, -4096):
        os.truncate(file, kept)
        try:
            check_data_file(file, "here")
        except StorageCorruptError:
            break
        shortest = kept
    assert shortest is not None
    file.write_bytes(content[:shortest])
    store = LmdbStore(tmp_path / "store")
    with store.read() as transaction:
        assert list(transaction.scan(b"")) == [(b"small", b"value")]
    with store.write() as transaction:
        for number in range(200):
            transaction.put(b"%d" % number, os.urandom(5000))
    with store.read() as transaction:
        assert len([value for _, value in transaction.scan(b"")]) == 201
    store.close()
    check_data_file(file, "here", deep=True)


def test_a_missing_file_is_refused_where_a_store_must_be(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(StorageCorruptError, match=r"data\.mdb is missing"):
        LmdbStore(tmp_path / "store", create=False)


def test_a_store_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    left = tmp_path / "store" / ".new-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "data.mdb").write_bytes(b"")
    store = LmdbStore(tmp_path / "store")
    store.close()
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["data.mdb", "lock.mdb"]


def test_a_path_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageNotWritableError, match="Not a directory"):
        LmdbStore(tmp_path / "file" / "store")


def test_a_full_disk_fails_one_commit_and_leaves_the_store_usable(small_disk: Path) -> None:
    store = LmdbStore(small_disk / "store")
    kept: dict[bytes, bytes] = {}

    def store_until_it_is_full() -> None:
        for number in range(100):
            key, value = b"key-%d" % number, os.urandom(50_000)
            with store.write() as transaction:
                transaction.put(key, value)
            kept[key] = value

    with pytest.raises(StorageFullError, match="no space left"):
        store_until_it_is_full()
    assert 10 < len(kept) < 100
    with store.read() as transaction:
        assert dict(transaction.scan(b"")) == kept
    with store.write() as transaction:
        assert transaction.delete_prefix(b"key-1") > 0
    with store.write() as transaction:
        transaction.put(b"after", b"the storm")
    store.close()
    check_data_file(small_disk / "store" / "data.mdb", "here", deep=True)
    again = LmdbStore(small_disk / "store")
    with again.read() as transaction:
        assert transaction.get(b"after") == b"the storm"
    again.close()


def test_a_store_on_a_disk_without_any_space_opens_for_reading_or_says_that_it_is_full(
    small_disk: Path, start_python: Start, fill_up: Callable[[Path], Path]
) -> None:
    store = LmdbStore(small_disk / "store")
    with store.write() as transaction:
        transaction.put(b"a", b"1")
    store.close()
    fill_up(small_disk)
    process = start_python(OPEN_SCRIPT, small_disk / "store")
    assert process.communicate(timeout=60) == ("opened: 1\n", "")
    (small_disk / "store" / "lock.mdb").unlink()
    fill_up(small_disk)
    with pytest.raises(StorageFullError, match="no space left"):
        LmdbStore(small_disk / "store")


def test_a_store_that_outgrows_its_map_is_full(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", map_size=1 << 20)
    with pytest.raises(StorageFullError, match="larger map_size"), store.write() as transaction:
        transaction.put(b"a", bytes(2 << 20))
    with store.write() as transaction:
        transaction.put(b"a", b"small")
    store.close()


def test_where_the_system_refuses_the_map_a_smaller_one_is_taken(tmp_path: Path, start_python: Start) -> None:
    filled(tmp_path / "store")
    process = start_python(OPEN_SCRIPT, tmp_path / "store", 8 << 30)
    told, complaint = process.communicate(timeout=60)
    assert told == "opened: 630\n"
    assert "storage.map_refused" in complaint


def test_a_forked_process_is_refused_and_its_parent_is_not_disturbed(start_python: Start, tmp_path: Path) -> None:
    script = """
import os, sys
from holdfast.storage.lmdb import LmdbStore
from holdfast.engine.errors import StorageError
store = LmdbStore(sys.argv[1])
reader = store.read()
with reader as transaction:
    child = os.fork()
    if child == 0:
        for use in (lambda: store.read(), lambda: store.write(), lambda: LmdbStore(sys.argv[1])):
            try:
                use()
            except StorageError as error:
                print(error, flush=True)
        other = LmdbStore(sys.argv[1] + "-other")
        with other.write() as writing:
            writing.put(b"a", b"from the child")
        other.close()
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    with store.write() as writing:
        writing.put(b"a", b"1")
with store.read() as transaction:
    print(transaction.get(b"a"))
"""
    process = start_python(script, tmp_path / "store")
    told, complaint = process.communicate(timeout=60)
    assert complaint == ""
    lines = told.splitlines()
    assert [("fork" in line, "'spawn'" in line) for line in lines[:3]] == [(True, True)] * 3
    assert lines[3:] == ["b'1'"]


def test_a_copy_holds_what_was_committed_and_is_not_written_over(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    store = LmdbStore(tmp_path / "store")
    store.copy(tmp_path / "backup" / "today")
    with pytest.raises(StorageError, match="not empty"):
        store.copy(tmp_path / "backup" / "today")
    copy = LmdbStore(tmp_path / "backup" / "today", create=False)
    with store.read() as ours, copy.read() as theirs:
        assert list(theirs.scan(b"")) == list(ours.scan(b""))
    copy.close()
    store.close()
    check_data_file(tmp_path / "backup" / "today" / "data.mdb", "here", deep=True)


def test_the_reader_slot_of_a_killed_process_is_freed(tmp_path: Path, start_python: Start) -> None:
    script = """
import sys
from holdfast.storage.lmdb import LmdbStore
with LmdbStore(sys.argv[1]).read():
    print("reading", flush=True)
    sys.stdin.readline()
"""
    store = LmdbStore(tmp_path / "store")
    reader = start_python(script, tmp_path / "store")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    assert store.check_readers() == 0
    reader.kill()
    reader.wait()
    assert store.check_readers() == 1
    assert store.check_readers() == 0
    store.close()
