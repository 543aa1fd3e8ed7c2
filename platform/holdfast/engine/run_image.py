"""What storage gives back of a run: its records, gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.engine.graph import TaskIndex
from holdfast.engine.records import GraphLogged, TaskContinuing, TaskFinished, TaskWaiting
from holdfast.engine.signals import EventReceived
from holdfast.engine.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RunImage:
    """The logged state of a run.

    Attributes:
        graphs: In the order of `first`. With a snapshot: of pieces of them, those with a live task.
        finished, continuing, waiting: The latest record of each task.
        inbox: Events not taken yet, in the order of their numbers.
        last_event: Number of the last event ever received.
        snapshot: What is live, when it is known; the records are then those of live tasks only.
    """

    graphs: Sequence[GraphLogged]
    finished: Mapping[TaskIndex, TaskFinished] = field(default_factory=dict)
    continuing: Mapping[TaskIndex, TaskContinuing] = field(default_factory=dict)
    waiting: Mapping[TaskIndex, TaskWaiting] = field(default_factory=dict)
    inbox: Sequence[EventReceived] = ()
    last_event: int = 0
    snapshot: Snapshot | None = None
