"""What is said about schedules: by clients to executors, and by executors to the store's transactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from holdfast.actors.requests import SubmitRequest
from holdfast.engine.graph import Graph
from holdfast.engine.plain_pickle import PlainPickle
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage.schedule_store import ScheduleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(PlainPickle):
    """How a schedule treats its times.

    Attributes:
        timing: When it is due.
        overlap, catch_up_s, coalesce: As in `engine.schedules.Schedule`.
    """

    timing: Timing
    overlap: Overlap
    catch_up_s: float
    coalesce: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRequest(PlainPickle):
    """A schedule to be kept.

    Attributes:
        terms: How it treats its times.
        submission: What each run is; its workflow id is the schedule's name.
        digest: Hash of what is to be run.
        replaces: Whether it may take the place of another definition.
    """

    terms: Terms
    submission: SubmitRequest
    digest: str
    replaces: bool = False


class Steering(Enum):
    """What can be asked of a schedule."""

    PAUSE = "pause"
    RESUME = "resume"
    TRIGGER = "trigger"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSchedule:
    """Keep a schedule: a new one, the same again, or another definition of it.

    Attributes:
        name: Its name.
        terms, digest, replaces: As in `ScheduleRequest`.
        graph: What each run is.
        nonce: Random mark of this request: sent twice it counts once. Also the group of the blobs.
        has_blobs: Whether there is anything in the group.
        user_metadata, environment: As in `Submit`.
    """

    name: str
    terms: Terms
    graph: Graph
    nonce: str
    digest: str
    has_blobs: bool = False
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FireSchedule:
    """Look whether a schedule has something to start."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerSchedule:
    """Pause a schedule, go on with it, or start a run now.

    Attributes:
        nonce: Random mark of this request: sent twice it counts once.
    """

    name: str
    steering: Steering
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSchedule:
    """Forget a schedule. Its runs go on. `nonce` as in `SteerSchedule`."""

    name: str
    nonce: str


ScheduleOperation: TypeAlias = KeepSchedule | FireSchedule | SteerSchedule | DropSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleKept(PlainPickle):
    """Done.

    Attributes:
        fresh: Whether this changed anything.
        workflow_id: The run that a trigger has started, or will; empty for none.
        wake_unix_s: When to look at it again.
    """

    fresh: bool = True
    workflow_id: str = ""
    wake_unix_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView(PlainPickle):
    """A schedule as people see it.

    Attributes:
        row: As it is stored.
        statuses: Of the workflows of its runs that are still there.
    """

    row: ScheduleRow
    statuses: Mapping[str, WorkflowStatus]
