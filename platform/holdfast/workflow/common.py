"""Names under their old path."""

from holdfast.engine.transitions import WorkflowStatus

HTTP_EVENT_PROVIDER_NAME = "workflows_http_event_provider"
"""Name of the Serve deployment that takes events over HTTP."""

__all__ = ["HTTP_EVENT_PROVIDER_NAME", "WorkflowStatus"]
