"""`get_metadata` of workflows and tasks."""

from __future__ import annotations

import os
import time

import pytest
import ray

from holdfast import workflow
from tests.integration.traces import wait_for, wait_for_file, wait_until_begun

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def gated(gate, value=None):
    wait_for_file(gate)
    return value


@ray.remote
def needs_file(path):
    if not os.path.exists(path):
        raise FileNotFoundError(path)


def test_a_workflow_tells_status_user_metadata_and_times(wid) -> None:
    before = time.time()
    workflow.run(add.bind(1, 2), workflow_id=wid, metadata={"k": [1, {"x": None}], "ü": 1.5})
    after = time.time()
    told = workflow.get_metadata(wid)
    assert set(told) >= {"status", "user_metadata", "stats"}
    assert told["status"] == "SUCCESSFUL"
    assert told["user_metadata"] == {"k": [1, {"x": None}], "ü": 1.5}
    assert before <= told["stats"]["start_time"] <= told["stats"]["end_time"] <= after
    assert isinstance(told["stats"]["start_time"], float)


def test_without_metadata_there_is_an_empty_dict(wid) -> None:
    workflow.run(add.options(**workflow.options(task_id="t")).bind(1), workflow_id=wid)
    assert workflow.get_metadata(wid)["user_metadata"] == {}
    assert workflow.get_metadata(wid, "t")["user_metadata"] == {}


def test_a_task_tells_id_options_user_metadata_inputs_and_times(wid) -> None:
    def named(task_id, **options):
        return add.options(num_cpus=0.5, **workflow.options(task_id=task_id, **options))

    first = named("first", metadata={"m": 1}).bind(1)
    second = named("second", max_retries=5, catch_exceptions=True, checkpoint=False).bind(2)

    @ray.remote
    def last(a, b, c):
        return a

    dag = last.options(**workflow.options(task_id="last")).bind(first, [second], {"k": first})
    workflow.run(dag, workflow_id=wid)
    told = workflow.get_metadata(wid, "first")
    assert set(told) == {"task_id", "task_options", "user_metadata", "workflow_refs", "stats"}
    assert (told["task_id"], told["user_metadata"], told["workflow_refs"]) == ("first", {"m": 1}, [])
    assert told["task_options"]["ray_options"]["num_cpus"] == 0.5
    options = workflow.get_metadata(wid, task_id="second")["task_options"]
    assert options["max_retries"] == 5
    assert options["catch_exceptions"] is True
    assert options["checkpoint"] is False
    assert workflow.get_metadata(wid, name="last")["workflow_refs"] == ["first", "second"]
    whole, part = workflow.get_metadata(wid)["stats"], told["stats"]
    assert whole["start_time"] <= part["start_time"] <= part["end_time"] <= whole["end_time"]


def test_options_given_at_several_places_are_merged_and_the_later_wins_key_by_key(wid) -> None:
    @workflow.options(max_retries=7, metadata={"later": True})
    @workflow.options(task_id="decorated", metadata={"earlier": True}, max_retries=5)
    @ray.remote
    def decorated():
        return 1

    @ray.remote(**workflow.options(task_id="in remote", metadata={"d": 4}))
    def in_remote(x):
        return x

    later = in_remote.options(**workflow.options(metadata={"e": 5}, checkpoint=False))
    workflow.run(later.bind(in_remote.bind(decorated.bind())), workflow_id=wid)
    told = workflow.get_metadata(wid, "decorated")
    assert told["user_metadata"] == {"later": True}
    assert told["task_options"]["max_retries"] == 7
    assert workflow.get_metadata(wid, "in remote")["user_metadata"] == {"d": 4}
    told = workflow.get_metadata(wid, "in remote_1")
    assert told["user_metadata"] == {"e": 5}
    assert told["task_options"]["checkpoint"] is False


def test_a_running_workflow_has_no_end(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    named = gated.options(**workflow.options(task_id="running"))
    waiting = add.options(**workflow.options(task_id="waiting")).bind(named.bind(gate, 1))
    ref = workflow.run_async(waiting, workflow_id=wid)
    told = workflow.get_metadata(wid)
    assert told["status"] == "RUNNING"
    assert set(told["stats"]) == {"start_time"}
    assert "end_time" not in workflow.get_metadata(wid, "running")["stats"]
    assert workflow.get_metadata(wid, "waiting")["stats"] == {}
    gate.touch()
    ray.get(ref)
    assert set(workflow.get_metadata(wid, "waiting")["stats"]) == {"start_time", "end_time"}


def test_a_cancelled_workflow_has_no_end(wid, tmp_path) -> None:
    workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=wid, metadata={"k": 1})
    workflow.cancel(wid)
    told = workflow.get_metadata(wid)
    assert told["status"] == "CANCELED"
    assert told["user_metadata"] == {"k": 1}
    assert set(told["stats"]) == {"start_time"}


def test_a_failed_workflow_has_an_end_and_a_resume_moves_both_times_on(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(needs_file.bind(gate), workflow_id=wid, metadata={"k": 1})
    failed = workflow.get_metadata(wid)
    assert failed["status"] == "FAILED"
    gate.touch()
    workflow.resume(wid)
    resumed = workflow.get_metadata(wid)
    assert resumed["status"] == "SUCCESSFUL"
    assert resumed["user_metadata"] == {"k": 1}
    assert failed["stats"]["start_time"] < failed["stats"]["end_time"] <= resumed["stats"]["start_time"]
    assert resumed["stats"]["start_time"] < resumed["stats"]["end_time"]


def test_a_failed_task_tells_of_itself(wid, tmp_path) -> None:
    failing = needs_file.options(**workflow.options(task_id="bad", metadata={"k": 1}))
    with pytest.raises(workflow.WorkflowExecutionError):
        workflow.run(failing.bind(tmp_path / "gate"), workflow_id=wid)
    told = workflow.get_metadata(wid, "bad")
    assert told["user_metadata"] == {"k": 1}
    assert told["stats"]["start_time"] <= told["stats"]["end_time"]


def test_unknown_ids_are_named(wid) -> None:
    workflow.run(add.bind(1), workflow_id=wid)
    with pytest.raises(ValueError, match="No such workflow_id 'nobody'"):
        workflow.get_metadata("nobody")
    with pytest.raises(ValueError, match="No such workflow_id 'nobody'"):
        workflow.get_metadata("nobody", "task")
    with pytest.raises(ValueError, match=f"No such task_id 'nothing' in workflow '{wid}'"):
        workflow.get_metadata(wid, "nothing")
    assert "nobody" not in dict(workflow.list_all())


def test_metadata_that_is_not_json_is_refused_when_it_is_given(wid) -> None:
    for bad in ({"k": object()}, {"k": {1, 2}}, {(1, 2): 3}, "text", 5):
        with pytest.raises(ValueError, match="metadata"):
            workflow.run_async(add.bind(1), workflow_id=wid, metadata=bad)
        with pytest.raises(ValueError, match="metadata"):
            add.options(**workflow.options(metadata=bad))
    assert wid not in dict(workflow.list_all())


def test_a_later_change_of_the_users_dict_is_not_seen(wid, tmp_path) -> None:
    metadata = {"k": 1}
    ref = workflow.run_async(gated.bind(tmp_path / "gate"), workflow_id=wid, metadata=metadata)
    metadata["k"] = 2
    (tmp_path / "gate").touch()
    ray.get(ref)
    assert workflow.get_metadata(wid)["user_metadata"] == {"k": 1}
    wait_for(lambda: workflow.get_status(wid) == "SUCCESSFUL")


def test_a_running_task_tells_when_it_was_started(wid, tmp_path) -> None:
    gate = tmp_path / "gate"
    before = time.time()
    running = workflow.run_async(gated.options(**workflow.options(task_id="slow")).bind(gate, 3), workflow_id=wid)
    wait_until_begun(wid, "slow")
    stats = workflow.get_metadata(wid, "slow")["stats"]
    assert before <= stats["start_time"] <= time.time()
    assert "end_time" not in stats
    gate.touch()
    assert ray.get(running) == 3
    assert workflow.get_metadata(wid, "slow")["stats"]["end_time"] >= stats["start_time"]
