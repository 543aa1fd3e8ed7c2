"""Workflows that a client has written down itself."""

from __future__ import annotations

import pytest

from holdfast.actors.direct_submission import submit_directly
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Accepted, Recover, Submit
from holdfast.engine.commands import StartTask
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.memory import MemoryStore
from holdfast.storage.workflow_row import WorkflowRow

NOW = 1_000.0
PLATFORM = "node-0123456789abcdef"
GRAPH = Graph(nodes=(NodeSpec(task_id="t", function="f" * 32),), sink=0)


class House:
    """A store that a platform has, and its executor."""

    def __init__(self, **limits: int) -> None:
        self.kv = MemoryStore()
        self.core = ExecutorCore(self.kv, "executor-0")
        with self.kv.write() as txn:
            store.save_setting(txn, "platform_id", PLATFORM)
            store.save_setting(txn, "limits", {"max_running": None, "max_pending": None} | limits)

    def submit(self, workflow_id: str = "w", *, nonce: str = "n", cluster: str = PLATFORM[-16:]) -> int | None:
        submit = Submit(workflow_id=workflow_id, graph=GRAPH, nonce=nonce, user_metadata={"of": "us"})
        before = self.contents()
        number = submit_directly(self.kv, submit, "executor-0", cluster, NOW)
        assert (number is None) is (self.contents() == before)
        return number

    def contents(self) -> dict[bytes, bytes]:
        with self.kv.read() as txn:
            return dict(txn.scan(b""))

    def row(self, seq: int) -> WorkflowRow:
        with self.kv.read() as txn:
            row = store.get(txn, seq)
        assert row is not None
        return row


def test_it_is_there_as_if_the_executor_had_written_it() -> None:
    direct, asked = House(), House()
    assert direct.submit() == 1
    submit = Submit(workflow_id="w", graph=GRAPH, nonce="n", user_metadata={"of": "us"})
    asked.core.perform([submit], NOW)
    assert direct.row(1) == asked.row(1)
    assert direct.row(1).status is WorkflowStatus.RUNNING


def test_the_executor_takes_it_up_when_it_is_told_and_when_it_looks() -> None:
    house = House()
    seq = house.submit()
    assert seq is not None
    with house.kv.read() as txn:
        assert store.held_by(txn, "executor-0") == [seq]
    ((row, command),) = house.core.perform([Recover(seq=seq)], NOW).commands
    assert isinstance(command, StartTask)
    assert (row.workflow_id, command.node.task_id) == ("w", "t")
    # Told once more, by a call that Ray repeats: it runs once.
    assert house.core.perform([Recover(seq=seq)], NOW).commands == []


def test_asked_for_once_more_it_is_the_same() -> None:
    house = House()
    seq = house.submit()
    assert house.submit() is None
    again = Submit(workflow_id="w", graph=GRAPH, nonce="n")
    assert house.core.perform([again], NOW).outcomes == [Accepted(seq=1, status=WorkflowStatus.RUNNING)]
    assert seq == 1


def test_an_id_that_is_taken_is_left_to_the_executor() -> None:
    house = House()
    house.submit()
    assert house.submit(nonce="other") is None
    (refused,) = house.core.perform([Submit(workflow_id="w", graph=GRAPH, nonce="other")], NOW).outcomes
    assert isinstance(refused, RuntimeError)


@pytest.mark.parametrize("limits", [{"max_running": 1}, {"max_running": 1, "max_pending": 0}])
def test_one_that_has_to_wait_or_finds_no_room_is_left_to_the_executor(limits: dict[str, int]) -> None:
    house = House(**limits)
    assert house.submit("first", nonce="1") is not None
    assert house.submit("second", nonce="2") is None


def test_nothing_is_written_for_a_platform_that_has_the_folder_no_more() -> None:
    assert House().submit(cluster="fedcba9876543210") is None


def test_one_that_was_deleted_does_not_come_back() -> None:
    house = House()
    seq = house.submit()
    assert seq is not None
    with house.kv.write() as txn:
        store.delete(txn, house.row(seq), NOW)
    assert house.submit() is None
