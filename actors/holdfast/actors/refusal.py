"""How one operation of a batch is refused while the others are done."""

from __future__ import annotations


class Refusal(Exception):
    """Carries the error that refuses one operation out of it; nothing has been written for it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
