"""What workflows and virtual actors of a kept folder run: installed as a package is, and so stored by its names.

Names of this module are inside stored bytes: no function may be renamed, moved or given other arguments, as none of a
package that people have workflows of. What a task does is noted in a file, and some wait for another file to be there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from holdfast import workflow
from holdfast.engine.selectors import Selector
from holdfast.listeners import EventListener, Stream

NOTES, GATE = "KEPT_NOTES", "KEPT_GATE"
"""Variables of the environment: where runs are noted, and the file that some wait for."""

_PATIENCE_S = 240.0


def note(what: str) -> None:
    """Write down that something runs."""
    with open(os.environ[NOTES], "a") as notes:
        notes.write(f"{what}\n")


def await_gate() -> None:
    """Wait for the gate to be open."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not is_open():
        assert time.monotonic() < deadline_s, "nobody opened the gate"
        time.sleep(0.02)


def is_open() -> bool:
    """Whether the gate is open."""
    return Path(os.environ[GATE]).exists()


# -- tasks -------------------------------------------------------------------------------------------------------------


def measure(large: bytes) -> int:
    """A task with a large argument."""
    note("measure")
    return len(large)


def spread(size: int) -> bytes:
    """A task with a large result."""
    note("spread")
    return bytes(range(256)) * (size // 256)


def count_sevens(array: Any) -> int:
    """A task with an array, which is stored out of band."""
    note("count_sevens")
    return int((array == 7).sum())


def at_gate(before: Any) -> int:
    """A task that runs while the cluster is lost, and again."""
    note("at_gate")
    await_gate()
    return len(before)


def sum_up(*parts: int) -> int:
    """The last task of a workflow."""
    note("sum_up")
    return sum(parts)


def count_down(number: int) -> Any:
    """A step that goes on with another, and waits for the gate at two."""
    note(f"count_down {number}")
    if number == 2:
        await_gate()
    return workflow.step(count_down).step(number - 1) if number else "down"


def when_open() -> str:
    """A task that fails until the gate is open."""
    if not is_open():
        raise ConnectionError("the gate is closed")
    return "open"


def fail() -> None:
    """A task that fails."""
    raise ValueError("as it should")


def after(*before: Any) -> tuple[Any, ...]:
    """A task that hands on what came before it."""
    note("after")
    return before


def nothing() -> None:
    """A run of a schedule."""


# -- events ------------------------------------------------------------------------------------------------------------


class Orders(EventListener):
    """Hears a source that a test is."""

    @staticmethod
    def subscription() -> Stream:
        """The orders."""
        return Stream("test/here/orders", Selector().text)


def order_id(event: Any) -> str:
    """A name of a workflow, which cannot be made while the gate is closed."""
    if not is_open():
        raise LookupError("the gate is closed")
    return "order-of-the-letter"


def take_order(event: Any) -> str:
    """The task that an order starts."""
    return "taken"


# -- virtual actors ----------------------------------------------------------------------------------------------------


class Account:
    """A virtual actor with a state that is JSON."""

    def __init__(self, balance: int) -> None:
        self.balance = balance
        self.changes: list[int] = []

    def add(self, amount: int) -> int:
        """Change the balance."""
        note(f"add {amount}")
        self.balance += amount
        self.changes.append(amount)
        return self.balance

    def add_at_gate(self, amount: int) -> int:
        """Change the balance when the gate is open."""
        await_gate()
        return self.add(amount)

    @workflow.virtual_actor.readonly
    def history(self) -> tuple[int, list[int]]:
        """The balance, and all that changed it."""
        return self.balance, self.changes


class Chest:
    """A virtual actor with a large state, which is not JSON."""

    def __init__(self) -> None:
        self.things: dict[bytes, complex] = {}

    def __getstate__(self) -> dict[bytes, complex]:
        return self.things

    def __setstate__(self, things: dict[bytes, complex]) -> None:
        self.things = things

    def fill(self, size: int) -> None:
        """Put something large into it."""
        self.things[b"x" * size] = 2 + 3j

    @workflow.virtual_actor.readonly
    def look(self) -> tuple[int, complex]:
        """How large the thing is, and what it leads to."""
        ((thing, value),) = self.things.items()
        return len(thing), value


# Under names of their own: a class that is found under its name is stored by it, for each version of Python.
ACCOUNT, CHEST = workflow.virtual_actor(Account), workflow.virtual_actor(Chest)
