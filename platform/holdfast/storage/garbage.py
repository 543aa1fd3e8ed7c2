"""Files that no row names: what processes that died have left behind. Removes them, and nothing else."""

from __future__ import annotations

from holdfast.storage import workflow_store
from holdfast.storage.folder import StorageFolder


def collect_garbage(folder: StorageFolder, before_unix_s: float) -> int:
    """Remove blobs of submissions that never came to be, and half-written files.

    Args:
        folder: The storage folder.
        before_unix_s: Only what has not been touched since, in seconds since the epoch: what is younger may belong
            to a submission that is being written.

    Returns:
        How many things were removed.

    Semantics: safe beside writers and readers, and safe to repeat.
    """
    removed = folder.blobs.collect_garbage() + folder.code.collect_garbage()
    for group in folder.blobs.groups():
        if not folder.blobs.made_before(group, before_unix_s):
            continue
        with folder.kv.read() as txn:
            owned = workflow_store.owns_blobs(txn, group)
        if not owned:
            removed += folder.blobs.delete_group(group)
    return removed
