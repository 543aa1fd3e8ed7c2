"""A request that is made again, because the process that did it died before it could say so, gets the first answer."""

from __future__ import annotations

import fcntl
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Accepted, Cancel, Delete, Deliver, Operation, Outcome, Post, Submit
from holdfast.engine.errors import WorkflowNotFoundError, WorkflowStillActiveError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.signals import TaskReturned
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import workflow_store as store
from holdfast.storage.answered import find_answer, forget_answers, save_answer
from holdfast.storage.memory import MemoryStore
from holdfast.storage.payload import Payload
from tests.recovery.processes import of_role, the_one, until

NOW_UNIX_S = 1_700_000_000.0
GRAPH = Graph(nodes=(NodeSpec(task_id="a"),), sink=0)


class Restarting:
    """An executor that dies after each request: the next one comes to its successor."""

    def __init__(self) -> None:
        self.kv = MemoryStore()

    def ask(self, operation: Operation) -> Outcome:
        (outcome,) = ExecutorCore(self.kv, "executor").perform([operation], NOW_UNIX_S).outcomes
        return outcome

    def submit(self, nonce: str) -> None:
        outcome = self.ask(Submit(workflow_id="w", graph=GRAPH, nonce=nonce))
        assert isinstance(outcome, Accepted)
        assert outcome.fresh

    def status(self) -> WorkflowStatus:
        with self.kv.read() as txn:
            row = store.find(txn, "w")
        return WorkflowStatus.NONE if row is None else row.status


@pytest.fixture
def executor() -> Restarting:
    return Restarting()


def test_a_delete_that_is_repeated_says_again_that_it_deleted(executor: Restarting) -> None:
    executor.submit("first")
    executor.ask(Cancel(workflow_id="w", nonce="c"))
    first = executor.ask(Delete(workflow_id="w", nonce="d"))
    assert isinstance(first, Accepted)
    assert executor.ask(Delete(workflow_id="w", nonce="d")) == first
    assert isinstance(executor.ask(Delete(workflow_id="w", nonce="another")), WorkflowNotFoundError)


def test_a_delete_that_is_repeated_leaves_the_next_run_of_the_id_alone(executor: Restarting) -> None:
    executor.submit("first")
    executor.ask(Cancel(workflow_id="w", nonce="c"))
    executor.ask(Delete(workflow_id="w", nonce="d"))
    executor.submit("second")
    assert isinstance(executor.ask(Delete(workflow_id="w", nonce="d")), Accepted)
    assert isinstance(executor.ask(Cancel(workflow_id="w", nonce="c")), Accepted)
    assert executor.status() is WorkflowStatus.RUNNING


def test_a_request_that_was_refused_is_judged_anew(executor: Restarting) -> None:
    executor.submit("first")
    assert isinstance(executor.ask(Delete(workflow_id="w", nonce="d")), WorkflowStillActiveError)
    executor.ask(Cancel(workflow_id="w", nonce="c"))
    assert isinstance(executor.ask(Delete(workflow_id="w", nonce="d")), Accepted)
    assert executor.status() is WorkflowStatus.NONE


def test_an_event_that_is_sent_again_by_one_request_is_new_again_and_by_another_is_not(executor: Restarting) -> None:
    executor.submit("first")

    def send(nonce: str) -> bool:
        post = Post(workflow_id="w", stream=("http", "k"), value=Payload(b"v"), dedupe_id="key k", nonce=nonce)
        outcome = executor.ask(post)
        assert isinstance(outcome, Accepted)
        return outcome.fresh

    assert send("one")
    assert send("one")
    assert not send("two")
    with executor.kv.read() as txn:
        assert len(list(store.read_inbox(txn, 1))) == 1


def test_an_event_that_is_sent_again_after_its_workflow_ended_is_new_again(executor: Restarting) -> None:
    core = ExecutorCore(executor.kv, "executor")
    post = Post(workflow_id="w", stream=("http", "k"), value=Payload(b"v"), dedupe_id="key k", nonce="one")
    core.perform([Submit(workflow_id="w", graph=GRAPH, nonce="n"), post], NOW_UNIX_S)
    core.perform([Deliver(seq=1, signal=TaskReturned(task=0, attempt=1, value=Payload(b"v")))], NOW_UNIX_S)
    assert executor.status() is WorkflowStatus.SUCCESSFUL
    outcome = executor.ask(post)
    assert isinstance(outcome, Accepted)
    assert outcome.fresh


def test_answers_are_forgotten_after_a_while_a_page_at_a_time(executor: Restarting) -> None:
    with executor.kv.write() as txn:
        for number in range(10):
            save_answer(txn, f"n{number}", number, WorkflowStatus.NONE, NOW_UNIX_S + number)
    after, removed = b"", 0
    for _ in range(4):
        with executor.kv.write() as txn:
            going_on, removed_now = forget_answers(txn, NOW_UNIX_S + 5, after, limit=3)
        removed += removed_now
        assert going_on is None or going_on > after
        after = going_on or b""
    assert going_on is None
    assert removed == 5
    with executor.kv.read() as txn:
        assert [find_answer(txn, f"n{number}") is None for number in range(10)] == [True] * 5 + [False] * 5


@ray.remote
def hold(path: str) -> None:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(f"{path}.held").write_text(str(os.getpid()))
        signal.pause()


def is_free(path: Path) -> bool:
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_cancel_whose_executor_dies_in_it_still_returns_only_when_the_task_has_been_killed(
    storage: Path, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    reference = workflow.run_async(hold.bind(str(lock)), workflow_id="w")
    pid = int(until(lambda: (held := Path(f"{lock}.held")).exists() and held.read_text(), "the task holds the lock"))
    # It does not hear that it is to end, and the executor waits for it.
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        cancelling = pool.submit(workflow.cancel, "w")
        until(lambda: workflow.get_status("w") == workflow.CANCELED, "the cancel is written")
        assert not cancelling.done()
        the_one("executor").kill()
        cancelling.result(timeout=60)
        assert is_free(lock)
        until(lambda: of_role("worker") == [], "the worker is gone")
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(reference)
