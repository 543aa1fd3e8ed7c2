"""What processes that died left behind goes; what belongs to a workflow stays."""

from __future__ import annotations

import time
from pathlib import Path

from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.garbage import collect_garbage
from holdfast.storage.payload import Payload
from holdfast.storage.workflow_row import WorkflowRow

OWNED, ORPHANED, YOUNG = "aa" * 16, "bb" * 16, "cc" * 16


def test_blobs_of_a_submission_that_never_came_to_be_go(tmp_path: Path) -> None:
    folder = StorageFolder.open(tmp_path / "storage")
    try:
        row = WorkflowRow(seq=0, workflow_id="w", status=WorkflowStatus.RUNNING, executor="e", nonce=OWNED)
        with folder.kv.write() as txn:
            row = store.create(txn, row)
        keys = {group: folder.blobs.write(group, Payload(b"value")) for group in (OWNED, ORPHANED)}
        start_unix_s = time.time() + 1.0
        assert collect_garbage(folder, before_unix_s=start_unix_s - 3600.0) == 0
        assert collect_garbage(folder, before_unix_s=start_unix_s) == 1
        assert folder.blobs.exists(keys[OWNED])
        assert not folder.blobs.exists(keys[ORPHANED])
        assert collect_garbage(folder, before_unix_s=start_unix_s) == 0
        with folder.kv.write() as txn:
            store.delete(txn, row, start_unix_s)
        assert collect_garbage(folder, before_unix_s=start_unix_s) == 1
        assert folder.blobs.groups() == []
    finally:
        folder.close()
