"""User code that ends with whatever it likes: its call fails and says so, and nothing else is touched."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.engine.errors import TaskTimeoutError
from holdfast.engine.virtual_actor_errors import VirtualActorStateError
from tests.integration.endings import CAUGHT_KINDS, KINDS, NAMES, TEXT, Panic, end, tells, told_by
from tests.integration.migrating import guest_of
from tests.integration.outside import Source, listener
from tests.integration.traces import mark, marks, wait_for, wait_for_file

pytestmark = pytest.mark.usefixtures("platform")

DEADLINE_S = 60.0


class EndsWhenPickled:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        end(self.kind)


class EndsWhenLoaded:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, str]) -> None:
        end(state["kind"])


def failure_of(ask: Callable[[], Any]) -> BaseException:
    """What a call failed with: an error that a caller's `except Exception` catches."""
    try:
        value = ask()
    except Exception as error:
        return error
    raise AssertionError(f"nothing failed, and it gave {value!r}")


def got(reference: Any) -> Any:
    return ray.get(reference, timeout=DEADLINE_S)


# -- tasks -------------------------------------------------------------------------------------------------------------


@ray.remote(num_cpus=0.1)
def ends(kind, path=None):
    if path is not None:
        mark(path)
    end(kind)


@ray.remote(num_cpus=0.1)
def returns_what_ends(kind):
    return EndsWhenPickled(kind)


@ray.remote(num_cpus=0.1)
def returns(value):
    return value


@ray.remote(num_cpus=0.1)
def goes_on_with(kind):
    return workflow.continuation(returns.bind(EndsWhenPickled(kind)))


@ray.remote(num_cpus=0.1)
def goes_on_in_place(kind):
    return workflow.continuation(ends.options(**workflow.options(allow_inplace=True)).bind(kind))


@ray.remote(num_cpus=0.1)
def loads(value):
    return value


TASKS: dict[str, Callable[[str], Any]] = {
    "a task": ends.bind,
    "a task among others": lambda kind: returns.bind([returns.bind(0), ends.bind(kind), returns.bind(1)]),
    "a task after others": lambda kind: ends.bind(returns.bind(returns.bind(returns.bind(kind)))),
    "a task in place": goes_on_in_place.bind,
    "a result that is pickled": returns_what_ends.bind,
    "a continuation that is built": goes_on_with.bind,
    "an argument that is loaded": lambda kind: loads.bind(EndsWhenLoaded(kind)),
    "an input that is loaded": lambda kind: loads.bind(loads.options().bind(returns_what_ends_loading.bind(kind))),
}


@ray.remote(num_cpus=0.1)
def returns_what_ends_loading(kind):
    return EndsWhenLoaded(kind)


@pytest.mark.parametrize("place", TASKS)
@pytest.mark.parametrize("kind", CAUGHT_KINDS)
def test_a_task_fails_and_says_what_ended_it(place: str, kind: str) -> None:
    failed = failure_of(lambda: got(workflow.run_async(TASKS[place](kind))))
    assert isinstance(failed, workflow.WorkflowExecutionError)
    assert tells(failed, kind), repr(failed.__cause__)


def test_the_cause_is_what_ended_the_task(wid: str) -> None:
    failed = failure_of(lambda: workflow.run(ends.bind("exit"), workflow_id=wid))
    cause = failed.__cause__
    assert isinstance(cause, SystemExit)
    assert cause.code == TEXT
    assert workflow.get_status(wid) == workflow.FAILED


@pytest.mark.parametrize("kind", ["exit", "interrupt", "panic"])
def test_a_task_that_exits_runs_once(kind: str, tmp_path: Path) -> None:
    failure_of(lambda: workflow.run(ends.bind(kind, str(tmp_path / "runs"))))
    assert len(marks(tmp_path / "runs")) == 1


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"max_retries": 2, "retry_exceptions": True}, 3),
        ({"max_retries": 2, "retry_exceptions": [SystemExit]}, 3),
        ({"max_retries": 2, "retry_exceptions": [ValueError]}, 1),
    ],
    ids=str,
)
def test_a_filter_of_retries_sees_an_exit(options: dict[str, Any], runs: int, tmp_path: Path) -> None:
    task = ends.options(**workflow.options(**options)).bind("exit", str(tmp_path / "runs"))
    failure_of(lambda: workflow.run(task))
    assert len(marks(tmp_path / "runs")) == runs


@pytest.mark.parametrize(("non_retryable", "runs"), [((Panic,), 1), ((SystemExit,), 3)], ids=str)
def test_a_policy_of_retries_sees_any_end(non_retryable: tuple[type, ...], runs: int, tmp_path: Path) -> None:
    retry = workflow.Retry(max_attempts=3, initial_s=0.05, non_retryable=non_retryable)
    task = ends.options(**workflow.options(retry=retry)).bind("panic", str(tmp_path / "runs"))
    failure_of(lambda: workflow.run(task))
    assert len(marks(tmp_path / "runs")) == runs


@pytest.mark.parametrize("kind", CAUGHT_KINDS)
def test_an_end_that_is_caught_is_a_value(kind: str) -> None:
    value, error = workflow.run(ends.options(**workflow.options(catch_exceptions=True)).bind(kind))
    assert value is None
    assert tells(error, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_ends_its_reader_is_an_error_of_the_reader(kind: str, wid: str) -> None:
    reference = workflow.run_async(returns_what_ends_loading.bind(kind), workflow_id=wid)
    if kind == "interrupt":
        # In the caller's own main thread it is the caller's.
        with pytest.raises((KeyboardInterrupt, Exception)):
            got(reference)
    else:
        said = told_by(failure_of(lambda: got(reference)))
        assert "cannot be unpickled here" in said
        assert NAMES[kind] in said
    assert workflow.get_status(wid) == workflow.SUCCESSFUL


def test_a_task_that_ends_its_process_is_lost_with_it(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0.1, max_retries=1)
    def leaves():
        mark(tmp_path / "runs")
        os._exit(3)

    failed = failure_of(lambda: workflow.run(leaves.bind()))
    assert type(failed.__cause__).__name__ == "WorkerLostError"
    assert len(marks(tmp_path / "runs")) == 2


def test_a_worker_that_is_asked_to_end_is_lost_and_its_task_runs_again(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0.1, max_retries=1)
    def is_ended():
        mark(tmp_path / "runs")
        if len(marks(tmp_path / "runs")) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        return "the second"

    assert workflow.run(is_ended.bind()) == "the second"


def test_a_cancelled_workflow_is_cancelled_whatever_its_task_makes_of_it(wid: str, tmp_path: Path) -> None:
    @ray.remote(num_cpus=0.1)
    def waits():
        mark(tmp_path / "began")
        try:
            asyncio.run(asyncio.sleep(600))
        finally:
            sys.exit(2)

    reference = workflow.run_async(waits.bind(), workflow_id=wid)
    wait_for_file(tmp_path / "began")
    workflow.cancel(wid)
    assert isinstance(failure_of(lambda: got(reference)), workflow.WorkflowCancellationError)
    assert workflow.get_status(wid) == workflow.CANCELED


# -- virtual actors ----------------------------------------------------------------------------------------------------


@workflow.virtual_actor
class Guest:
    def __init__(self, kind: str = "") -> None:
        self.count = 0
        if kind:
            end(kind)

    def leave(self, kind: str) -> None:
        self.count += 1000
        end(kind)

    async def leave_async(self, kind: str) -> None:
        await asyncio.sleep(0)
        end(kind)

    async def stay_until_cancelled(self) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            sys.exit(TEXT)

    async def leave_beside(self, kind: str) -> None:
        async def leave() -> None:
            end(kind)

        await asyncio.create_task(leave())

    def give(self, kind: str) -> Any:
        return EndsWhenPickled(kind)

    def take(self, value: Any) -> Any:
        return value

    def keep(self, kind: str) -> None:
        self.kept = EndsWhenPickled(kind)

    def go_on(self, kind: str) -> Any:
        return ends.bind(kind)

    @workflow.virtual_actor.readonly
    def look(self, kind: str) -> None:
        end(kind)

    @workflow.virtual_actor.readonly
    async def look_async(self, kind: str) -> None:
        await asyncio.sleep(0)
        end(kind)

    def add(self) -> int:
        self.count += 1
        return self.count

    async def add_async(self) -> int:
        self.count += 1
        return self.count


@workflow.virtual_actor
class Packer:
    """Its state's hooks end as it is asked to."""

    def __init__(self) -> None:
        self.saves = self.loads = ""
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        if self.saves:
            end(self.saves)
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["loads"]:
            end(state["loads"])
        vars(self).update(state)

    def fail_to_save(self, kind: str) -> None:
        self.saves = kind

    def fail_to_load(self, kind: str) -> None:
        self.loads = kind

    def add(self) -> int:
        self.count += 1
        return self.count

    @workflow.virtual_actor.readonly
    def look(self) -> int:
        return self.count


METHODS: dict[str, Callable[[Any, str], Any]] = {
    "a method": lambda guest, kind: guest.leave.run_async(kind),
    "an async method": lambda guest, kind: guest.leave_async.run_async(kind),
    "what an async method starts": lambda guest, kind: guest.leave_beside.run_async(kind),
    "a result that is pickled": lambda guest, kind: guest.give.run_async(kind),
    "an argument that is loaded": lambda guest, kind: guest.take.run_async(EndsWhenLoaded(kind)),
    "a state that is pickled": lambda guest, kind: guest.keep.run_async(kind),
    "a step that it goes on with": lambda guest, kind: guest.go_on.run_async(kind),
    "a method that reads": lambda guest, kind: guest.look.run_async(kind),
    "an async method that reads": lambda guest, kind: guest.look_async.run_async(kind),
}


@pytest.mark.parametrize("place", METHODS)
@pytest.mark.parametrize("kind", CAUGHT_KINDS)
def test_a_method_fails_and_its_actor_and_the_others_go_on(place: str, kind: str) -> None:
    guest = Guest.get_or_create(f"{place} {kind}")
    beside = Guest.get_or_create("beside")
    failed = failure_of(lambda: got(METHODS[place](guest, kind)))
    assert tells(failed, kind) or "kept" in str(failed), repr(failed)
    assert got(guest.add.run_async()) == 1
    assert got(guest.add_async.run_async()) == 2
    assert got(beside.add_async.run_async()) > 0


def test_a_method_that_runs_over_its_time_has_done_that_whatever_it_makes_of_it() -> None:
    guest = Guest.get_or_create("over its time")
    failed = failure_of(lambda: got(guest.stay_until_cancelled.options(timeout_s=0.3).run_async()))
    assert isinstance(failed, TaskTimeoutError)
    assert got(guest.add_async.run_async()) == 1


@pytest.mark.parametrize("kind", CAUGHT_KINDS)
def test_a_constructor_fails_and_says_what_ended_it(kind: str) -> None:
    made = Guest.get_or_create(f"constructor {kind}", kind)
    assert tells(failure_of(lambda: got(made.ready())), kind)
    assert isinstance(failure_of(made.add.run), Exception)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_given_fails_its_call_alone(kind: str) -> None:
    packer = Packer.get_or_create(f"saves {kind}")
    assert tells(failure_of(lambda: got(packer.fail_to_save.run_async(kind))), kind)
    assert got(packer.add.run_async()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_taken_fails_the_calls_that_need_it(kind: str) -> None:
    packer = Packer.get_or_create(f"loads {kind}")
    got(packer.fail_to_load.run_async(kind))
    # Readers have a copy of the state, made by its hook; after that there is no object whose state it is.
    for ask in (packer.look.run_async, packer.add.run_async):
        failed = failure_of(lambda ask=ask: got(ask()))
        assert isinstance(failed, VirtualActorStateError)
        assert f"restoring it raised {NAMES[kind]}" in str(failed)
    beside = Packer.get_or_create(f"beside {kind}")
    assert got(beside.add.run_async()) == 1


def test_a_caller_can_catch_an_exit_and_look_at_it() -> None:
    guest = Guest.get_or_create("caught")
    with pytest.raises(workflow.exceptions.UserCodeExitError, match="SystemExit") as caught:
        guest.leave.run("exit")
    assert isinstance(caught.value.__cause__, SystemExit)
    assert caught.value.__cause__.code == TEXT
    assert isinstance(failure_of(lambda: got(guest.leave.run_async("exit"))), workflow.exceptions.UserCodeExitError)


def test_a_migration_that_exits_fails_the_call_and_keeps_the_state() -> None:
    guest_of(1).get_or_create("migrating").add.run()
    failed = failure_of(guest_of(2).get_or_create("migrating").add.run)
    assert "its migration from 1 raised SystemExit" in str(failed)
    assert guest_of(3).get_or_create("migrating").add.run() == 2


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", ["workflow_id", "actor_id"])
def test_an_id_function_that_ends_makes_dead_letters(parameter: str, source: Source, wid: str) -> None:
    def name_of(message: tuple[Any, bytes]) -> Any:
        kind = message[1].decode()
        return f"{wid}-{kind}" if kind == "good" else end(kind)

    topic = f"{wid}-{parameter}"
    follow(topic, **{parameter: name_of})
    source.take_in(topic, *(("key", kind.encode()) for kind in (*KINDS, "good")))
    wait_for(source.start_all, "all events to have had their effect")
    letters = source.dead_letters(topic)
    assert len(letters) == len(KINDS), [letter.error for letter in letters]
    for kind in KINDS:
        assert [letter for letter in letters if f"{parameter}= raised {NAMES[kind]}" in letter.error], kind


@pytest.mark.parametrize("kind", ["exit", "panic"])
def test_an_id_function_that_cannot_be_loaded_makes_dead_letters(kind: str, source: Source, wid: str) -> None:
    held = EndsWhenLoaded(kind)

    def name_of(message: Any) -> str:
        return f"{wid}-{held.kind}"

    follow(wid, workflow_id=name_of)
    source.take_in(wid, ("key", b"1"))
    wait_for(source.start_all, "all events to have had their effect")
    (letter,) = source.dead_letters(wid)
    assert f"workflow_id= cannot be loaded: {NAMES[kind]}" in letter.error


def follow(topic: str, **about: Any) -> None:
    """Have the events of a topic start workflows, or call actors."""
    if "workflow_id" in about:
        workflow.on_event(listener(), topic, start=lambda message: returns.bind(1), name=topic, **about)
        return

    @workflow.virtual_actor
    class Called:
        @workflow.on_event(listener(), topic, **about)
        def hear(self, message: Any) -> None:
            pass

    workflow.subscribe(Called)


# -- listeners ---------------------------------------------------------------------------------------------------------


class Ends(workflow.EventListener):
    async def poll_for_event(self, kind):
        await asyncio.sleep(0.01)
        end(kind)


class EndsBeside(workflow.EventListener):
    async def poll_for_event(self, kind):
        async def leave():
            end(kind)

        await asyncio.create_task(leave())


class EndsAtOnce(workflow.EventListener):
    kind = ""

    def __init__(self):
        end(type(self).kind)

    async def poll_for_event(self, kind):
        return kind


class EndsWhenTold(workflow.EventListener):
    async def poll_for_event(self, kind):
        return kind

    async def event_checkpointed(self, event):
        end(event)


class EndsAsked(workflow.EventListener):
    @classmethod
    def subscription(cls, kind):
        end(kind)

    async def poll_for_event(self, kind):
        return kind


class GivesWhatEnds(workflow.EventListener):
    async def poll_for_event(self, kind):
        return EndsWhenPickled(kind)


class File(workflow.EventListener):
    async def poll_for_event(self, path):
        while not os.path.exists(path):
            await asyncio.sleep(0.05)
        return "came"


class EndsWhenCancelled(workflow.EventListener):
    async def poll_for_event(self, path):
        mark(path)
        try:
            await asyncio.sleep(600)
        finally:
            sys.exit(TEXT)


def made_to_end(kind: str) -> type[workflow.EventListener]:
    return type("EndsAtOnceNow", (EndsAtOnce,), {"kind": kind})


LISTENERS: dict[str, Callable[[str], Any]] = {
    "a poll": lambda kind: workflow.wait_for_event(Ends, kind),
    "what a poll starts": lambda kind: workflow.wait_for_event(EndsBeside, kind),
    "a constructor": lambda kind: workflow.wait_for_event(made_to_end(kind), kind),
    "an acknowledgement": lambda kind: workflow.wait_for_event(EndsWhenTold, kind),
    "a subscription": lambda kind: workflow.wait_for_event(EndsAsked, returns.bind(kind)),
    "an event that is pickled": lambda kind: workflow.wait_for_event(GivesWhatEnds, kind),
}


@pytest.mark.parametrize("place", LISTENERS)
def test_a_listener_fails_and_the_others_wait_on(place: str, wid: str, tmp_path: Path) -> None:
    innocent = workflow.run_async(workflow.wait_for_event(File, str(tmp_path / "event")), workflow_id=f"{wid}-innocent")
    ended = {
        kind: workflow.run_async(returns.bind(LISTENERS[place](kind)), workflow_id=f"{wid}-{kind}") for kind in KINDS
    }
    for kind, reference in ended.items():
        failed = failure_of(lambda reference=reference: got(reference))
        assert isinstance(failed, workflow.WorkflowExecutionError)
        # Python closes what awaits a task that ends so, and gives it a `GeneratorExit` of its own.
        whole = (place, kind) != ("what a poll starts", "generator exit")
        assert tells(failed, kind) if whole else isinstance(failed.__cause__, GeneratorExit), (kind, told_by(failed))
    (tmp_path / "event").touch()
    assert got(innocent) == "came"
    later = workflow.run_async(workflow.wait_for_event(File, str(tmp_path / "event")), workflow_id=f"{wid}-later")
    assert got(later) == "came"


def test_a_listener_that_is_cancelled_is_that_whatever_it_makes_of_it(wid: str, tmp_path: Path) -> None:
    waiting = workflow.wait_for_event(EndsWhenCancelled, str(tmp_path / "began"))
    cancelled = workflow.run_async(waiting, workflow_id=wid)
    innocent = workflow.run_async(workflow.wait_for_event(File, str(tmp_path / "event")), workflow_id=f"{wid}-innocent")
    wait_for_file(tmp_path / "began")
    workflow.cancel(wid)
    assert isinstance(failure_of(lambda: got(cancelled)), workflow.WorkflowCancellationError)
    assert workflow.get_status(wid) == workflow.CANCELED
    (tmp_path / "event").touch()
    assert got(innocent) == "came"
