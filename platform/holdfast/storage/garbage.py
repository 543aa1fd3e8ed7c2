"""Files that no row names: what processes that died have left behind. Removes them, and nothing else."""

from __future__ import annotations

from holdfast.storage import actor_store, workflow_store
from holdfast.storage.actor_blobs import collect_actor_blobs
from holdfast.storage.folder import StorageFolder


def collect_garbage(folder: StorageFolder, before_unix_s: float) -> int:
    """Remove blobs of submissions that never came to be, those of virtual actors that no row names, half-written files.

    Args:
        folder: The storage folder.
        before_unix_s: Only what has not been touched since, in seconds since the epoch: what is younger may belong
            to a submission, or a call, that is being written.

    Returns:
        How many things were removed.

    Semantics: safe beside writers and readers, and safe to repeat. What a virtual actor's host has in memory and had
    written before that time is not known here: no host may be running since.
    """
    removed = folder.blobs.collect_garbage() + folder.code.collect_garbage()
    for group in folder.blobs.groups():
        untouched = folder.blobs.made_before(group, before_unix_s)
        with folder.kv.read() as txn:
            owned = workflow_store.owns_blobs(txn, group)
            actor = actor_store.of_blob_group(txn, group) if owned else None
        if actor is not None:
            removed += collect_actor_blobs(folder, actor, before_unix_s)
        elif untouched and not owned:
            removed += folder.blobs.delete_group(group)
    return removed
