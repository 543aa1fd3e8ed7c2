"""Functions that a graph calls although no user wrote them.

They are named by reference in stored graphs: renaming one makes those
unreadable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def collect_outputs(*values: Any) -> list[Any]:
    """What `ray.dag.MultiOutputNode` gives."""
    return list(values)


def pass_on(value: Any) -> Any:
    """Gives what it is given: the graph whose only content is a task that exists already."""
    return value


def converted(conversion: Callable[[Any], Any], event: Any) -> Any:
    """What a listener makes of an event, by code that may be the user's."""
    return conversion(event)
