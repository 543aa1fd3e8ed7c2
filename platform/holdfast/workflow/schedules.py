"""Schedules: workflows that start at times, and looking after them.

It checks what users give and asks the actors. When a schedule is due is computed by `holdfast.listeners`, what is done
then is decided by `holdfast.engine`; nothing of either is here.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Any, Literal

import ray

from holdfast.actors.requests import SubmitRequest
from holdfast.actors.schedule_messages import ScheduleKept, ScheduleRequest, ScheduleView, Steering, Terms
from holdfast.engine.errors import ScheduleNotFoundError
from holdfast.engine.given_numbers import check_number
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage.payload import Payload, frame
from holdfast.storage.schedule_store import ScheduleRow
from holdfast.workflow.api import submit_request, with_platform

__all__ = [
    "delete_schedule",
    "describe_schedule",
    "list_schedules",
    "pause_schedule",
    "resume_schedule",
    "schedule",
    "trigger_schedule",
]

_A_DAY_S = 86_400.0
_LEAST_CATCH_UP_S = 10.0
_LONGEST_NAME_BYTES = 900
_NEXT_RUNS = 5


def schedule(
    name: str,
    dag: Any,
    *args: Any,
    cron: str | None = None,
    every_s: float | None = None,
    at: datetime | float | None = None,
    timezone: str = "UTC",
    overlap: Literal["skip", "queue", "allow", "replace"] = "skip",
    catch_up_s: float = _A_DAY_S,
    coalesce: bool = True,
    replace: bool = False,
    metadata: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Run a graph at times, for ever or until the schedule is deleted.

    Args:
        name: At most 900 bytes. A run is a workflow of the id `<name>-<due time, UTC>`.
        dag: As for `run`; stored with its code and arguments, as a submission is.
        *args: What `ray.dag.InputNode` stands for, by position.
        cron: Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday); or `@daily` and such.
        every_s: Seconds from one time to the next, 0.1 at least; the first comes so long after this call.
        at: One time: a `datetime` with a time zone, or seconds since the epoch. A past one is due at once.
        timezone: Name of the time zone in which `cron` is read.
        overlap: What to do when a run is due and the one before goes on: "skip" it, "queue" it until the other has
            ended, "allow" both, or "replace" the other, which is cancelled.
        catch_up_s: What was due while nothing ran is run later, unless it was due longer ago than this, in seconds;
            10 at least.
        coalesce: Of several times that are due at once, run the last one only; False: each.
        replace: Change a schedule of this name. Its runs stay known to it, and, when it is due as before, so does its
            next time.
        metadata: As for `run`; each run is given it.
        **kwargs: What `ray.dag.InputNode` stands for, by key.

    Raises:
        TypeError, ValueError: Names the value and the fix.
        ScheduleExistsError: There is another schedule of this name, and `replace` was not given; it stays as it is.

    Semantics: docs/semantics.md, "Schedules". When this returns the schedule is durable. The same again: no effect.
    """
    _check_name(name)
    terms = _terms(cron, every_s, at, timezone, overlap, catch_up_s, coalesce)
    _check_flag("replace", replace)
    submission = submit_request(dag, args, kwargs, name, metadata, False)
    request = ScheduleRequest(terms=terms, submission=submission, digest=_digest(submission), replaces=replace)
    _kept(_asking(name, "keep_schedule", request))


def list_schedules() -> list[dict[str, Any]]:
    """The schedules there are, by name.

    Returns:
        Of each `name`, `when` (a text), `paused` and `next_run` (a `datetime` in its time zone, or None).
    """
    rows: list[ScheduleRow] = with_platform(lambda platform: ray.get(platform.management.schedules.remote()))
    return [_brief(row) for row in rows]


def describe_schedule(name: str) -> dict[str, Any]:
    """All that is known of a schedule.

    Returns:
        What `list_schedules` says of it, and `overlap`, `catch_up_s`, `coalesce`, `user_metadata`, `created`;
        `next_runs`, at most 5 times; `last_runs`, at most 20, the newest first: of each `workflow_id`, `due`,
        `triggered` (whether it was asked for by hand) and `status` (NONE when the workflow was deleted); `waiting`,
        the times of the runs that are due and not started; `skipped`, how many due times were skipped for `overlap`;
        `missed_until`, the time up to which times were missed for `catch_up_s`, or None. Times are `datetime`s in the
        time zone of the schedule.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    _check_name(name)
    view: ScheduleView | None = with_platform(lambda platform: ray.get(platform.management.schedule.remote(name)))
    if view is None:
        raise ScheduleNotFoundError(name)
    row, state, timing = view.row, view.row.schedule, Timing.from_json(view.row.timing)
    return _brief(row) | {
        "overlap": state.overlap.value,
        "catch_up_s": state.catch_up_s,
        "coalesce": state.coalesce,
        "user_metadata": dict(row.user_metadata),
        "created": timing.in_zone(row.created_unix_s),
        "next_runs": _next_runs(row, timing),
        "last_runs": [
            {
                "workflow_id": past.workflow_id,
                "due": timing.in_zone(past.due_unix_s),
                "triggered": bool(past.asked),
                "status": view.statuses.get(past.workflow_id, WorkflowStatus.NONE),
            }
            for past in reversed(state.past)
        ],
        "waiting": [timing.in_zone(run.due_unix_s) for run in state.waiting],
        "skipped": state.skipped,
        "missed_until": None if state.missed_until_unix_s is None else timing.in_zone(state.missed_until_unix_s),
    }


def pause_schedule(name: str) -> None:
    """Let the times of a schedule pass without runs. What runs goes on; what waits for its start waits.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    _steer(name, Steering.PAUSE)


def resume_schedule(name: str) -> None:
    """Go on with a schedule that was paused, with the times that come from now on.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    _steer(name, Steering.RESUME)


def trigger_schedule(name: str) -> str | None:
    """Start a run of a schedule now, paused or not. Its times stay as they are.

    Returns:
        The workflow id of the run, which has started, or waits as `overlap` says; None when it was skipped.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    return _steer(name, Steering.TRIGGER).workflow_id or None


def delete_schedule(name: str) -> None:
    """Forget a schedule. Its runs are workflows like any others: they go on and stay. What waits for its start is gone.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    _check_name(name)
    _kept(_asking(name, "drop_schedule", name, uuid.uuid4().hex))


# -- inside ------------------------------------------------------------------------------------------------------------


def _steer(name: str, steering: Steering) -> ScheduleKept:
    _check_name(name)
    return _kept(_asking(name, "steer_schedule", name, steering, uuid.uuid4().hex))


def _asking(name: str, method: str, *arguments: Any) -> Any:
    return with_platform(lambda platform: platform.ask(name, method, *arguments))


def _kept(outcome: Any) -> ScheduleKept:
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, ScheduleKept)
    return outcome


def _brief(row: ScheduleRow) -> dict[str, Any]:
    state, timing = row.schedule, Timing.from_json(row.timing)
    due_unix_s = None if state.paused else state.next_due_unix_s
    return {
        "name": state.name,
        "when": str(timing),
        "paused": state.paused,
        "next_run": None if due_unix_s is None else timing.in_zone(due_unix_s),
    }


def _next_runs(row: ScheduleRow, timing: Timing) -> list[datetime]:
    """The times to come, as they are when nothing is changed; none while it is paused."""
    due_unix_s = None if row.schedule.paused else row.schedule.next_due_unix_s
    found: list[datetime] = []
    while due_unix_s is not None and len(found) < _NEXT_RUNS:
        found.append(timing.in_zone(due_unix_s))
        due_unix_s = timing.next_after(due_unix_s)
    return found


def _terms(cron: Any, every_s: Any, at: Any, timezone: Any, overlap: Any, catch_up_s: Any, coalesce: Any) -> Terms:
    timing = Timing.of(cron=cron, every_s=every_s, at=at, timezone=timezone)
    _check_flag("coalesce", coalesce)
    return Terms(
        timing=timing, overlap=checked_overlap(overlap), catch_up_s=checked_catch_up(catch_up_s), coalesce=coalesce
    )


def checked_overlap(overlap: Any) -> Overlap:
    """Check the `overlap` of a schedule or reminder."""
    kinds = [kind.value for kind in Overlap]
    if overlap not in kinds:
        raise ValueError(f"overlap must be one of {', '.join(map(repr, kinds))}, not {overlap!r}")
    return Overlap(overlap)


def checked_catch_up(catch_up_s: Any) -> float:
    """Check the `catch_up_s` of a schedule or reminder."""
    # With less, a time that is looked at a little late would be dropped.
    return check_number(
        "catch_up_s", catch_up_s, least=_LEAST_CATCH_UP_S, rule=f"{_LEAST_CATCH_UP_S:g} seconds or more"
    )


def _check_flag(name: str, given: Any) -> None:
    if not isinstance(given, bool):
        raise TypeError(f"{name} must be True or False, not {given!r}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a schedule must be a string, not {name!r}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of a schedule must be valid text, not {name!r:.200}") from None
    if not 0 < length <= _LONGEST_NAME_BYTES:
        raise ValueError(
            f"the name of a schedule has 1 to {_LONGEST_NAME_BYTES} bytes in UTF-8, and {name[:40]!r} has {length:,}: "
            "the ids of its runs begin with it"
        )


def _digest(submission: SubmitRequest) -> str:
    """Hash of what is to be run: graph, arguments and code."""
    digest = hashlib.blake2b(digest_size=16)

    def add(payload: Payload) -> None:
        for piece in frame(payload):
            digest.update(piece)

    for node in submission.graph.nodes:
        about = (node.task_id, node.kind.value, node.function, node.inputs, node.num_returns, node.duration_s)
        digest.update(repr((about, node.stream, node.due_unix_s, node.acknowledge, node.options)).encode())
        if isinstance(node.arguments, Payload):
            add(node.arguments)
    for key, payload in sorted(submission.objects.items()):
        digest.update(key.encode())
        add(payload)
    digest.update(str(submission.graph.sink).encode())
    return digest.hexdigest()
