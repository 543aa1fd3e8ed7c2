"""Steps that a method of a virtual actor returned on their way to the worker whose task returns them.

A step is a plan and refuses to be pickled, so that it is not run twice. This
one travels once, from the host to the task that asked the actor.
"""

from __future__ import annotations

from typing import Any

from holdfast.actors.load_context import Marker
from holdfast.actors.nodes import StepNode


def carry_step(node: Any) -> Marker:
    """What stands for a step in a value that is handed to a worker; nodes in its arguments are carried likewise.

    Raises:
        TypeError: It is a node of the other generation of the API.
    """
    if not isinstance(node, StepNode):
        raise TypeError(f"{node!r} cannot be carried to another process: pass steps, f.step(...), to a step here")
    return Marker(carried_step, (node.function, node.args, node.kwargs, dict(node.options), dict(node.ray_options)))


def carried_step(parts: Any) -> StepNode:
    """Marker: a step."""
    function, args, kwargs, options, ray_options = parts
    return StepNode(function, args, kwargs, options=options, ray_options=ray_options)
