"""Events over HTTP under their old path."""

from holdfast.engine.errors import WorkflowEventHandleError
from holdfast.listeners.http import HTTPListener

__all__ = ["HTTPListener", "WorkflowEventHandleError"]
