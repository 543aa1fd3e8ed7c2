"""What all tests share: a local Ray for a module, and a fresh platform on a fresh folder for a test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from holdfast import workflow

# The first local Ray of a process would switch token authentication on for all that follow, and for their children:
# clusters that tests start in other ways, before or after it, would then not trust each other.
os.environ["RAY_AUTH_MODE"] = "disabled"


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One local Ray of two CPUs for the tests of a module."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def storage(local_ray: None, tmp_path: Path) -> Iterator[Path]:
    """A platform on a fresh folder, on the module's Ray; the folder's path."""
    folder = tmp_path / "storage"
    workflow.init(str(folder))
    yield folder
    workflow.shutdown()
