"""What a request that is not taken is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def wrong_field(kind: str, message: str, *where: str) -> RefusedError:
    """422 for one field.

    Args:
        kind: A word for programs.
        message: What is wrong with it, for people.
        *where: The way to it: "body", then the field.
    """
    return RefusedError(422, [{"type": kind, "loc": list(where), "msg": message}])
