"""The token that whoever posts has to bear. It is read from the environment, compared, and never written anywhere."""

from __future__ import annotations

import hmac
import os

TOKEN_VARIABLE = "HOLDFAST_HTTP_TOKEN"
"""The environment variable of the replica that holds it. Not set: nothing is asked for."""


def configured_token() -> bytes | None:
    """The token of this process; None when none is asked for.

    Raises:
        ValueError: The variable is set and empty: to ask for nothing would not be what was meant.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if not token.strip():
        raise ValueError(f"{TOKEN_VARIABLE} is set but empty: give it a token, or unset it to ask for none")
    return token.strip().encode()


def is_authorized(header: str | None, token: bytes | None) -> bool:
    """Whether an `Authorization` header bears the token.

    Args:
        header: Its value; None when there is none.
        token: What is asked for; None for nothing.

    Semantics: the time it takes tells nothing about the token but its length.
    """
    if token is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    # Headers come in as Latin-1, whatever was sent.
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
