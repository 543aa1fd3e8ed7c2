"""Ray Serve for a module's tests, on a free port of the loopback; shut down at the end."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve._private.utils import ensure_serialization_context


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def applications_pickle() -> None:
    """Let Ray pickle what Serve is given, as when Serve is imported.

    An application of FastAPI holds a lock, which the end of every module makes unpicklable again.
    """
    ensure_serialization_context()


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """A running Serve; its port."""
    applications_pickle()
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield port
    finally:
        serve.shutdown()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Mapping[str, str]


def call(
    url: str, content: Any = None, *, method: str | None = None, timeout_s: float = 60.0, **headers: str
) -> Answer:
    """One HTTP request on a connection of its own.

    Args:
        url: Where to.
        content: Bytes, or chunks of bytes, as they are; anything else as JSON; None for no body.
        method: Default: POST with a body, GET without.
        timeout_s: Seconds it may take.
        **headers: With `_` for `-`.
    """
    sent = {"content-type": "application/json"} if content is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    raw = isinstance(content, bytes) or hasattr(content, "__next__")
    body = content if raw or content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=body, headers=sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return _answer(response.status, response.read(), response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.read(), error.headers)


def _answer(status: int, content: bytes, headers: Any) -> Answer:
    with contextlib.suppress(ValueError):
        return Answer(status, json.loads(content), headers)
    return Answer(status, content.decode(errors="replace"), headers)
