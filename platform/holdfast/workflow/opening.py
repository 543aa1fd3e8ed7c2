"""`workflow.init`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from holdfast.workflow.api import resume_all
from holdfast.workflow.platform import open_platform

__all__ = ["init"]


def init(
    storage: str | os.PathLike[str] | None = None,
    *,
    max_running_workflows: int | None = None,
    max_pending_workflows: int | None = None,
    executors: int | None = None,
    lease_s: float | None = None,
    resume: Literal["auto"] | None = None,
    keep_finished_s: float | None = None,
    keep_finished: int | None = None,
    kafka: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Open a storage folder for this cluster. Starts Ray when it is not up.

    Args:
        storage: A path, or a `file://` URI. Default: the environment variable `HOLDFAST_STORAGE`, else a folder
            under the user's data directory.
        max_running_workflows: How many workflows may run at once; -1 for no limit, which is the default.
        max_pending_workflows: How many may wait for a place; -1 for no limit, which is the default.
        executors: How many processes drive workflows. Default: one for two cores of this node, at most 4.
        lease_s: Seconds after which an executor that does not answer is ended and its workflows are taken up anew.
            Default: 30.
        keep_finished_s: Seconds for which a workflow is kept after its end; -1 for ever, which is the default.
        keep_finished: How many workflows are kept that were SUCCESSFUL or CANCELED, the last ones; -1 for all, which
            is the default. One that FAILED may be mended and resumed: it goes by its age only.
        resume: "auto" takes up again what was running when the last cluster was lost, running before pending.
        kafka: Connections to Kafka clusters by name, each a dict of settings: `{"default": {"bootstrap_servers":
            "host:9092"}}`; all settings are in `holdfast.listeners.kafka_settings.KafkaSettings`. Secrets are given
            by reference, `{"env": "NAME"}` or `{"file": "path"}`. They are kept with the storage: a later `init`
            need not say them again, and one that says others changes them. Default: servers of the connection
            `default` from the environment, `HOLDFAST_KAFKA_BOOTSTRAP_SERVERS` or `KAFKA_BOOTSTRAP_SERVERS`.

    Raises:
        TypeError: A limit is not a whole number, or not a number.
        ValueError: A limit is out of range, a Kafka connection is not what it should be, or the platform is open
            already with another storage or other limits.
        StorageError: The folder cannot be used; says what to do.

    Semantics: may be called again, and from any process joined to the cluster. API.md, section 1. What is kept of
    workflows that ended is said in docs/semantics.md, "Finished workflows can be kept for a time".
    """
    if resume not in (None, "auto"):
        raise ValueError(f'resume must be "auto" or None, not {resume!r}')
    open_platform(
        storage,
        max_running_workflows=max_running_workflows,
        max_pending_workflows=max_pending_workflows,
        executors=executors,
        lease_s=lease_s,
        keep_finished_s=keep_finished_s,
        keep_finished=keep_finished,
        kafka=kafka,
    )
    if resume == "auto":
        resume_all()
