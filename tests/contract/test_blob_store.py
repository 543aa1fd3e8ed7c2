"""Payloads framed and mapped, blobs whole or absent."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from holdfast.engine.errors import (
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageMissingError,
    StorageNotWritableError,
)
from holdfast.storage.blobs import BlobStore
from holdfast.storage.payload import Payload, decode, encode

Start = Callable[..., "subprocess.Popen[str]"]


def pickled(value: object) -> Payload:
    buffers: list[pickle.PickleBuffer] = []
    inband = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return Payload(inband, tuple(buffers))


def unpickled(payload: Payload) -> object:
    return pickle.loads(payload.inband, buffers=payload.buffers)


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.mark.parametrize(
    "payload",
    [
        Payload(b""),
        Payload(b"inband only"),
        Payload(b"x", (b"",)),
        Payload(b"xyz", (b"one", bytearray(b"two" * 50), memoryview(b"three" * 99), b"", pickle.PickleBuffer(b"five"))),
        Payload(b"many", tuple(bytes([number]) * number for number in range(200)) * 7),
    ],
    ids=["empty", "inband", "empty buffer", "kinds of buffer", "more buffers than one call can write"],
)
def test_a_payload_comes_back_inline_and_from_a_blob(blobs: BlobStore, payload: Payload) -> None:
    for back in (decode(encode(payload)), blobs.read(blobs.write("a0", payload))):
        assert bytes(back.inband) == payload.inband
        assert [bytes(buffer) for buffer in back.buffers] == [bytes(memoryview(buffer)) for buffer in payload.buffers]
        assert back.nbytes == payload.nbytes


def test_an_inline_value_without_buffers_costs_twenty_bytes() -> None:
    assert len(encode(Payload(b"v" * 100))) == 120


def test_arrays_come_back_aligned_read_only_and_outlive_their_file(blobs: BlobStore) -> None:
    arrays = {
        "c": np.arange(1001, dtype=np.float64),
        "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "bytes": np.arange(7, dtype=np.uint8),
        "none": np.empty((0, 3)),
    }
    key = blobs.write("f00d", pickled(arrays))
    back = unpickled(blobs.read(key))
    assert blobs.delete_group("f00d")
    assert not blobs.exists(key)
    assert isinstance(back, dict)
    for name, array in arrays.items():
        assert np.array_equal(back[name], array)
        assert back[name].dtype == array.dtype
        assert not back[name].flags.writeable
        if array.size:
            assert back[name].ctypes.data % 64 == 0


def test_a_large_array_is_written_and_mapped_without_a_copy_on_the_heap(tmp_path: Path, start_python: Start) -> None:
    script = """
import pickle, resource, sys
import numpy as np
from holdfast.storage.blobs import BlobStore
from holdfast.storage.payload import Payload
array = np.ones(64 << 20, dtype=np.uint8)
blobs = BlobStore(sys.argv[1])
def data_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, ((data_kb() + (32 << 10)) << 10,) * 2)
buffers = []
payload = Payload(pickle.dumps(array, protocol=5, buffer_callback=buffers.append), tuple(buffers))
back = blobs.read(blobs.write("ab", payload, durable=False))
value = pickle.loads(back.inband, buffers=back.buffers)
print(int(value[:: 1 << 20].sum()))
try:
    np.ones(64 << 20, dtype=np.uint8)
except MemoryError:
    print("the limit bites")
"""
    process = start_python(script, tmp_path / "blobs")
    assert process.communicate(timeout=60) == ("64\nthe limit bites\n", "")


@pytest.mark.parametrize("kept", [0, 1, 19, 20, 30, 100, 200, 1000, -1])
def test_a_truncated_blob_is_refused_by_name(blobs: BlobStore, kept: int) -> None:
    key = blobs.write("a0", Payload(b"inband" * 20, (b"b" * 500, b"c" * 600)), name="b1")
    path = blobs.root / "a0" / "b1"
    os.truncate(path, path.stat().st_size - 1 if kept == -1 else kept)
    with pytest.raises(StorageCorruptError, match=r"a0/b1: truncated"):
        blobs.read(key)


@pytest.mark.parametrize(
    ("at", "content", "said"),
    [
        (0, b"garbage", "not a stored value"),
        (3, b"\x09", "format 9"),
        (9, b"\x01", "truncated"),
        (14, b"\x01", "damaged"),
    ],
)
def test_a_blob_of_garbage_is_refused_by_name(blobs: BlobStore, at: int, content: bytes, said: str) -> None:
    key = blobs.write("a0", Payload(b"inband", (b"b" * 500,)), name="b1")
    path = blobs.root / "a0" / "b1"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + content + whole[at + len(content) :])
    with pytest.raises(StorageCorruptError, match=f"a0/b1: .*{said}"):
        blobs.read(key)
    path.write_bytes(whole + b"more")
    with pytest.raises(StorageCorruptError, match="a0/b1: too long"):
        blobs.read(key)


def test_a_buffer_that_is_not_contiguous_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(BufferError):
        blobs.write("a0", Payload(b"", (memoryview(b"0123456789")[::2],)))
    assert files_below(blobs.root) == []


def test_a_name_that_exists_is_not_written_again(blobs: BlobStore) -> None:
    key = blobs.write("a0", Payload(b"first"), name="b1")
    inode = (blobs.root / key).stat().st_ino
    assert blobs.write("a0", Payload(b"second"), name="b1") == key == "a0/b1"
    assert bytes(blobs.read(key).inband) == b"first"
    assert (blobs.root / key).stat().st_ino == inode


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "../a", "a/b", "/a", "A", "g", "-a", ".a", "a\n", "a\0", "a" * 129, "é"]
)
def test_what_could_be_a_path_is_refused(blobs: BlobStore, bad: str) -> None:
    for use in (
        lambda: blobs.write(bad, Payload(b"")),
        lambda: blobs.write("a0", Payload(b""), name=bad),
        lambda: blobs.read(f"{bad}/a"),
        lambda: blobs.read(f"a/{bad}"),
        lambda: blobs.exists(f"a/{bad}"),
        lambda: blobs.size(f"a/{bad}"),
        lambda: blobs.delete_group(bad),
        lambda: blobs.keys(bad),
    ):
        with pytest.raises(ValueError, match="blob"):
            use()
    assert files_below(blobs.root) == []


def test_a_blob_that_is_not_there_is_a_key_error_that_names_it(blobs: BlobStore) -> None:
    blobs.write("a0", Payload(b""))
    for use in (blobs.read, blobs.size):
        with pytest.raises(StorageMissingError, match="a0/ffff: no such blob") as caught:
            use("a0/ffff")
        assert isinstance(caught.value, KeyError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert not blobs.exists("a0/ffff")


def test_groups_are_listed_and_deleted_as_a_whole(blobs: BlobStore) -> None:
    keys = sorted(blobs.write("a0", Payload(b"x" * size)) for size in (1, 2, 3))
    other = blobs.write("b0.c-1", Payload(b"other"), name="1")
    assert blobs.groups() == ["a0", "b0.c-1"]
    assert blobs.keys("a0") == keys
    assert blobs.keys("c0") == []
    assert blobs.size(other) == 25
    assert blobs.delete_group("a0")
    assert not blobs.delete_group("a0")
    assert blobs.groups() == ["b0.c-1"]
    assert files_below(blobs.root) == ["b0.c-1/1"]


def test_a_full_disk_fails_the_write_and_leaves_nothing_behind(small_disk: Path) -> None:
    blobs = BlobStore(small_disk / "blobs")
    kept = blobs.write("a0", Payload(b"fits"))
    for durable in (True, False):
        with pytest.raises(StorageFullError, match="no space left"):
            blobs.write("a0", Payload(b"", (bytes(4 << 20),)), durable=durable)
    assert files_below(blobs.root) == [kept]
    blobs.write("a0", Payload(b"", (bytes(1 << 20),)))


def test_a_folder_that_cannot_be_made_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageNotWritableError, match="Not a directory"):
        BlobStore(tmp_path / "file" / "blobs")


def test_garbage_of_dead_writers_goes_and_live_writers_are_left_alone(tmp_path: Path, start_python: Start) -> None:
    # It is stopped where it flushes, which is inside its write.
    script = """
import sys
from holdfast.storage.blobs import BlobStore
from holdfast.storage.payload import Payload
import os
blobs = BlobStore(sys.argv[1])
flush = os.fsync
def stopped(descriptor):
    print("in the write", flush=True)
    sys.stdin.readline()
    flush(descriptor)
os.fsync = stopped
blobs.write("a0", Payload(b"value"), name="b1", durable=True)
"""
    blobs = BlobStore(tmp_path / "blobs")
    writer = start_python(script, blobs.root)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "in the write\n"
    assert blobs.collect_garbage() == 0
    assert len(files_below(blobs.root)) == 1
    assert blobs.keys("a0") == []
    writer.kill()
    writer.wait()
    assert blobs.collect_garbage() == 1
    assert files_below(blobs.root) == []
    (blobs.root / ".deleted-0123").mkdir()
    assert blobs.collect_garbage() == 1
    assert blobs.groups() == ["a0"]


def test_a_group_deleted_while_it_is_written_fails_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    flush = os.fsync

    def delete_first(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        assert blobs.delete_group("a0")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", delete_first)
    with pytest.raises(StorageError, match="removed while it was used"):
        blobs.write("a0", Payload(b"value"))
    assert files_below(blobs.root) == []


class TestLinkedGroups:
    def test_a_group_that_shares_another_ones_blobs_survives_it(self, tmp_path: Path) -> None:
        blobs = BlobStore(tmp_path)
        value = np.arange(1000)
        blobs.write("aa", pickled(value), name="11")
        blobs.link_group("aa", "bb")
        assert blobs.keys("bb") == ["bb/11"]
        assert os.path.samefile(tmp_path / "aa" / "11", tmp_path / "bb" / "11")
        assert blobs.delete_group("aa")
        np.testing.assert_array_equal(unpickled(blobs.read("bb/11")), value)

    def test_linking_again_adds_what_is_new_and_keeps_what_is_there(self, tmp_path: Path) -> None:
        blobs = BlobStore(tmp_path)
        blobs.write("aa", pickled(1), name="11")
        blobs.link_group("aa", "bb")
        blobs.write("bb", pickled(2), name="22")
        blobs.write("aa", pickled(3), name="33")
        blobs.link_group("aa", "bb")
        assert blobs.keys("bb") == ["bb/11", "bb/22", "bb/33"]
        assert [unpickled(blobs.read(key)) for key in blobs.keys("bb")] == [1, 2, 3]

    def test_the_blobs_of_an_unknown_group_are_none(self, tmp_path: Path) -> None:
        blobs = BlobStore(tmp_path)
        blobs.link_group("aa", "bb")
        assert blobs.keys("bb") == []

    def test_a_group_is_no_path(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="group"):
            BlobStore(tmp_path).link_group("aa", "../bb")
