"""Code by hash: stored once, checked when it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from holdfast.engine.errors import StorageCorruptError, StorageFullError, StorageMissingError
from holdfast.storage.code import CodeStore, hash_of


@pytest.fixture
def code(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "code")


def stored_files(code: CodeStore) -> list[Path]:
    return [path for path in code.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [b"", b"def f(): ...", bytes(range(256)) * 5000], ids=["empty", "small", "large"])
def test_content_is_found_by_its_hash(code: CodeStore, content: bytes) -> None:
    name = code.put(content)
    assert name == hashlib.blake2b(content, digest_size=16).hexdigest() == hash_of(content)
    assert CodeStore(code.root).get(name) == content
    assert code.has(name)


def test_content_is_stored_once(code: CodeStore) -> None:
    name = code.put(b"content")
    (file,) = stored_files(code)
    inode = file.stat().st_ino
    assert CodeStore(code.root).put(b"content") == code.put(b"content") == name
    assert [path.stat().st_ino for path in stored_files(code)] == [inode]


def test_content_never_stored_is_a_key_error_that_names_it(code: CodeStore) -> None:
    name = hash_of(b"never stored")
    assert not code.has(name)
    with pytest.raises(StorageMissingError, match=f"{name}: no such code") as caught:
        code.get(name)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("damage", [b"", b"c", b"another content"])
def test_content_with_another_hash_is_refused_and_mended_by_storing_it_again(code: CodeStore, damage: bytes) -> None:
    name = code.put(b"content")
    (file,) = stored_files(code)
    file.write_bytes(damage)
    with pytest.raises(StorageCorruptError, match=f"{name}: its {len(damage)} bytes"):
        code.get(name)
    again = CodeStore(code.root)
    assert again.put(b"content") == name
    assert again.get(name) == b"content"


@pytest.mark.parametrize("bad", ["", "..", "../../etc", "A" * 32, "a" * 31, "a" * 33, "a" * 32 + "\n"])
def test_what_is_not_a_hash_is_refused(code: CodeStore, bad: str) -> None:
    for use in (code.get, code.has):
        with pytest.raises(ValueError, match="not the hash of code"):
            use(bad)


def test_a_full_disk_fails_the_put_and_leaves_nothing_behind(small_disk: Path) -> None:
    code = CodeStore(small_disk / "code")
    with pytest.raises(StorageFullError, match="no space left"):
        code.put(bytes(4 << 20))
    assert stored_files(code) == []
    assert not code.has(hash_of(bytes(4 << 20)))


def test_the_temporary_file_of_a_dead_writer_is_cleared(code: CodeStore) -> None:
    name = code.put(b"content")
    (stored_files(code)[0].parent / ".writing-0123").write_bytes(b"half")
    assert code.collect_garbage() == 1
    assert [path.name for path in stored_files(code)] == [name]
