"""What the integration tests share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import workflow
from holdfast.storage.folder import StorageFolder
from tests.integration.outside import Source


@pytest.fixture(scope="module")
def platform(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One platform for the tests of a module, which use ids of their own; the storage folder."""
    folder = tmp_path_factory.mktemp("platform") / "storage"
    workflow.init(str(folder))
    yield folder
    workflow.shutdown()


@pytest.fixture
def wid(request: pytest.FixtureRequest) -> str:
    """A workflow id of the test's own."""
    return re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def source(platform: Path) -> Iterator[Source]:
    """A source of events that the test is."""
    folder = StorageFolder.open(platform, create=False)
    yield Source(folder)
    folder.close()
