"""What ran on a cluster that is gone, when a platform starts on its folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from holdfast.actors import names
from holdfast.engine.errors import StorageCorruptError
from holdfast.engine.transitions import StatusSignal, WorkflowStatus, next_status
from holdfast.storage import schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.answered import forget_all_answers
from holdfast.storage.interface import KeyValueStore

log = logging.getLogger("holdfast")


def lose_cluster(kv: KeyValueStore, executors: Sequence[str]) -> int:
    """Mark what ran on a cluster that is gone as RESUMABLE. For a platform that starts on an old folder.

    Args:
        kv: The store.
        executors: Those of the new platform: what is queued is theirs from now on.

    Returns:
        How many workflows were running.
    """
    with kv.write() as txn:
        store.forget_deleted(txn)
        forget_all_answers(txn)
        for setting in store.settings_beginning(txn, names.process_setting("")):
            store.drop_setting(txn, setting)
        running = store.list_seqs(txn, WorkflowStatus.RUNNING)
        for seq in running:
            try:
                row = store.get(txn, seq)
            except StorageCorruptError as error:
                log.error("a workflow is left as it is: %s", error)
                store.let_go(txn, seq)
                continue
            assert row is not None
            changed = replace(row, status=next_status(row.status, StatusSignal.CLUSTER_LOST))
            store.save(txn, changed, was=row)
            store.put_away(txn, seq, row.executor)
        for row in store.list_by_ids(txn, store.list_seqs(txn, WorkflowStatus.PENDING)):
            if not names.is_dedicated(row.executor):
                store.save(txn, replace(row, executor=names.executor_for(row.workflow_id, executors)))
        schedule_store.wake_waiting(txn)
    return len(running)
