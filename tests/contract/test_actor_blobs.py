"""What hosts that died have left in an actor's folder goes; what a row names, and what is young, stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.engine.virtual_actor_records import CallLogged, CallSpec, QueuedCall
from holdfast.storage import actor_store, layout
from holdfast.storage.actor_blobs import collect_actor_blobs, find_left_behind
from holdfast.storage.actor_row import ActorRow, ActorSpec
from holdfast.storage.folder import StorageFolder
from holdfast.storage.payload import Payload
from holdfast.storage.record_codec import Blob

NONCE = "aa" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StorageFolder]:
    opened = StorageFolder.open(tmp_path / "storage")
    yield opened
    opened.close()


def actor_with_a_call(folder: StorageFolder) -> tuple[ActorRow, str]:
    key = folder.blobs.write(NONCE, Payload(b"arguments"))
    spec = CallSpec(method="add", nonce="bb" * 16, arguments=Blob(key, 9))
    with folder.kv.write() as txn:
        row = actor_store.create(txn, ActorRow(seq=0, actor_id="cart", spec=ActorSpec(class_name="C"), nonce=NONCE))
        call = CallLogged(call=QueuedCall(number=0, name="add", spec=spec, accepted_unix_s=1.0))
        actor_store.write_records(txn, row, [call], now_unix_s=1.0, history=10)
    return row, key


def test_what_no_row_names_goes_when_it_is_old(folder: StorageFolder) -> None:
    row, named = actor_with_a_call(folder)
    unnamed = folder.blobs.write(NONCE, Payload(b"a result that never came to be"))
    by_content = folder.blobs.write(NONCE, Payload(b"of an ObjectRef"), name="cc")
    later = time.time() + 1
    assert collect_actor_blobs(folder, row.seq, later - 3600) == 0
    assert collect_actor_blobs(folder, row.seq, later) == 1
    assert folder.blobs.keys(NONCE) == sorted([named, by_content])
    assert not folder.blobs.exists(unnamed)
    assert collect_actor_blobs(folder, row.seq, later) == 0


def test_what_a_dead_host_was_writing_goes(folder: StorageFolder) -> None:
    row, named = actor_with_a_call(folder)
    unfinished = folder.blobs.root / NONCE / ".writing-0123"
    unfinished.write_bytes(b"half a res")
    assert collect_actor_blobs(folder, row.seq, time.time() - 3600) == 1
    assert not unfinished.exists()
    assert folder.blobs.keys(NONCE) == [named]


def test_nothing_that_a_damaged_row_may_name_goes(folder: StorageFolder) -> None:
    row, _ = actor_with_a_call(folder)
    folder.blobs.write(NONCE, Payload(b"whose it is nobody knows"))
    with folder.kv.write() as txn:
        txn.put(layout.actor(row.seq), b"damaged")
    before = folder.blobs.keys(NONCE)
    assert collect_actor_blobs(folder, row.seq, time.time() + 1) == 0
    assert folder.blobs.keys(NONCE) == before


def test_an_actor_that_is_gone_has_none(folder: StorageFolder) -> None:
    assert collect_actor_blobs(folder, 7, time.time()) == 0


def test_actors_with_something_left_are_found(folder: StorageFolder) -> None:
    row, named = actor_with_a_call(folder)
    folder.blobs.write("dd" * 16, Payload(b"a workflow's"))
    later = time.time() + 1
    assert list(find_left_behind(folder, later)) == []
    left = folder.blobs.write(NONCE, Payload(b"a result that never came to be"))
    unfinished = folder.blobs.root / NONCE / ".writing-0123"
    unfinished.write_bytes(b"half a res")
    assert [found.seq for found in find_left_behind(folder, later)] == [row.seq]
    assert list(find_left_behind(folder, later - 3600)) == []
    # It may be on its way in some host.
    assert folder.blobs.keys(NONCE) == sorted([left, named])
    assert not unfinished.exists()
