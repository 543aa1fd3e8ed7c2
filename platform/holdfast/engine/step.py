"""One step of a run: what to write down, then what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.commands import Command
from holdfast.engine.records import Record


@dataclass(slots=True, kw_only=True)
class Step:
    """The outcome of applying signals: records to commit, then commands to carry out.

    Attributes:
        now_unix_s: The time of the step, given from outside.
        place: The worker that stands ready for an in-place task, if one does.
        left: Streams of outside sources on which a task waits no longer.
        reads: Streams of outside sources on which a task waits from now on: the next event is to be looked for.
    """

    now_unix_s: float
    place: Any = None
    records: list[Record] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    reads: list[tuple[str, str]] = field(default_factory=list)
