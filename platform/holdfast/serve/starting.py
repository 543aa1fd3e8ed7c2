"""Starting the HTTP side on the cluster's Ray Serve."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from ray import serve

from holdfast.engine.given_numbers import check_number, check_whole
from holdfast.listeners.http import EVENT_PROVIDER
from holdfast.serve.bearer_token import TOKEN_VARIABLE
from holdfast.serve.event_provider import HTTPEventProvider
from holdfast.serve.request_guard import RequestGuard
from holdfast.workflow.platform import get_platform

__all__ = ["start_http_events"]

log = logging.getLogger("holdfast")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ANSWERS_WITHIN_S = 10.0


def start_http_events(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    route_prefix: str = "/event",
    most_bytes: int = 1024 * 1024,
    handled_within_s: float = 60.0,
    body_within_s: float = 10.0,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> str:
    """Take events for workflows over HTTP: `POST <url>/send_event/<workflow_id>`.

    Args:
        host: Where Serve listens, when it is not running yet. Default: only on each node itself.
        port: Likewise.
        route_prefix: Where the events are below it.
        most_bytes: Of a body; a longer one is answered 413.
        handled_within_s: Seconds that a listener with an `event_checkpointed` of its own may take before the answer
            is 504; the event is durable then all the same.
        body_within_s: Seconds that a body may take; else it is answered 408.
        allowed_hosts: Names under which events are posted, beside loopback ones, `host` and the server's address: that
            of a proxy, of a cluster's service. `*.example.com` for all below one, `*` for any. Another `Host` is
            answered 403; with a token, and none given here, any is good.
        allowed_origins: Origins of web pages that may post, as `https://shop.example.com`; `*` for any. Pages of the
            host that they post to may; others are answered 403.

    Returns:
        The URL, `http://<host>:<port><route_prefix>`.

    Raises:
        ValueError: Not a route prefix, a number out of range, a host or origin that is none, or the token is set and
            empty.
        RuntimeError: Serve runs on this cluster with another host or port; or the token that is set here is not
            set for the replica.

    Semantics: Starts Ray, the platform and Serve when they are not up. They go on when this process ends. Again:
    the new settings take the place of the old ones. With `HOLDFAST_HTTP_TOKEN` set in the environment of the
    replica, whoever posts must bear it. docs/semantics.md, "Events over HTTP".
    """
    if not route_prefix.startswith("/") or route_prefix.endswith("/"):
        raise ValueError(f'route_prefix must begin with "/" and not end with it, not {route_prefix!r}')
    check_whole("port", port, least=1, most=65_535)
    check_whole("most_bytes", most_bytes, least=1, unit="bytes")
    check_number("handled_within_s", handled_within_s, above=True)
    check_number("body_within_s", body_within_s, above=True)
    token_required = TOKEN_VARIABLE in os.environ
    # Raises, before anything is started, what the replica would raise.
    RequestGuard(allowed_hosts, allowed_origins, token_required=token_required)
    hosts = [] if token_required and not allowed_hosts else [*allowed_hosts, host]
    if host not in _LOOPBACK and not token_required:
        log.warning("events are taken on %s from whoever reaches it: %s is not set", host, TOKEN_VARIABLE)
    get_platform()
    serve.start(http_options={"host": host, "port": port})
    application = HTTPEventProvider.bind(
        most_bytes=most_bytes,
        handled_within_s=handled_within_s,
        token_required=token_required,
        body_within_s=body_within_s,
        allowed_hosts=hosts,
        allowed_origins=list(allowed_origins),
    )
    serve.run(application, name=EVENT_PROVIDER, route_prefix=route_prefix)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}{route_prefix}"
    _check_reached(url)
    return url.replace("127.0.0.1", host) if host == "0.0.0.0" else url


def _check_reached(url: str) -> None:
    """Serve takes host and port when it starts, and passes over others later with a line in the log."""
    answer: Any = None
    problem = "something else answers there"
    try:
        with urllib.request.urlopen(f"{url}/send_event", timeout=_ANSWERS_WITHIN_S) as response:
            answer = json.loads(response.read())
    except (urllib.error.URLError, ValueError, TimeoutError) as error:
        problem = str(error)
    if answer != {"service": EVENT_PROVIDER}:
        raise RuntimeError(
            f"events are not taken at {url}: {problem}. Serve runs on this cluster with another host or port: give "
            "those, or call serve.shutdown() first."
        )
