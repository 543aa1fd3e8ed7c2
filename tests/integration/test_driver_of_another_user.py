"""A driver of another user than the platform's: it may not read the folder, and is not heard there; it asks by Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors.client import find_platform, forget_platform

LARGE = 2 << 20


@pytest.fixture
def another_user(platform: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process takes itself for another user's, and finds the platform anew."""
    user = os.geteuid()
    forget_platform()
    with monkeypatch.context() as context:
        context.setattr(os, "geteuid", lambda: user + 1)
        yield
    forget_platform()


@ray.remote
def double(value: bytes) -> bytes:
    return value + value


@pytest.mark.usefixtures("another_user")
def test_it_has_no_short_way(platform: Path) -> None:
    found = find_platform()
    assert found is not None
    assert not found.is_local
    assert (found._near, found._direct, found._awaited) == (False, None, None)


@pytest.mark.usefixtures("another_user")
def test_it_gets_what_it_asks_for_however_large(wid: str) -> None:
    assert workflow.run(double.bind(b"x"), workflow_id=wid) == b"xx"
    assert ray.get(workflow.run_async(double.bind(b"y" * LARGE), workflow_id=f"{wid}-large")) == b"y" * (2 * LARGE)
    assert workflow.get_output(f"{wid}-large") == b"y" * (2 * LARGE)
    assert asyncio.run(workflow.aio.run(double.bind(b"z"), workflow_id=f"{wid}-aio")) == b"zz"


@pytest.mark.usefixtures("another_user")
def test_it_calls_virtual_actors(wid: str) -> None:
    @workflow.virtual_actor
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, number: int) -> int:
            self.count += number
            return self.count

    counter = Counter.get_or_create(wid)
    assert counter.add.run(2) == 2
    assert ray.get(counter.add.run_async(3)) == 5
