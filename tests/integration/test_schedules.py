"""Schedules on a real Ray: when their runs come, what stops and replaces them, and that no death loses a time."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.dag import InputNode

from holdfast import workflow
from holdfast.workflow.exceptions import ScheduleExistsError, ScheduleNotFoundError
from tests.integration.traces import mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")

NIGHTLY = "30 2 * * *"


@ray.remote(num_cpus=0)
def note(file: str, text: str = "") -> str:
    mark(file, text)
    return text


@ray.remote(num_cpus=0)
def note_until(file: str, gate: str) -> None:
    mark(file)
    wait_for_file(gate)


def runs(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workflow.describe_schedule(name)["last_runs"]
    return found


def succeeded(name: str) -> int:
    return sum(run["status"] == workflow.SUCCESSFUL for run in runs(name))


def going_on(name: str) -> list[str]:
    return [run["workflow_id"] for run in runs(name) if run["status"] == workflow.RUNNING]


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_schedule_fires_each_of_its_times_once_and_none_early(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "file"
    began = time.time()
    workflow.schedule(wid, note.bind(str(file), "x"), every_s=0.5, overlap="allow", coalesce=False)
    wait_for(lambda: succeeded(wid) >= 3, "three runs")
    workflow.delete_schedule(wid)
    found = {one for one, _ in workflow.list_all() if one.startswith(wid)}
    wait_for(lambda: len(marks(file)) == len(found), "all runs have run")
    dues = sorted(datetime.fromisoformat(one.removeprefix(f"{wid}-").replace("Z", "+00:00")) for one in found)
    assert {later - earlier for earlier, later in pairwise(dues)} == {timedelta(seconds=0.5)}
    assert dues[0].timestamp() >= began + 0.5
    for one in found:
        due = datetime.fromisoformat(one.removeprefix(f"{wid}-").replace("Z", "+00:00"))
        wait_for(lambda one=one: workflow.get_status(one) == workflow.SUCCESSFUL)  # type: ignore[misc]
        assert workflow.get_metadata(one)["stats"]["start_time"] >= due.timestamp()


def test_a_date_of_the_past_is_due_at_once_and_only_once(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "file"
    at = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=5)
    workflow.schedule(wid, note.bind(str(file)), at=at)
    wait_for(lambda: succeeded(wid) == 1, "the run")
    described = workflow.describe_schedule(wid)
    assert (described["next_run"], described["next_runs"]) == (None, [])
    assert runs(wid)[0]["due"] == at
    # The same again is no other schedule, and its time has been run.
    workflow.schedule(wid, note.bind(str(file)), at=at)
    assert len(runs(wid)) == 1


def test_a_date_too_long_ago_is_refused(wid: str) -> None:
    with pytest.raises(ValueError, match=r"would never run: catch_up_s=60.*later time"):
        workflow.schedule(wid, note.bind("x"), at=time.time() - 100, catch_up_s=60)
    with pytest.raises(ScheduleNotFoundError):
        workflow.describe_schedule(wid)


def test_the_next_times_are_shown_in_the_time_zone(wid: str) -> None:
    workflow.schedule(wid, note.bind("x"), cron=NIGHTLY, timezone="Europe/Berlin", metadata={"for": "night"})
    described = workflow.describe_schedule(wid)
    assert len(described["next_runs"]) == 5
    assert described["next_runs"][0] == described["next_run"]
    assert str(described["next_run"].tzinfo) == "Europe/Berlin"
    assert described["when"] == "cron '30 2 * * *' in Europe/Berlin"
    assert (described["overlap"], described["coalesce"], described["catch_up_s"]) == ("skip", True, 86_400.0)
    assert described["user_metadata"] == {"for": "night"}
    listed = {one["name"]: one for one in workflow.list_schedules()}
    assert listed[wid] == {name: described[name] for name in ("name", "when", "paused", "next_run")}


# -- what is run -------------------------------------------------------------------------------------------------------


def test_a_run_has_the_arguments_metadata_and_large_values_of_its_schedule(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def sizes(large: bytes, inside: list[Any], value: int) -> tuple[int, int, int]:
        return len(large), len(ray.get(inside[0])), value

    with InputNode() as given:
        dag = sizes.bind(b"x" * 200_000, [ray.put(b"y" * 300_000)], given)
    workflow.schedule(wid, dag, 7, cron=NIGHTLY, metadata={"for": "night"})
    first, second = workflow.trigger_schedule(wid), None
    assert first is not None
    assert workflow.get_output(first) == (200_000, 300_000, 7)
    second = workflow.trigger_schedule(wid)
    assert second is not None
    assert second != first
    # Nothing of a run goes with another run, nor with the schedule.
    assert workflow.get_output(second) == (200_000, 300_000, 7)
    assert workflow.get_metadata(second)["user_metadata"] == {"for": "night"}
    workflow.delete(first)
    third = workflow.trigger_schedule(wid)
    workflow.delete_schedule(wid)
    assert third is not None
    assert workflow.get_output(third) == workflow.get_output(second) == (200_000, 300_000, 7)


def test_nothing_large_is_left_when_a_schedule_and_its_runs_are_gone(platform: Path, wid: str) -> None:
    def groups() -> set[str]:
        return {entry.name for entry in (platform / "blobs").iterdir()}

    before = groups()

    @ray.remote(num_cpus=0)
    def size(large: bytes) -> int:
        return len(large)

    workflow.schedule(wid, size.bind(b"x" * 200_000), cron=NIGHTLY)
    with pytest.raises(ScheduleExistsError):
        workflow.schedule(wid, size.bind(b"y" * 200_000), cron=NIGHTLY)
    assert len(groups() - before) == 1
    workflow.schedule(wid, size.bind(b"z" * 300_000), cron=NIGHTLY, replace=True)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    assert workflow.get_output(run) == 300_000
    assert len(groups() - before) == 2
    workflow.delete_schedule(wid)
    workflow.delete(run)
    assert groups() == before


def test_what_a_task_of_a_run_returns_may_be_more_work(wid: str) -> None:
    @ray.remote(num_cpus=0)
    def child() -> str:
        return "child"

    @ray.remote(num_cpus=0)
    def parent() -> Any:
        return workflow.continuation(child.bind())

    workflow.schedule(wid, parent.bind(), cron=NIGHTLY)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    assert workflow.get_output(run) == "child"


def test_a_workflow_of_the_step_api_can_be_scheduled(wid: str) -> None:
    @workflow.step
    def one() -> int:
        return 1

    @workflow.step
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    workflow.schedule(wid, add.step([one.step(), one.step()]), cron=NIGHTLY)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    assert workflow.get_output(run) == 2


def test_an_id_that_is_taken_does_not_stop_a_run(tmp_path: Path, wid: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    taken = f"{wid}-2026-01-01T00:00:00Z"
    workflow.run(note.bind(str(tmp_path / "other")), workflow_id=taken)
    workflow.schedule(wid, note.bind(str(tmp_path / "file"), "run"), at=at, catch_up_s=1e9)
    wait_for(lambda: succeeded(wid) == 1, "the run")
    assert runs(wid)[0]["workflow_id"] == f"{taken}-1"


# -- definitions -------------------------------------------------------------------------------------------------------


def test_the_same_definition_again_changes_nothing(wid: str) -> None:
    for _ in range(2):
        workflow.schedule(wid, note.bind("x"), every_s=3600, metadata={"a": 1})
    first = workflow.describe_schedule(wid)
    workflow.schedule(wid, note.bind("x"), every_s=3600, metadata={"a": 1}, replace=True)
    assert workflow.describe_schedule(wid) == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"every_s": 1800}, "due every 3600 s, and not every 1800 s"),
        ({"overlap": "queue"}, "overlap is 'skip', and not 'queue'"),
        ({"metadata": {"b": 2}}, "metadata"),
        ({"dag": note.bind("another")}, "what it runs"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_another_definition_is_refused_and_says_what_differs_unless_it_replaces(
    changed: dict[str, Any], said: str, wid: str
) -> None:
    given: dict[str, Any] = {"dag": note.bind("x"), "every_s": 3600}
    workflow.schedule(wid, **given)
    before = workflow.describe_schedule(wid)
    with pytest.raises(ScheduleExistsError, match=f"{said}.*replace=True"):
        workflow.schedule(wid, **{**given, **changed})
    assert workflow.describe_schedule(wid) == before
    workflow.schedule(wid, **{**given, **changed}, replace=True)
    after = workflow.describe_schedule(wid)
    assert (after["next_run"] == before["next_run"]) == ("every_s" not in changed)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"cron": "soon"}, ValueError, "'soon'"),
        ({"every_s": 0}, ValueError, "every_s must be 0.1"),
        ({"every_s": 1, "cron": NIGHTLY}, ValueError, "exactly one"),
        ({"at": datetime(2040, 1, 1)}, ValueError, "no time zone"),
        ({"cron": NIGHTLY, "timezone": "Mars/Olympus"}, ValueError, "'Mars/Olympus'"),
        ({"every_s": 1, "overlap": "both"}, ValueError, "overlap must be one of 'skip'.*'both'"),
        ({"every_s": 1, "catch_up_s": 1}, ValueError, "catch_up_s must be 10"),
        ({"every_s": 1, "catch_up_s": "1"}, TypeError, "catch_up_s"),
        ({"every_s": 1, "coalesce": 1}, TypeError, "coalesce must be True or False"),
        ({"every_s": 1, "replace": None}, TypeError, "replace must be True or False"),
        ({"every_s": 1, "metadata": {"a": object()}}, ValueError, "metadata"),
        ({"every_s": 1, "dag": 5}, TypeError, "type 'int'"),
        ({"every_s": 1, "name": ""}, ValueError, "1 to 900 bytes"),
        ({"every_s": 1, "name": "é" * 451}, ValueError, "902"),
        ({"every_s": 1, "name": "\ud800"}, ValueError, "valid text"),
        ({"every_s": 1, "name": 5}, TypeError, "not 5"),
    ],
    ids=lambda one: "-".join(one) if isinstance(one, dict) else "",
)
def test_what_cannot_be_scheduled_is_refused_at_the_call(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = workflow.list_schedules()
    with pytest.raises(error, match=said):
        workflow.schedule(**{"name": "refused", "dag": note.bind("x"), **given})
    assert workflow.list_schedules() == before


def test_a_schedule_that_is_not_there_is_said_by_name() -> None:
    for ask in (
        workflow.describe_schedule,
        workflow.pause_schedule,
        workflow.resume_schedule,
        workflow.trigger_schedule,
        workflow.delete_schedule,
    ):
        with pytest.raises(ScheduleNotFoundError, match=r"no schedule 'nobody'.*list_schedules"):
            ask("nobody")


# -- pause, trigger, delete --------------------------------------------------------------------------------------------


def test_no_time_comes_due_in_a_pause_and_those_after_it_do(tmp_path: Path, wid: str) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    workflow.schedule(wid, note.bind(str(file)), every_s=0.5)
    workflow.schedule(f"{wid}-other", note.bind(str(other)), every_s=0.5)
    wait_for(lambda: marks(file), "a run")
    workflow.pause_schedule(wid)
    described = workflow.describe_schedule(wid)
    assert (described["paused"], described["next_run"], described["next_runs"]) == (True, None, [])
    before, passed = len(described["last_runs"]), len(marks(other))
    wait_for(lambda: len(marks(other)) >= passed + 3, "the other one goes on")
    assert len(runs(wid)) == before
    resumed = datetime.now(timezone.utc)
    workflow.resume_schedule(wid)
    wait_for(lambda: len(runs(wid)) > before, "a run after the pause")
    after = runs(wid)[:-before]
    assert min(run["due"] for run in after) >= resumed
    workflow.delete_schedule(wid)
    workflow.delete_schedule(f"{wid}-other")


def test_a_run_can_be_started_by_hand_also_in_a_pause(tmp_path: Path, wid: str) -> None:
    file = tmp_path / "file"
    workflow.schedule(wid, note.bind(str(file)), cron=NIGHTLY)
    workflow.pause_schedule(wid)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    workflow.get_output(run)
    found = runs(wid)
    assert [(one["workflow_id"], one["triggered"], one["status"]) for one in found] == [
        (run, True, workflow.SUCCESSFUL)
    ]
    assert workflow.describe_schedule(wid)["paused"]


def test_after_delete_nothing_fires_and_what_runs_goes_on(tmp_path: Path, wid: str) -> None:
    file, gate = tmp_path / "file", tmp_path / "gate"
    workflow.schedule(wid, note_until.bind(str(file), str(gate)), cron=NIGHTLY)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    wait_for(lambda: marks(file), "the run")
    workflow.delete_schedule(wid)
    assert workflow.get_status(run) == workflow.RUNNING
    assert wid not in {one["name"] for one in workflow.list_schedules()}
    gate.touch()
    workflow.get_output(run)
    # The name is free.
    workflow.schedule(wid, note.bind(str(file)), every_s=3600)
    assert runs(wid) == []
    workflow.delete_schedule(wid)


def test_a_run_that_was_deleted_is_shown_without_a_status(tmp_path: Path, wid: str) -> None:
    workflow.schedule(wid, note.bind(str(tmp_path / "file")), cron=NIGHTLY)
    run = workflow.trigger_schedule(wid)
    assert run is not None
    workflow.get_output(run)
    workflow.delete(run)
    assert [(one["workflow_id"], one["status"]) for one in runs(wid)] == [(run, workflow.NONE)]


# -- overlap -----------------------------------------------------------------------------------------------------------


def test_skip_does_without_what_comes_due_while_one_runs(tmp_path: Path, wid: str) -> None:
    file, gate = tmp_path / "file", tmp_path / "gate"
    workflow.schedule(wid, note_until.bind(str(file), str(gate)), every_s=0.3)
    wait_for(lambda: workflow.describe_schedule(wid)["skipped"] >= 2, "times are skipped")
    assert len(runs(wid)) == 1
    assert workflow.trigger_schedule(wid) is None
    gate.touch()
    wait_for(lambda: len(runs(wid)) >= 2, "the next run")
    workflow.delete_schedule(wid)


def test_queue_starts_the_next_when_the_one_before_has_ended(tmp_path: Path, wid: str) -> None:
    file, gate = tmp_path / "file", tmp_path / "gate"
    workflow.schedule(wid, note_until.bind(str(file), str(gate)), cron=NIGHTLY, overlap="queue")
    asked = [workflow.trigger_schedule(wid) for _ in range(3)]
    wait_for(lambda: marks(file), "the first run")
    assert len(going_on(wid)) == 1
    assert len(workflow.describe_schedule(wid)["waiting"]) == 2
    gate.touch()
    wait_for(lambda: succeeded(wid) == 3, "all of them")
    assert [run["workflow_id"] for run in reversed(runs(wid))] == asked
    stats = [workflow.get_metadata(str(one))["stats"] for one in asked]
    assert all(one["end_time"] <= other["start_time"] for one, other in pairwise(stats))


def test_allow_runs_them_side_by_side(tmp_path: Path, wid: str) -> None:
    file, gate = tmp_path / "file", tmp_path / "gate"
    workflow.schedule(wid, note_until.bind(str(file), str(gate)), cron=NIGHTLY, overlap="allow")
    for _ in range(3):
        workflow.trigger_schedule(wid)
    wait_for(lambda: len(marks(file)) == 3, "three runs at once")
    gate.touch()
    wait_for(lambda: succeeded(wid) == 3, "all of them")


def test_replace_cancels_the_one_before(tmp_path: Path, wid: str) -> None:
    file, gate = tmp_path / "file", tmp_path / "gate"
    workflow.schedule(wid, note_until.bind(str(file), str(gate)), cron=NIGHTLY, overlap="replace")
    first = workflow.trigger_schedule(wid)
    wait_for(lambda: len(marks(file)) == 1, "the first run")
    second = workflow.trigger_schedule(wid)
    wait_for(lambda: len(marks(file)) == 2, "the second run")
    assert workflow.get_status(str(first)) == workflow.CANCELED
    gate.touch()
    workflow.get_output(str(second))
    assert [run["workflow_id"] for run in runs(wid)] == [second, first]


# -- asynchronous ------------------------------------------------------------------------------------------------------


async def look_after(name: str) -> list[Any]:
    await workflow.aio.schedule(name, note.bind("/dev/null"), cron=NIGHTLY)
    await workflow.aio.pause_schedule(name)
    paused = (await workflow.aio.describe_schedule(name))["paused"]
    await workflow.aio.resume_schedule(name)
    run = await workflow.aio.trigger_schedule(name)
    await workflow.aio.get_output(run)
    listed = [one["name"] for one in await workflow.aio.list_schedules()]
    await workflow.aio.delete_schedule(name)
    return [paused, name in listed, len(await workflow.aio.list_schedules()) == len(listed) - 1]


def test_all_of_it_can_be_awaited(wid: str) -> None:

    assert asyncio.run(look_after(wid)) == [True, True, True]
