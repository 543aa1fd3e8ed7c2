"""The body of a posted event: read up to a limit, and checked field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import Request


class RefusedError(Exception):
    """A request that is not taken; says what to answer.

    Attributes:
        status: The HTTP status.
        detail: What is wrong, and where, in the form FastAPI uses.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.status, self.detail, self.headers = status, detail, headers


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedEvent:
    """What was posted.

    Attributes:
        key: Under which key a task waits for it.
        payload: JSON.
    """

    key: str
    payload: Any


def wrong_field(kind: str, message: str, *where: str) -> RefusedError:
    """422 for one field.

    Args:
        kind: A word for programs.
        message: What is wrong with it, for people.
        *where: The way to it: "body", then the field.
    """
    return RefusedError(422, [{"type": kind, "loc": list(where), "msg": message}])


async def read_event(request: Request, most_bytes: int) -> PostedEvent:
    """Read the body of a request.

    Args:
        request: The request; its body not read yet.
        most_bytes: A longer one is refused, and not read to its end.

    Raises:
        RefusedError: 413, 415 or 422.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RefusedError(415, f"an event is posted as application/json, not as {kind}")
    return _parse(await _read(request, most_bytes))


async def _read(request: Request, most_bytes: int) -> bytes:
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
    return bytes(body)


def _too_large(most_bytes: int) -> RefusedError:
    return RefusedError(
        413, f"an event may have {most_bytes:,} bytes: store what is larger elsewhere, and post where it is"
    )


def _parse(body: bytes) -> PostedEvent:
    try:
        parsed = json.loads(body, parse_constant=_no_json_constant)
    except (ValueError, RecursionError) as error:
        raise wrong_field("json_invalid", f"the body is not JSON: {error}", "body") from error
    if not isinstance(parsed, dict):
        raise wrong_field("dict_type", f"the body must be a JSON object, not {type(parsed).__name__}", "body")
    for field in ("event_key", "event_payload"):
        if field not in parsed:
            raise wrong_field("missing", f"the field {field!r} is required", "body", field)
    key = parsed["event_key"]
    if not isinstance(key, str):
        raise wrong_field("string_type", f"event_key must be a string, not {type(key).__name__}", "body", "event_key")
    return PostedEvent(key=key, payload=parsed["event_payload"])


def _no_json_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
