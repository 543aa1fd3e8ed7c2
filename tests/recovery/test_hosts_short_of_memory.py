"""A host of virtual actors that has more memory than it may have puts away what rests, at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.actors.virtual.host import MEMORY_VARIABLE
from tests.recovery.processes import of_role, until


@pytest.fixture(scope="module")
def hungry_hosts(ray_of_others_is_over: None) -> Iterator[None]:
    """The hosts of a Ray that is started after this have too much memory from the start."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MEMORY_VARIABLE, "1")
        yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local_ray(hungry_hosts: None, local_ray: None) -> None:
    """This module's Ray, started in that order."""


@workflow.virtual_actor
class Warm:
    """Knows whether it is the object of the call before."""

    def __init__(self) -> None:
        self.calls = 0
        self.object_calls = 0

    def __getstate__(self) -> int:
        return self.calls

    def __setstate__(self, calls: int) -> None:
        self.calls, self.object_calls = calls, 0

    def call(self) -> tuple[int, int]:
        self.calls += 1
        self.object_calls += 1
        return self.calls, self.object_calls


def test_what_rests_is_put_away_long_before_its_time_and_loses_nothing(storage: Path) -> None:
    actor: Any = Warm.get_or_create("warm")
    hosts = of_role("virtual actor host")
    taken = [actor.call.run() for _ in range(20)]
    # Calls that follow one another within a look find the object of the one before; they would for 30 s.
    assert any(of_object > 1 for _, of_object in taken)

    def made_anew() -> bool:
        taken.append(actor.call.run())
        return taken[-1][1] == 1 and taken[-2][1] > 1

    until(made_anew, "the object was put away between two calls", within_s=20)
    assert [count for count, _ in taken] == list(range(1, len(taken) + 1))
    assert of_role("virtual actor host") == hosts
