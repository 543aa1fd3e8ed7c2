"""HTTP, as Ray Serve applications: events for workflows come in here.

What arrives is checked and handed to the public API's way into the executors;
nothing here decides about a workflow, reads storage or starts a platform. It
needs the extra `serve`, and says so when it is not installed.
"""

# First, and for what it does: it says what is missing where Ray Serve is.
from holdfast.serve import needs_extra as needs_extra  # isort: split

from holdfast.serve.event_provider import HTTPEventProvider
from holdfast.serve.starting import start_http_events

__all__ = ["HTTPEventProvider", "start_http_events"]
