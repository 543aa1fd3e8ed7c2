"""Fixtures of the crash tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recovery.audit import Audit
from tests.recovery.drivers import Driver


@pytest.fixture
def audit_file(tmp_path: Path) -> Path:
    """Where tasks note that they run."""
    return tmp_path / "audit.tsv"


@pytest.fixture
def audit(audit_file: Path, tmp_path: Path) -> Audit:
    """The audit of the test's own storage folder."""
    return Audit(audit_file, tmp_path / "storage")


@pytest.fixture
def start_driver(tmp_path: Path, audit_file: Path) -> Iterator[Callable[..., Driver]]:
    """Starts drivers on the test's own storage folder; at the end nothing of them is left."""
    started: list[Driver] = []

    def start(**orders: Any) -> Driver:
        driver = Driver(tmp_path / "storage", audit_file, **orders)
        started.append(driver)
        return driver

    yield start
    for driver in started:
        driver.close()
