"""Defines the answers to requests that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RefusedError(Exception):
    """A request is refused; the error holds the answer.

    Attributes:
        status: The HTTP status.
        detail: What is wrong, and where, in the form FastAPI uses.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.status, self.detail, self.headers = status, detail, headers


def wrong_field(kind: str, message: str, *where: str) -> RefusedError:
    """Make the answer 422 about one field.

    Args:
        kind: A word for programs.
        message: What is wrong with it, for people.
        *where: The way to it: "body", then the field.
    """
    return RefusedError(422, [{"type": kind, "loc": list(where), "msg": message}])
