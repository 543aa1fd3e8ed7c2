"""Clusters of a test's own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from ray.cluster_utils import Cluster


@contextlib.contextmanager
def own_folder() -> Iterator[str]:
    """A temporary folder for a cluster: `ray.init()` elsewhere on this machine does not find the cluster there.

    Its path is short, because sockets lie in it.
    """
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def own_cluster(**head: Any) -> Iterator[Cluster]:
    """A cluster of one node, which others can be added to; lost at the end."""
    with own_folder() as folder:
        cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, "temp_dir": folder, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()
