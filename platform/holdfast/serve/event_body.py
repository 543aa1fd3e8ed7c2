"""Reads the body of a posted event: checks its content type and its fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from holdfast.engine.errors import NotJsonError
from holdfast.serve.body_reading import BodyReader
from holdfast.serve.refusing import RefusedError, wrong_field
from holdfast.storage.strict_json import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedEvent:
    """What was posted.

    Attributes:
        key: Under which key a task waits for it.
        payload: JSON.
    """

    key: str
    payload: Any


async def read_event(request: Request, reader: BodyReader) -> PostedEvent:
    """Read the body of a request.

    Args:
        request: The request; its body not read yet.
        reader: Reads it.

    Raises:
        RefusedError: 408, 413, 415 or 422.

    Semantics: a body has to be said to be JSON, since a web page can have a browser post anything else to anybody
    without asking.
    """
    kinds = [said.partition(";")[0].strip().lower() for said in request.headers.getlist("content-type")]
    if len(kinds) != 1 or not _is_json(kinds[0]):
        said = f"as {', '.join(kinds)}" if any(kinds) else "without a Content-Type"
        raise RefusedError(415, f"an event is posted with Content-Type: application/json, not {said}")
    return _parse(await reader.read(request))


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _parse(body: bytes) -> PostedEvent:
    try:
        parsed = parse(body, "the body")
    except NotJsonError as error:
        raise wrong_field("json_invalid", str(error), "body", *_field_of_no_text(body)) from error
    if not isinstance(parsed, dict):
        raise wrong_field("dict_type", f"the body must be a JSON object, not {type(parsed).__name__}", "body")
    for field in ("event_key", "event_payload"):
        if field not in parsed:
            raise wrong_field("missing", f"the field {field!r} is required", "body", field)
    key = parsed["event_key"]
    if not isinstance(key, str):
        raise wrong_field("string_type", f"event_key must be a string, not {type(key).__name__}", "body", "event_key")
    return PostedEvent(key=key, payload=parsed["event_payload"])


def _field_of_no_text(body: bytes) -> list[str]:
    """The field that holds half of a surrogate pair, where that is what is wrong."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if isinstance(parsed, dict):
        for field in ("event_key", "event_payload"):
            try:
                json.dumps(parsed.get(field), ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return [field]
    return []
