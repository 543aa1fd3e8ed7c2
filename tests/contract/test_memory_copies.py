"""Copies of large blobs in memory: read while they are there, never believed, never in the way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageError, StorageMissingError
from holdfast.storage import files, memory_copies
from holdfast.storage.blobs import BlobStore
from holdfast.storage.memory_copies import LEAST_BYTES, MemoryCopies
from holdfast.storage.payload import Payload, encode

LARGE = Payload(b"large", (os.urandom(LEAST_BYTES + 4_321),))


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no file system in memory")
    # A folder of this test's own, so that another one, or a run beside this one, has no part in it.
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(memory_copies, "_MEMORY", memory)
    return BlobStore(tmp_path / "blobs")


def copies(blobs: BlobStore) -> list[Path]:
    return sorted(blobs.copies._folder.glob("*"))


def content(payload: Payload) -> list[bytes]:
    return [bytes(part) for part in (payload.inband, *payload.buffers)]


def on_disk(blobs: BlobStore, key: str) -> Path:
    return blobs.root / key


def test_a_large_blob_is_on_the_disk_and_read_from_its_copy(blobs: BlobStore) -> None:
    key = blobs.write("a0", LARGE)
    assert on_disk(blobs, key).read_bytes() == encode(LARGE)
    (copy,) = copies(blobs)
    assert copy.stat().st_mode & 0o777 == 0o600
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    # That shows which one is read: the copy, by the first; its memory is free when that one does without it.
    read = blobs.read(key)
    assert copies(blobs) == []
    assert content(read)[1][-1] == changed[-1]
    assert content(blobs.read(key)) == content(LARGE)


@pytest.mark.parametrize("size", [LEAST_BYTES, LEAST_BYTES + 1, 3 * LEAST_BYTES - 7, 2 * LEAST_BYTES + 4096])
def test_what_goes_past_the_page_cache_is_whole_whatever_its_size(tmp_path: Path, size: int) -> None:
    pieces = [os.urandom(37), os.urandom(size), b"", os.urandom(4096), b"end"]
    files.write_whole(tmp_path, "whole", pieces, durable=True, url="file:///whole", cached=False)
    assert (tmp_path / "whole").read_bytes() == b"".join(pieces)
    assert os.listdir(tmp_path) == ["whole"]


def test_where_the_page_cache_cannot_be_passed_by_it_is_written_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files.os, "pwrite", refuse)
    pieces = [os.urandom(2 * LEAST_BYTES)]
    files.write_whole(tmp_path, "whole", pieces, durable=True, url="file:///whole", cached=False)
    assert (tmp_path / "whole").read_bytes() == pieces[0]


def test_small_ones_named_ones_and_those_that_need_not_be_durable_have_none(blobs: BlobStore) -> None:
    blobs.write("a0", Payload(b"small"))
    blobs.write("a0", LARGE, name="ab-1")
    blobs.write("a0", LARGE, durable=False)
    assert copies(blobs) == []


def test_a_copy_of_another_size_is_not_read(blobs: BlobStore) -> None:
    key = blobs.write("a0", LARGE)
    (copy,) = copies(blobs)
    copy.write_bytes(b"short")
    assert content(blobs.read(key)) == content(LARGE)


def test_without_its_file_a_copy_is_nothing(blobs: BlobStore) -> None:
    key = blobs.write("a0", LARGE)
    on_disk(blobs, key).unlink()
    assert copies(blobs)
    with pytest.raises(StorageMissingError):
        blobs.read(key)


def test_what_is_deleted_is_deleted_in_memory_too_and_stays_readable_for_who_has_it(blobs: BlobStore) -> None:
    first, second, third = (blobs.write(group, LARGE) for group in ("a0", "a0", "b0"))
    read = blobs.read(second)
    assert blobs.delete(first)
    assert len(copies(blobs)) == 1
    fourth = blobs.write("a0", LARGE)
    assert len(copies(blobs)) == 2
    assert blobs.delete_group("a0")
    assert not blobs.exists(fourth)
    assert [copy.name for copy in copies(blobs)] == [third.replace("/", "_")]
    assert content(read) == content(LARGE)
    blobs.collect_garbage()
    assert copies(blobs) == []
    assert content(blobs.read(third)) == content(LARGE)


def test_a_copy_that_fails_hinders_nobody(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory_copies, "_write", fail)
    key = blobs.write("a0", LARGE)
    assert copies(blobs) == []
    assert content(blobs.read(key)) == content(LARGE)


def test_a_write_that_fails_leaves_no_copy(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(StorageError):
        blobs.write("a0", LARGE)
    assert copies(blobs) == []


def test_older_copies_make_room_for_new_ones(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_copies, "MOST_BYTES", 3 * LEAST_BYTES)
    keys = [blobs.write("a0", LARGE) for _ in range(4)]
    kept = {copy.name for copy in copies(blobs)}
    assert kept == {key.replace("/", "_") for key in keys[-2:]}
    assert [content(blobs.read(key)) for key in keys] == [content(LARGE)] * 4


def test_what_is_too_large_has_none(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_copies, "MOST_BYTES", LEAST_BYTES)
    key = blobs.write("a0", LARGE)
    assert copies(blobs) == []
    assert content(blobs.read(key)) == content(LARGE)


def test_copies_go_when_their_time_is_over(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.write("a0", LARGE)
    left = BlobStore(blobs.root.parent / "of a platform that was killed")
    left.write("a0", LARGE)
    elsewhere = blobs.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "old").touch()
    # Its name may be anybody's.
    disguised = blobs.copies._folder.with_name(f"{memory_copies._mine()}disguised")
    disguised.symlink_to(elsewhere)
    blobs.copies.drop_old()
    assert (len(copies(blobs)), len(copies(left))) == (1, 1)
    now = time.time()
    monkeypatch.setattr(memory_copies.time, "time", lambda: now + memory_copies.KEPT_S + 1)
    blobs.copies.drop_old()
    assert copies(blobs) == copies(left) == []
    assert not left.copies._folder.exists()
    assert (elsewhere / "old").exists()


def test_a_folder_that_somebody_else_could_write_is_not_used(blobs: BlobStore) -> None:
    blobs.copies._folder.mkdir(mode=0o777)
    blobs.copies._folder.chmod(0o777)
    key = blobs.write("a0", LARGE)
    assert copies(blobs) == []
    assert content(blobs.read(key)) == content(LARGE)


def test_two_folders_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    assert MemoryCopies(tmp_path / "a")._folder != MemoryCopies(tmp_path / "b")._folder
