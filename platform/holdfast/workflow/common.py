"""Names under their old path."""

from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.http import EVENT_PROVIDER as HTTP_EVENT_PROVIDER_NAME

__all__ = ["HTTP_EVENT_PROVIDER_NAME", "WorkflowStatus"]
