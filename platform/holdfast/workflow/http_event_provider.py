"""Events over HTTP under their old path."""

import importlib
from typing import Any

from holdfast.engine.errors import WorkflowEventHandleError
from holdfast.listeners.http import HTTPListener

__all__ = ["HTTPListener", "WorkflowEventHandleError"]


def __getattr__(name: str) -> Any:
    # An old name of what stands above this room, and needs an extra: looked up where somebody asks for it, so that
    # nothing here depends on it, and `import holdfast.workflow` works without Ray Serve.
    if name == "HTTPEventProvider":
        return importlib.import_module("holdfast.serve").HTTPEventProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
