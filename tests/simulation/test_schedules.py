"""Random days of a schedule, by seed, in which no law is broken; and deliberate faults that the laws must catch."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from holdfast.actors import schedule_operations
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Batch, Operation
from holdfast.engine import schedules
from holdfast.engine.schedules import ClockRead, RunRefused
from holdfast.storage import schedule_store
from tests.simulation.laws import LawBrokenError
from tests.simulation.schedule_world import MakeScheduleWorld, ScheduleWorld

SEEDS = 800
MOST_SEEDS = 1500


def broken_by(seed: int, make: MakeScheduleWorld = ScheduleWorld) -> str | None:
    """What a seed broke, if anything."""
    try:
        make(Random(seed)).run()
    except LawBrokenError as broken:
        return f'seed {seed}: "{broken.law}" ({broken.detail})'
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"seed {seed}: {type(error).__name__}: {error} at {where.filename}:{where.lineno}"
    return None


def test_no_day_of_a_schedule_breaks_a_law() -> None:
    broken = [found for seed in range(SEEDS) if (found := broken_by(seed)) is not None]
    assert not broken, "\n".join(broken[:20])


# -- deliberate faults -------------------------------------------------------------------------------------------------


class LateWorld(ScheduleWorld):
    """Writes where a schedule stands in a transaction of its own, after the one that starts the run."""

    def perform(self, core: ExecutorCore, operations: list[Operation]) -> Batch:
        honest, late = schedule_store.save, []  # type: ignore[var-annotated]

        def save(txn: Any, row: Any, *, was: Any, now_unix_s: float) -> None:
            if was is None:
                honest(txn, row, was=was, now_unix_s=now_unix_s)
            else:
                late.append((row, was))

        schedule_store.save = save
        try:
            batch = super().perform(core, operations)
        finally:
            schedule_store.save = honest
        for row, was in late:
            with self.disk.write() as txn:
                honest(txn, row, was=was, now_unix_s=self.now)
        return batch


@dataclass(frozen=True, slots=True)
class Fault:
    """A deliberate fault: what is wrong, how it is put in, and the world it shows in."""

    name: str
    inject: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    make: MakeScheduleWorld = ScheduleWorld


def _apply(change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Put something in the place of the engine's decision; `change` is given it, too."""
    honest = schedules.apply

    def inject(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(schedule_operations, "apply", lambda *given: change(honest, *given))

    return inject


def _early(honest: Any, schedule: Any, signal: Any, now: float, next_after: Any) -> Any:
    return honest(schedule, signal, now + 3.0, next_after)


def _follow_the_clock(honest: Any, schedule: Any, signal: Any, now: float, next_after: Any) -> Any:
    schedule, command = honest(schedule, signal, now, next_after)
    if isinstance(signal, ClockRead) and not schedule.paused:
        schedule = replace(schedule, next_due_unix_s=next_after(now))
    return schedule, command


def _forget_what_runs(honest: Any, schedule: Any, *given: Any) -> Any:
    schedule, command = honest(schedule, *given)
    return replace(schedule, running=()), command


def _forget_what_was_missed(honest: Any, schedule: Any, signal: Any, now: float, next_after: Any) -> Any:
    if isinstance(signal, ClockRead) and not schedule.paused and schedule.next_due_unix_s < now - 5.0:
        schedule = replace(schedule, next_due_unix_s=next_after(now - 5.0))
    return honest(schedule, signal, now, next_after)


def _drop_what_finds_no_place(honest: Any, schedule: Any, signal: Any, *given: Any) -> Any:
    if isinstance(signal, RunRefused):
        schedule = replace(schedule, waiting=schedule.waiting[1:])
    return honest(schedule, signal, *given)


def _start_the_last_first(honest: Any, schedule: Any, signal: Any, *given: Any) -> Any:
    schedule, command = honest(schedule, signal, *given)
    return replace(schedule, waiting=schedule.waiting[::-1]), command


def _ignore_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schedule_operations.Schedules, "runs_over", lambda self, *given: None)


def _ignore_marks(honest: Any, schedule: Any, *given: Any) -> Any:
    return honest(replace(schedule, past=()), *given)


def _run_in_a_pause(honest: Any, schedule: Any, *given: Any) -> Any:
    schedule, command = honest(replace(schedule, paused=False), *given)
    return schedule, command


FAULTS = (
    Fault("the state moves on in a later commit than the run", make=LateWorld),
    Fault("a time is fired early", _apply(_early)),
    Fault("a clock that goes back fires again", _apply(_follow_the_clock)),
    Fault("what runs is forgotten", _apply(_forget_what_runs)),
    Fault("what was due while nothing ran is lost", _apply(_forget_what_was_missed)),
    Fault("what finds no place is lost", _apply(_drop_what_finds_no_place)),
    Fault("a queue starts the last first", _apply(_start_the_last_first)),
    Fault("nobody notices the end of a run", _ignore_ends),
    Fault("a repeated request is a new one", _apply(_ignore_marks)),
    Fault("a pause holds nothing up", _apply(_run_in_a_pause)),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_deliberate_fault_of_a_schedule_is_caught(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.inject(monkeypatch)
    found = next((found for seed in range(MOST_SEEDS) if (found := broken_by(seed, fault.make)) is not None), None)
    assert found is not None, f"{MOST_SEEDS} days did not show that {fault.name}"
    assert ".py:" not in found, f"not a law but an error caught it: {found}"
