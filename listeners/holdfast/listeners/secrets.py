"""Secrets by reference: a variable of the environment, or a file, read where they are used and stored nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.engine.errors import SecretMissingError


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """Where a secret is to be found, in the process that needs it.

    Attributes:
        env: A variable of its environment; empty when it is a file.
        file: A file on its node; empty when it is a variable.
    """

    env: str = ""
    file: str = ""

    def read(self) -> str:
        """The secret as it is now: a file may be replaced at any time. A line break at its end is not part of it.

        Raises:
            SecretMissingError: It is not there, or empty.
        """
        if self.env:
            found = os.environ.get(self.env, "")
        else:
            try:
                found = Path(self.file).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise SecretMissingError(str(self), str(error)) from error
        found = found.rstrip("\r\n")
        if not found:
            raise SecretMissingError(str(self), "it is not set, or empty")
        return found

    def __str__(self) -> str:
        return f"the environment variable {self.env}" if self.env else f"the file {self.file}"

    def plain(self) -> dict[str, str]:
        """As it was given."""
        return {"env": self.env} if self.env else {"file": self.file}


def parse_secret(what: str, given: Any) -> SecretReference:
    """A reference that a user gave.

    Args:
        what: Which setting, for the message.
        given: `{"env": name}` or `{"file": path}`.

    Raises:
        ValueError: Anything else. The message does not repeat what was given: it may be the secret itself.
    """
    fix = f'Say where it is: {what}={{"env": "NAME_OF_A_VARIABLE"}} or {{"file": "/path/to/it"}}'
    if isinstance(given, Mapping) and len(given) == 1:
        ((kind, place),) = given.items()
        if kind in ("env", "file") and isinstance(place, str) and place:
            return SecretReference(**{kind: place})
    if isinstance(given, str):
        raise ValueError(f"{what} must not be written out: it would be stored and shown. {fix}.")
    raise ValueError(f"{what} is not a reference to a secret. {fix}.")
