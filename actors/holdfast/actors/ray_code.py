"""Takes out of Ray's remote functions, actor classes and nodes what differs in each process.

Random names and marks of what was exported: a pickled function that refers to a
remote function would have another hash in each process. They are made anew
where the function is loaded. This is the only module that knows any of that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from ray import ActorClassID, Language
from ray.remote_function import RemoteFunction

from holdfast.actors.ray_dag import DAGNode

_MARKS_OF_EXPORT: dict[str, Any] = {
    "_last_export_cluster_and_job": None,
    "_function_descriptor": None,
    "_function_signature": None,
    "_pickled_function": None,
}


class Fresh:
    """Stands in a pickle for something that is made anew where it is loaded.

    Args:
        make: Makes it; the name is part of the stored format.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return self._make, ()


class FreshMarks:
    """Takes what differs from process to process out of what Ray reduces objects to, for one pickling."""

    def __init__(self) -> None:
        self._instead: dict[Any, Fresh] = {}

    def settle(self, obj: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
        """Take random names out of what an object reduces to.

        Args:
            obj: Any object.
            reduced: What its `__reduce_ex__` gave.
        """
        if type(obj).__name__ == "PythonFunctionDescriptor":
            # Module, function, class, and the random name.
            make, args = reduced[0], reduced[1]
            return (make, (*args[:-1], self._fresh(fresh_bytes, args[-1])), *reduced[2:])
        if len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced
        state = reduced[2]
        if isinstance(obj, RemoteFunction):
            state = {**state, "_uuid": self._fresh(uuid.uuid4, state.get("_uuid"))}
            if state.get("_language") == Language.PYTHON:
                state |= {key: value for key, value in _MARKS_OF_EXPORT.items() if key in state}
        elif type(obj).__name__.endswith("ActorClassMetadata") and "class_id" in state:
            state = {
                **state,
                "class_id": self._fresh(fresh_class_id, state["class_id"]),
                "last_export_cluster_and_job": None,
            }
        elif isinstance(obj, DAGNode):
            state = {**state, "_stable_uuid": self._fresh(fresh_hex, state.get("_stable_uuid"))}
        return (*reduced[:2], state, *reduced[3:])

    def _fresh(self, make: Callable[[], Any], instead_of: Any) -> Fresh:
        """One stand-in for each name: what is the same in two places stays so."""
        return self._instead.setdefault((make, instead_of), Fresh(make))


def fresh_hex() -> str:
    """Make a random name. The name of this function is part of the stored format."""
    return uuid.uuid4().hex


def fresh_bytes() -> bytes:
    """Make a random name, as bytes. The name of this function is part of the stored format."""
    return uuid.uuid4().hex.encode()


def fresh_class_id() -> Any:
    """Make a random name of an actor class. The name of this function is part of the stored format."""
    return ActorClassID.from_random()
