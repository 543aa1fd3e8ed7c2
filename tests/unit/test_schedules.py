"""What a schedule decides: pure, by signals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast.engine.schedules import (
    KEPT_RUNS,
    MOST_AT_ONCE,
    MOST_WAITING,
    CancelRun,
    ClockRead,
    DueRun,
    Overlap,
    PauseRequested,
    ResumeRequested,
    ResumeRun,
    RunEnded,
    RunInterrupted,
    RunRefused,
    RunResumed,
    RunStarted,
    Schedule,
    ScheduleCommand,
    ScheduleSignal,
    StartRun,
    TriggerRequested,
    apply,
    redefined,
)


def every_ten(unix_s: float) -> float:
    return (unix_s // 10 + 1) * 10


def new(overlap: Overlap = Overlap.SKIP, **about: Any) -> Schedule:
    given = {"catch_up_s": 1000.0, "coalesce": False, "next_due_unix_s": 10.0} | about
    return Schedule(name="s", overlap=overlap, **given)


def after(schedule: Schedule, now: float, *signals: ScheduleSignal) -> tuple[Schedule, ScheduleCommand | None]:
    command: ScheduleCommand | None = None
    for signal in signals:
        schedule, command = apply(schedule, signal, now, every_ten)
    return schedule, command


def play(schedule: Schedule, now: float, signal: ScheduleSignal) -> tuple[Schedule, list[ScheduleCommand]]:
    """Carry out what is asked for: every run starts, every cancelled one ends at once."""
    done: list[ScheduleCommand] = []
    next_signal: ScheduleSignal | None = signal
    while next_signal is not None:
        schedule, command = apply(schedule, next_signal, now, every_ten)
        next_signal = None
        if command is not None:
            done.append(command)
        if isinstance(command, StartRun):
            next_signal = RunStarted(run=command.run, workflow_id=f"w{command.run.due_unix_s:g}")
        elif isinstance(command, CancelRun):
            next_signal = RunEnded(workflow_id=command.workflow_id)
    return schedule, done


def started(commands: list[ScheduleCommand]) -> list[float]:
    return [command.run.due_unix_s for command in commands if isinstance(command, StartRun)]


def test_nothing_is_due_before_its_time() -> None:
    schedule, command = after(new(), 9.999, ClockRead())
    assert (schedule, command) == (new(), None)
    assert schedule.wake_unix_s == 10.0


def test_what_is_due_is_started_and_the_next_time_is_taken() -> None:
    schedule, commands = play(new(), 10.0, ClockRead())
    assert started(commands) == [10.0]
    assert schedule.next_due_unix_s == 20.0
    assert schedule.running == ("w10",)
    assert [past.workflow_id for past in schedule.past] == ["w10"]


def test_a_second_look_starts_nothing() -> None:
    schedule, _ = play(new(), 10.0, ClockRead())
    assert play(schedule, 10.0, ClockRead()) == (schedule, [])


def test_a_clock_that_goes_back_fires_nothing_twice() -> None:
    schedule, _ = play(new(Overlap.ALLOW), 35.0, ClockRead())
    for now in (12.0, 22.0, 32.0, 39.9):
        schedule, commands = play(schedule, now, ClockRead())
        assert commands == []
    _, commands = play(schedule, 40.0, ClockRead())
    assert started(commands) == [40.0]


@pytest.mark.parametrize(("coalesce", "expected"), [(False, [10.0, 20.0, 30.0]), (True, [30.0])])
def test_what_was_missed_is_run_each_or_once(coalesce: bool, expected: list[float]) -> None:
    schedule, commands = play(new(Overlap.ALLOW, coalesce=coalesce), 35.0, ClockRead())
    assert started(commands) == expected
    assert schedule.next_due_unix_s == 40.0
    assert schedule.missed_until_unix_s is None


def test_what_is_longer_ago_than_the_catch_up_is_missed_and_said() -> None:
    schedule, commands = play(new(Overlap.ALLOW, catch_up_s=14.0), 105.0, ClockRead())
    assert started(commands) == [100.0]
    assert schedule.missed_until_unix_s == 91.0


def test_what_is_just_as_long_ago_as_the_catch_up_is_run() -> None:
    schedule, commands = play(new(Overlap.ALLOW, catch_up_s=15.0), 105.0 + 10.0, ClockRead())
    assert started(commands) == [100.0, 110.0]
    assert schedule.missed_until_unix_s == 100.0


def test_one_time_of_very_many_is_found_without_walking_through_all() -> None:
    asked = 0

    def counting(unix_s: float) -> float:
        nonlocal asked
        asked += 1
        return every_ten(unix_s)

    schedule = new(Overlap.ALLOW, coalesce=True, catch_up_s=1e9)
    schedule, command = apply(schedule, ClockRead(), 1e8 + 5.0, counting)
    assert command == StartRun(run=DueRun(due_unix_s=1e8))
    assert asked < 20


def test_one_look_takes_in_only_so_many_and_the_next_goes_on() -> None:
    schedule, commands = play(new(Overlap.ALLOW, catch_up_s=1e6), MOST_AT_ONCE * 10 + 5000.0, ClockRead())
    assert len(started(commands)) == MOST_AT_ONCE
    assert schedule.wake_unix_s == (MOST_AT_ONCE + 1) * 10
    _, commands = play(schedule, MOST_AT_ONCE * 10 + 5000.0, ClockRead())
    assert started(commands)[0] == (MOST_AT_ONCE + 1) * 10


def test_skip_does_without_what_comes_due_while_one_runs() -> None:
    schedule, _ = play(new(), 10.0, ClockRead())
    schedule, commands = play(schedule, 25.0, ClockRead())
    assert commands == []
    assert (schedule.skipped, schedule.next_due_unix_s) == (1, 30.0)
    schedule, _ = play(schedule, 26.0, RunEnded(workflow_id="w10"))
    assert started(play(schedule, 30.0, ClockRead())[1]) == [30.0]


def test_queue_starts_the_next_when_the_one_before_has_ended() -> None:
    schedule, commands = play(new(Overlap.QUEUE), 35.0, ClockRead())
    assert started(commands) == [10.0]
    assert schedule.wake_unix_s == 40.0
    schedule, commands = play(schedule, 36.0, RunEnded(workflow_id="w10"))
    assert started(commands) == [20.0]
    schedule, commands = play(schedule, 37.0, RunEnded(workflow_id="w20"))
    assert started(commands) == [30.0]
    assert schedule.running == ("w30",)


def test_a_queue_holds_only_so_many() -> None:
    many = tuple(DueRun(due_unix_s=float(at)) for at in range(MOST_WAITING))
    schedule, _ = after(new(Overlap.QUEUE, waiting=many, running=("w",)), 10.0, ClockRead())
    assert len(schedule.waiting) == MOST_WAITING
    assert schedule.skipped == 1


def test_replace_cancels_the_one_that_runs_and_then_starts() -> None:
    schedule, _ = play(new(Overlap.REPLACE), 10.0, ClockRead())
    schedule, commands = play(schedule, 25.0, ClockRead())
    assert commands == [CancelRun(workflow_id="w10"), StartRun(run=DueRun(due_unix_s=20.0))]
    assert schedule.running == ("w20",)


def test_replace_waits_for_the_end_of_what_it_cannot_cancel_at_once() -> None:
    schedule, _ = play(new(Overlap.REPLACE), 10.0, ClockRead())
    schedule, command = after(schedule, 20.0, ClockRead())
    assert command == CancelRun(workflow_id="w10")
    # Somebody has to look again: the message may be lost.
    assert schedule.wake_unix_s == 0.0
    assert after(schedule, 21.0, ClockRead())[1] == CancelRun(workflow_id="w10")
    assert after(schedule, 22.0, RunEnded(workflow_id="w10"))[1] == StartRun(run=DueRun(due_unix_s=20.0))


def test_of_several_times_that_replace_each_other_only_the_last_is_run() -> None:
    schedule, commands = play(new(Overlap.REPLACE), 35.0, ClockRead())
    assert started(commands) == [30.0]
    assert schedule.skipped == 2


def test_what_finds_no_place_stays_due() -> None:
    schedule, command = after(new(), 10.0, ClockRead(), RunRefused())
    assert command is None
    assert schedule.wake_unix_s == 0.0
    # Also when the clock was set back meanwhile.
    assert after(schedule, 5.0, ClockRead())[1] == StartRun(run=DueRun(due_unix_s=10.0))


def test_times_pass_while_it_is_paused() -> None:
    schedule, _ = after(new(), 5.0, PauseRequested())
    assert schedule.wake_unix_s is None
    schedule, command = after(schedule, 35.0, ClockRead(), ResumeRequested())
    assert (command, schedule.next_due_unix_s) == (None, 40.0)


def test_what_was_due_before_the_pause_starts_after_it() -> None:
    schedule, _ = after(new(), 10.0, ClockRead(), RunRefused(), PauseRequested())
    assert after(schedule, 11.0, ClockRead())[1] is None
    assert after(schedule, 12.0, ResumeRequested())[1] == StartRun(run=DueRun(due_unix_s=10.0))


def test_a_run_asked_for_starts_at_once_and_moves_no_time() -> None:
    paused = replace(new(), paused=True)
    for schedule in (new(), paused):
        found, commands = play(schedule, 3.0, TriggerRequested(asked="me"))
        assert commands == [StartRun(run=DueRun(due_unix_s=3.0, asked="me"))]
        assert found.next_due_unix_s == 10.0


def test_a_run_asked_for_twice_under_one_mark_is_one() -> None:
    schedule, _ = play(new(Overlap.ALLOW), 3.0, TriggerRequested(asked="me"))
    assert play(schedule, 4.0, TriggerRequested(asked="me")) == (schedule, [])


def test_a_run_asked_for_is_skipped_while_one_runs() -> None:
    schedule, _ = play(new(), 10.0, ClockRead())
    schedule, commands = play(schedule, 11.0, TriggerRequested(asked="me"))
    assert (commands, schedule.waiting, schedule.skipped) == ([], (), 1)


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.QUEUE])
def test_a_run_whose_cluster_was_lost_goes_on_first(overlap: Overlap) -> None:
    schedule = new(overlap, running=("w0",))
    assert after(schedule, 10.0, RunInterrupted(workflow_id="w0"))[1] == ResumeRun(workflow_id="w0")


@pytest.mark.parametrize("news", [RunResumed(workflow_id="w0"), RunEnded(workflow_id="w0")], ids=["resumed", "ended"])
def test_a_run_that_finds_no_place_to_go_on_is_looked_at_again_until_it_does(news: ScheduleSignal) -> None:
    schedule, _ = after(new(running=("w0",)), 5.0, RunInterrupted(workflow_id="w0"))
    assert schedule.wake_unix_s == 0.0
    assert schedule.has_work(5.0)
    schedule, _ = after(schedule, 6.0, news)
    assert schedule.wake_unix_s == 10.0
    assert not schedule.has_work(6.0)


def test_a_run_whose_cluster_was_lost_is_replaced() -> None:
    schedule = new(Overlap.REPLACE, running=("w0",))
    schedule, command = after(schedule, 10.0, RunInterrupted(workflow_id="w0"))
    assert command is None
    assert after(schedule, 10.0, ClockRead())[1] == CancelRun(workflow_id="w0")


def test_a_run_that_was_resumed_counts_again() -> None:
    schedule, _ = after(new(), 3.0, RunResumed(workflow_id="w0"), RunResumed(workflow_id="w0"))
    assert schedule.running == ("w0",)
    assert after(new(Overlap.ALLOW), 3.0, RunResumed(workflow_id="w0"))[0].running == ()


def test_only_the_last_runs_are_remembered() -> None:
    schedule, _ = play(new(Overlap.ALLOW), (KEPT_RUNS + 5) * 10.0, ClockRead())
    assert len(schedule.past) == KEPT_RUNS
    assert schedule.past[-1].due_unix_s == (KEPT_RUNS + 5) * 10.0


def test_times_come_to_an_end() -> None:
    schedule, command = apply(new(), ClockRead(), 10.0, lambda _: None)
    assert command == StartRun(run=DueRun(due_unix_s=10.0))
    schedule, _ = after(schedule, 10.0, RunStarted(run=DueRun(due_unix_s=10.0), workflow_id="w"))
    assert (schedule.next_due_unix_s, schedule.wake_unix_s) == (None, None)
    assert after(schedule, 1e9, ClockRead()) == (schedule, None)


def test_times_that_go_backwards_are_refused() -> None:
    with pytest.raises(ValueError, match="forward"):
        apply(new(), ClockRead(), 10.0, lambda unix_s: unix_s)


def test_another_definition_keeps_what_runs() -> None:
    schedule, _ = play(new(Overlap.QUEUE), 35.0, ClockRead())
    about: dict[str, Any] = {"catch_up_s": 5.0, "coalesce": True, "next_due_unix_s": 77.0}
    changed = redefined(schedule, overlap=Overlap.SKIP, **about)
    assert (changed.running, changed.past, changed.next_due_unix_s) == (("w10",), schedule.past, 77.0)
    assert changed.waiting == (DueRun(due_unix_s=30.0),)
    assert redefined(schedule, overlap=Overlap.ALLOW, **about).running == ()
