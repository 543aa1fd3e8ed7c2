"""One class of virtual actors in three versions, of which the second cannot carry states forward."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from holdfast import workflow


def guest_of(version: int) -> Any:
    """The class in this version."""

    def __init__(self: Any) -> None:
        self.count = 0

    def add(self: Any) -> int:
        self.count += 1
        return int(self.count)

    carry = _gives_up if version == 2 else _carries
    steps = {f"from_{at}": workflow.migrate(from_version=at)(carry()) for at in range(1, version)}
    body = {"__init__": __init__, "add": add, "__module__": __name__, "__qualname__": "Migrating", **steps}
    return workflow.virtual_actor(version=version)(type("Migrating", (), body))


def _gives_up() -> Callable[[dict[str, Any]], dict[str, Any]]:
    def give_up(state: dict[str, Any]) -> dict[str, Any]:
        sys.exit("no migration")

    return give_up


def _carries() -> Callable[[dict[str, Any]], dict[str, Any]]:
    def carry(state: dict[str, Any]) -> dict[str, Any]:
        return state

    return carry
