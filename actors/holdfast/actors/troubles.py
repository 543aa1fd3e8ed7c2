"""Workflows on which their executor stumbles: when to try again, and when to give up.

A defect of ours, or a damaged row, makes the transaction fail that works on the
workflow, each time anew. It may pass; it must not go on for ever. Nothing here
reads a clock or a store.
"""

from __future__ import annotations

_TRIES = 5
_FIRST_DELAY_S = 0.5
_FACTOR = 2.0


class Troubles:
    """What is in trouble at one executor."""

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}
        self._resting: set[int] = set()

    def note(self, seq: int) -> float | None:
        """A transaction has failed while it worked on a workflow, which rests from now on.

        Returns:
            For how many seconds; None when it has failed often enough, and is to be given up.

        Semantics: a success in between changes nothing: the workflow goes on from its last commit each time, and
        comes to the same place again.
        """
        failures = self._failures[seq] = self._failures.get(seq, 0) + 1
        self._resting.add(seq)
        return None if failures >= _TRIES else _FIRST_DELAY_S * _FACTOR ** (failures - 1)

    def is_resting(self, seq: int) -> bool:
        """Whether a workflow is to be left alone for now."""
        return seq in self._resting

    def rested(self, seq: int) -> None:
        """A workflow has rested: it may be worked on again."""
        self._resting.discard(seq)

    def forget(self, seq: int) -> None:
        """A workflow has come to its end."""
        self._failures.pop(seq, None)
        self._resting.discard(seq)
