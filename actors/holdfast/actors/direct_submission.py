"""Workflows that a client on the storage machine makes durable itself.

The store is shared by the processes of its machine, so a client there needs no
answer of an executor to know that its workflow is durable: it writes the
workflow down under the executor's name and only tells that executor. Whoever
submits many is then bound by its own commits, and the executor takes up, in
one transaction, all that have come meanwhile. Only what is plain goes this
way: what is refused, queued, resumed or has files of its own goes the ordinary
way, which says why.
"""

from __future__ import annotations

import logging
import threading
import time

from holdfast.actors.brought_files import BroughtFiles
from holdfast.actors.new_workflow import new_row
from holdfast.actors.operations import Submit
from holdfast.actors.ray_launch import Launcher
from holdfast.actors.requests import SubmitRequest
from holdfast.actors.storage_access import StorageAddress
from holdfast.engine.errors import HoldfastError, StorageError
from holdfast.engine.queueing import Admission
from holdfast.engine.run import Run
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import KeyValueStore, WriteTransaction

log = logging.getLogger("holdfast")


class DirectSubmission:
    """The way of one process to the store of its platform. Any thread may use it.

    Args:
        address: Where the storage folder is, on this machine.
    """

    def __init__(self, address: StorageAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._folder: StorageFolder | None = None
        self._files: BroughtFiles | None = None
        self._closed = False

    def submit(self, request: SubmitRequest, executor: str) -> int | None:
        """Make a workflow durable that an executor is to drive.

        Args:
            request: The workflow.
            executor: The name of the executor that its id says.

        Returns:
            Its number, for the executor to be told; should nobody tell it, it finds the workflow a little later. None
            when nothing was done: ask the executor, in the ordinary way.
        """
        if request.dedicated or BroughtFiles.has_large_parts(request):
            return None
        try:
            with self._lock:
                folder, files = self._opened()
                submit = files.stored_submission(request)
            return submit_directly(folder.kv, submit, executor, self._address.cluster, time.time())
        except StorageError as error:
            # The executor is asked, which says what it is if it meets it too.
            log.info("a workflow is not written by its client workflow_id=%s error=%s", request.workflow_id, error)
            return None

    def _opened(self) -> tuple[StorageFolder, BroughtFiles]:
        if self._closed:
            raise StorageError(self._address.path, "the platform that had it is gone", "Ask for the new one.")
        if self._folder is None or self._files is None:
            self._folder = StorageFolder.open(self._address.path, create=False)
            self._files = BroughtFiles(self._folder, Launcher(self._folder, self._address, ""))
        return self._folder, self._files

    def close(self) -> None:
        """Let go of the store. What is asked for afterwards is not done."""
        with self._lock:
            self._closed = True
            if self._folder is not None:
                self._folder.close()


def submit_directly(kv: KeyValueStore, submit: Submit, executor: str, cluster: str, now_unix_s: float) -> int | None:
    """Write a workflow down as one that an executor drives, in a transaction of its own.

    Args:
        kv: The store.
        submit: The workflow; its files are stored.
        executor: Name of the executor.
        cluster: The end of the id of the platform that the client knows.
        now_unix_s: The time.

    Returns:
        Its number; None when nothing was written, for an executor has to decide or refuse.
    """
    try:
        _, step = Run.create(submit.workflow_id, submit.graph, now_unix_s)
    except HoldfastError:
        return None
    with kv.write() as txn:
        if not _is_plain(txn, submit, cluster):
            return None
        row = store.create(txn, new_row(submit, executor, Admission.ADMITTED, now_unix_s))
        # Only the graph: what it starts is found when the executor takes it up.
        store.write_records(txn, row, step.records[:1])
        store.take_lease(txn, row.seq, executor)
        return row.seq


def _is_plain(txn: WriteTransaction, submit: Submit, cluster: str) -> bool:
    """Whether this is a new workflow, there is room for it, and the platform is still the one that has the folder."""
    if not str(store.load_setting(txn, "platform_id")).endswith(cluster):
        return False
    # Of another workflow, of a virtual actor, or of this very one.
    if store.knows(txn, submit.workflow_id) or store.was_deleted(txn, submit.nonce):
        return False
    admission = store.load_limits(txn).decide(
        running=store.count(txn, WorkflowStatus.RUNNING),
        pending=store.count(txn, WorkflowStatus.PENDING),
        ran_before=False,
    )
    return admission is Admission.ADMITTED
