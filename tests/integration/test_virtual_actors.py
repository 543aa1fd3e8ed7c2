"""Virtual actors through the public API: what they keep, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from holdfast import workflow
from holdfast.engine.errors import ResultNotStoredError, TaskTimeoutError
from holdfast.engine.virtual_actor_errors import (
    CallOutcomeForgottenError,
    IdTakenError,
    MailboxFullError,
    VirtualActorCycleError,
    VirtualActorNotFoundError,
    VirtualActorStateError,
)
from holdfast.storage import actor_store, layout
from holdfast.storage.folder import StorageFolder
from holdfast.workflow.virtual_actor_class import VirtualActorNotInitializedError

pytestmark = pytest.mark.usefixtures("platform")


@workflow.virtual_actor
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.seen: list[int] = []

    def add(self, by: int) -> int:
        self.count += by
        self.seen.append(by)
        return self.count

    async def add_slowly(self, by: int) -> int:
        before = self.count
        await asyncio.sleep(0.01)
        self.count = before + by
        return self.count

    def fail(self) -> None:
        self.count += 1000
        raise LookupError("no such thing")

    def fail_until(self, folder: str, times: int) -> int:
        tries = Path(folder) / "tries"
        so_far = len(tries.read_text()) if tries.exists() else 0
        tries.write_text("x" * (so_far + 1))
        self.count += 100
        if so_far < times:
            raise OSError(f"try {so_far}")
        return self.count

    def wait_for(self, path: str) -> int:
        wait_for(lambda: Path(path).exists())
        self.count += 1
        return self.count

    def hang(self) -> None:
        self.count = -1
        threading.Event().wait(30)

    async def hang_gently(self) -> None:
        self.count = -1
        await asyncio.sleep(30)

    def give(self, value: Any) -> Any:
        return value

    def keep_lock(self) -> None:
        self.lock = threading.Lock()

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        return self.count

    @workflow.virtual_actor.readonly
    def history(self) -> list[int]:
        self.seen.append(-1)
        self.count = -5
        return self.seen

    @workflow.virtual_actor.readonly
    def meet(self, folder: str, number: int, count: int) -> int:
        (Path(folder) / f"reader-{number}").touch()
        wait_for(lambda: len(list(Path(folder).glob("reader-*"))) == count)
        return count

    @workflow.virtual_actor.readonly
    def ids(self) -> tuple[str | None, str | None]:
        return (
            workflow.workflow_context.get_current_workflow_id(),
            workflow.workflow_context.get_current_task_id(),
        )


def wait_for(condition: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.01)


class TestKeeping:
    def test_it_keeps_what_its_methods_did(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 5)
        assert counter.add.run(2) == 7
        assert counter.add_slowly.run(3) == 10
        assert counter.value.run() == 10

    def test_one_that_exists_ignores_the_arguments(self, wid: str) -> None:
        Counter.get_or_create(wid, 5)
        ray.get(Counter.get_or_create(wid, 50).ready())
        assert Counter.get_or_create(wid, 50).value.run() == 5

    def test_it_is_found_by_its_id(self, wid: str) -> None:
        ray.get(Counter.get_or_create(wid, 5).ready())
        found = workflow.get_actor(wid)
        assert found.actor_id == wid
        assert found.add.run(1) == 6
        with pytest.raises(AttributeError, match="subtract"):
            _ = found.subtract
        with pytest.raises(TypeError, match="does not take these arguments"):
            found.add.run(1, 2)

    def test_an_unknown_one_is_named(self, wid: str) -> None:
        with pytest.raises(VirtualActorNotFoundError, match=wid):
            workflow.get_actor(wid)

    def test_calls_of_one_caller_take_effect_in_their_order(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        results = [counter.add.run_async(number) for number in range(20)]
        assert ray.get(results) == [sum(range(number + 1)) for number in range(20)]
        assert counter.history.run()[:-1] == list(range(20))

    def test_a_reader_changes_nothing(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 1)
        counter.add.run(1)
        assert counter.history.run() == [1, -1]
        assert counter.history.run() == [1, -1]
        assert counter.value.run() == 2

    def test_a_method_that_raises_leaves_the_state_as_it_was(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 1)
        with pytest.raises(LookupError, match="no such thing") as raised:
            counter.fail.run()
        assert "in fail" in str(raised.value.__cause__)
        with pytest.raises(LookupError, match="no such thing"):
            ray.get(counter.fail.run_async())
        assert counter.add.run(1) == 2
        assert workflow.get_status(wid) == workflow.SUCCESSFUL

    def test_a_large_result_and_state_come_back(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        large = np.arange(500_000)
        assert (counter.give.run(large) == large).all()
        reference = counter.give.run_async(ray.put(large))
        assert (ray.get(reference) == large).all()

    def test_what_cannot_be_stored_is_named_and_changes_nothing(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 3)
        with pytest.raises(ResultNotStoredError, match="lock"):
            counter.keep_lock.run()
        assert counter.add.run(1) == 4

    def test_it_knows_where_it_stands(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        ray.get(counter.ready())
        assert counter.ids.run() == (wid, "ids")

    def test_a_handle_goes_into_a_task(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 1)

        @ray.remote(num_cpus=0)
        def add(handle: Any) -> int:
            return int(handle.add.run(4))

        assert ray.get(add.remote(counter)) == 5
        assert workflow.run(add.bind(counter), workflow_id=f"{wid}-of-workflow") == 9

    def test_a_ray_actor_calls_one(self, wid: str) -> None:
        @ray.remote(num_cpus=0)
        class Asks:
            def by_handle(self, handle: Any) -> int:
                return int(handle.add.run(1))

            async def by_id(self, actor_id: str) -> int:
                found = await workflow.aio.get_actor(actor_id)
                return int(await found.add.aio.run(1))

        counter = Counter.get_or_create(wid)
        asks = [Asks.remote() for _ in range(2)]
        answers = [asks[0].by_handle.remote(counter), asks[1].by_id.remote(wid)]
        assert sorted(ray.get(answers)) == [1, 2]
        for one in asks:
            ray.kill(one)

    def test_the_twins_for_async_code(self, wid: str) -> None:
        async def use() -> list[Any]:
            counter = await Counter.aio.get_or_create(wid, 1)
            first = await counter.add.aio.run(1)
            second = await (await counter.add.aio.run_async(1))
            found = await workflow.aio.get_actor(wid)
            many = await asyncio.gather(*(found.value.aio.run() for _ in range(10)))
            return [first, second, many]

        assert asyncio.run(use()) == [2, 3, [3] * 10]

    def test_the_twins_that_tell_of_actors(self, wid: str) -> None:
        async def use() -> tuple[Any, Any]:
            await Counter.aio.get_or_create(wid, 1)
            return await workflow.aio.list_actors(prefix=wid), await workflow.aio.describe(wid)

        listed, described = asyncio.run(use())
        assert [one.actor_id for one in listed] == [wid] == [described.actor_id]

    def test_readers_run_at_once(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        ray.get(counter.ready())
        # Each of them ends when the others have begun.
        readers = [counter.meet.run_async(str(tmp_path), number, 4) for number in range(4)]
        assert ray.get(readers) == [4] * 4


class TestOptions:
    def test_retries(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        assert counter.fail_until.options(max_retries=2).run(str(tmp_path), 2) == 100

    def test_retries_that_are_used_up(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        with pytest.raises(OSError, match="try 1"):
            counter.fail_until.options(max_retries=1).run(str(tmp_path), 5)
        assert counter.value.run() == 0

    def test_retries_with_back_off(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        retry = workflow.Retry(max_attempts=3, initial_s=0.05)
        assert counter.fail_until.options(retry=retry).run(str(tmp_path), 2) == 100

    def test_catching_exceptions(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 1)
        value, error = counter.fail.options(catch_exceptions=True).run()
        assert value is None
        assert isinstance(error, LookupError)
        assert counter.add.options(catch_exceptions=True).run(1) == (2, None)

    def test_ray_options_of_a_call_change_nothing_for_one(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        assert counter.add.options(num_cpus=2, resources={"not here": 1}).run(1) == 1

    def test_one_idempotency_key_is_one_call(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        once = counter.add.options(idempotency_key="order 7")
        assert [once.run(1), once.run(1), ray.get(once.run_async(1))] == [1, 1, 1]
        assert counter.value.run() == 1

    @pytest.mark.parametrize("method", ["hang", "hang_gently"])
    def test_a_time_limit(self, wid: str, method: str) -> None:
        counter = Counter.get_or_create(wid, 3)
        with pytest.raises(TaskTimeoutError):
            getattr(counter, method).options(timeout_s=0.3).run()
        assert counter.add.run(1) == 4

    def test_one_that_took_too_long_does_not_touch_the_object_when_it_ends(self, wid: str, tmp_path: Path) -> None:
        @workflow.virtual_actor
        class Slow:
            def __init__(self, loads: str) -> None:
                self.count, self.loads = 0, loads

            def __getstate__(self) -> list[Any]:
                return [self.count, self.loads]

            def __setstate__(self, state: list[Any]) -> None:
                self.count, self.loads = state
                with Path(self.loads).open("a") as file:
                    file.write("x")

            def add(self) -> int:
                self.count += 1
                return self.count

            def wait_for(self, gate: str, ends: str) -> None:
                self.count = -100
                wait_for(lambda: Path(gate).exists())
                Path(ends).touch()

        loads, gate, ends = tmp_path / "loads", tmp_path / "gate", tmp_path / "ends"
        slow = Slow.get_or_create(wid, str(loads))
        with pytest.raises(TaskTimeoutError):
            slow.wait_for.options(timeout_s=0.3).run(str(gate), str(ends))
        assert slow.add.run() == 1
        before = loads.read_text()
        gate.touch()
        wait_for(ends.exists)
        assert [slow.add.run() for _ in range(50)] == list(range(2, 52))
        # The object was at hand all the time.
        assert loads.read_text() == before

    def test_a_full_mailbox_is_refused(self, wid: str, tmp_path: Path) -> None:
        @workflow.virtual_actor(mailbox_limit=2)
        class Small(Counter):  # type: ignore[misc]
            pass

        small = Small.get_or_create(wid)
        ray.get(small.ready())
        gate = tmp_path / "gate"
        accepted = [small.wait_for.run_async(str(gate)) for _ in range(2)]
        with pytest.raises(MailboxFullError, match="limit"):
            small.add.run(1)
        with pytest.raises(MailboxFullError, match="limit"):
            small.add.run_async(1)
        gate.touch()
        assert ray.get(accepted) == [1, 2]
        assert small.add.run(1) == 3


class TestStanding:
    def test_it_lists_as_running_while_a_writer_runs(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        gate = tmp_path / "gate"
        with_gate = counter.wait_for.run_async(str(gate))
        assert workflow.get_status(wid) == workflow.RUNNING
        assert (wid, workflow.RUNNING) in workflow.list_all({workflow.RUNNING})
        assert counter.value.run() == 0
        gate.touch()
        assert ray.get(with_gate) == 1
        wait_for(lambda: workflow.get_status(wid) == workflow.SUCCESSFUL)
        assert (wid, workflow.SUCCESSFUL) in workflow.list_all()

    def test_each_writing_call_is_a_task(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        before = time.time()
        counter.add.options(metadata={"why": "first"}).run(1)
        counter.add.run(1)
        counter.add.options(name="special").run(1)
        first = workflow.get_metadata(wid, "add")
        assert first["user_metadata"] == {"why": "first"}
        assert before - 1 <= first["stats"]["start_time"] <= first["stats"]["end_time"] <= time.time() + 1
        assert workflow.get_metadata(wid, "add_1")["task_id"] == "add_1"
        assert workflow.get_metadata(wid, "special")["task_options"]["method"] == "add"
        assert workflow.get_output(wid, task_id="add_1") == 2
        assert workflow.get_output(wid) == 3
        assert workflow.get_metadata(wid)["status"] == workflow.SUCCESSFUL
        with pytest.raises(ValueError, match="No such task_id 'other'"):
            workflow.get_metadata(wid, "other")

    def test_a_call_that_is_not_kept_any_more_is_told_from_one_that_never_was(self, wid: str, platform: Path) -> None:
        counter = Counter.get_or_create(wid)
        for _ in range(3):
            counter.add.run(1)
        # As a thousand calls and a minute later.
        folder = StorageFolder.open(platform, create=False)
        with folder.kv.write() as txn:
            seq = actor_store.seq_of(txn, wid)
            assert seq is not None
            number = actor_store.call_of_name(txn, seq, "add_1")
            assert number is not None
            txn.delete(layout.ended_call(seq, number))
            txn.delete(layout.call_name(seq, "add_1"))
        folder.close()
        with pytest.raises(CallOutcomeForgottenError, match=f"add_1 of virtual actor '{wid}'"):
            workflow.get_metadata(wid, "add_1")
        with pytest.raises(CallOutcomeForgottenError, match=f"add_1 of virtual actor '{wid}'"):
            workflow.get_output(wid, task_id="add_1")
        with pytest.raises(ValueError, match="No such task_id 'add_7'"):
            workflow.get_metadata(wid, "add_7")

    def test_it_is_described(self, wid: str) -> None:
        counter = Counter.get_or_create(wid)
        counter.add.run(1)
        with pytest.raises(LookupError):
            counter.fail.run()
        found = workflow.describe(wid)
        assert found.actor_id == wid
        assert found.class_name.endswith(".Counter")
        assert (found.state_version, found.mailbox_length, found.last_call) == (2, 0, "fail")
        assert "no such thing" in found.last_error
        assert found.host

    def test_actors_are_listed_by_class_and_beginning(self, wid: str) -> None:
        @workflow.virtual_actor
        class Other(Counter):  # type: ignore[misc]
            pass

        for number in range(4):
            (Other if number % 2 else Counter).get_or_create(f"{wid}-{number}")
        assert [one.actor_id for one in workflow.list_actors(prefix=wid)] == [f"{wid}-{n}" for n in range(4)]
        assert [one.actor_id for one in workflow.list_actors(Other)] == [f"{wid}-1", f"{wid}-3"]
        named = Other.definition.name
        assert workflow.list_actors(named) == workflow.list_actors(Other)
        assert {one.class_name for one in workflow.list_actors(named)} == {named}
        page = workflow.list_actors(prefix=wid, limit=3)
        rest = workflow.list_actors(prefix=wid, limit=3, after=page[-1].actor_id)
        assert [len(page), len(rest)] == [3, 1]

    @pytest.mark.parametrize(
        ("asked", "error"),
        [
            ({"limit": 0}, ValueError),
            ({"limit": True}, TypeError),
            ({"limit": "3"}, TypeError),
            ({"cls": int}, TypeError),
        ],
    )
    def test_a_list_that_cannot_be_is_refused(self, asked: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=r"limit|cls"):
            workflow.list_actors(**asked)

    def test_a_deleted_one_is_gone_and_its_id_is_free(self, wid: str) -> None:
        counter = Counter.get_or_create(wid, 1)
        counter.add.run(1)
        workflow.delete(wid)
        with pytest.raises(VirtualActorNotFoundError):
            counter.value.run()
        with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
            workflow.get_status(wid)
        assert Counter.get_or_create(wid, 7).add.run(0) == 7

    def test_one_that_works_is_not_deleted(self, wid: str, tmp_path: Path) -> None:
        counter = Counter.get_or_create(wid)
        gate = tmp_path / "gate"
        running = counter.wait_for.run_async(str(gate))
        with pytest.raises(workflow.exceptions.WorkflowStillActiveError):
            workflow.delete(wid)
        gate.touch()
        ray.get(running)

    def test_workflows_and_actors_share_their_ids(self, wid: str) -> None:
        Counter.get_or_create(wid)
        with pytest.raises(IdTakenError, match="virtual actor"):
            workflow.run(workflow.sleep(0), workflow_id=wid)
        workflow.run(workflow.sleep(0), workflow_id=f"{wid}-w")
        with pytest.raises(IdTakenError, match="workflow"):
            Counter.get_or_create(f"{wid}-w")


class TestConstructors:
    def test_a_read_before_it_is_done_is_refused(self, wid: str, tmp_path: Path) -> None:
        gate = tmp_path / "gate"

        @workflow.virtual_actor
        class Slow:
            def __init__(self, path: str) -> None:
                wait_for(lambda: Path(path).exists())
                self.done = True

            @workflow.virtual_actor.readonly
            def is_done(self) -> bool:
                return self.done

            def work(self) -> bool:
                return self.done

        slow = Slow.get_or_create(wid, str(gate))
        with pytest.raises(VirtualActorNotInitializedError, match=wid):
            slow.is_done.run()
        written = slow.work.run_async()
        gate.touch()
        assert ray.get(slow.ready()) is None
        assert slow.is_done.run() is True
        assert ray.get(written) is True

    def test_one_that_fails_can_be_tried_again(self, wid: str) -> None:
        @workflow.virtual_actor
        class Picky:
            def __init__(self, number: int) -> None:
                if number < 0:
                    raise ValueError("below zero")
                self.number = number

            @workflow.virtual_actor.readonly
            def get(self) -> int:
                return self.number

        picky = Picky.get_or_create(wid, -1)
        with pytest.raises(ValueError, match="below zero"):
            ray.get(picky.ready())
        with pytest.raises(VirtualActorNotInitializedError):
            picky.get.run()
        again = Picky.get_or_create(wid, 3)
        ray.get(again.ready())
        assert again.get.run() == 3


class TestCallsAmongActors:
    def test_one_calls_another(self, wid: str) -> None:
        @workflow.virtual_actor
        class Caller:
            def __init__(self, other: str) -> None:
                self.other = other

            def pass_on(self, by: int) -> int:
                return int(workflow.get_actor(self.other).add.run(by))

        ray.get(Counter.get_or_create(f"{wid}-b").ready())
        caller = Caller.get_or_create(f"{wid}-a", f"{wid}-b")
        assert caller.pass_on.run(3) == 3

    def test_a_cycle_is_refused_by_name(self, wid: str) -> None:
        @workflow.virtual_actor
        class Round:
            def __init__(self, ids: list[str]) -> None:
                self.ids = ids

            def go(self, place: int) -> int:
                here = workflow.get_actor(self.ids[place % len(self.ids)])
                return int(here.go.run(place + 1))

        ids = [f"{wid}-{number}" for number in range(3)]
        for actor_id in ids:
            ray.get(Round.get_or_create(actor_id, ids).ready())
        with pytest.raises(VirtualActorCycleError, match=f"{ids[0]} -> {ids[1]} -> {ids[2]} -> {ids[0]}"):
            workflow.get_actor(ids[0]).go.run(1)


class TestClassesThatChange:
    def test_an_old_state_is_carried_forward(self, wid: str) -> None:
        @workflow.virtual_actor
        class Account:
            def __init__(self) -> None:
                self.cents = 5

            def add(self, by: int) -> int:
                self.cents += by
                return self.cents

        Account.get_or_create(wid).add.run(1)
        new = new_account()
        account = new.get_or_create(wid)
        assert account.euros.run() == 0.06
        assert account.pay.run(1) == 1.06
        # Who has only the id gets the new class, too.
        assert workflow.get_actor(wid).euros.run() == 1.06

    def test_a_state_that_nobody_carries_forward_is_named_and_kept(self, wid: str) -> None:
        ray.get(Counter.get_or_create(wid, 4).ready())

        @workflow.virtual_actor(version=2)
        class Newer(Counter):  # type: ignore[misc]
            pass

        with pytest.raises(VirtualActorStateError, match=wid) as raised:
            Newer.get_or_create(wid).add.run(1)
        assert "Newer" in str(raised.value)
        assert "version 1" in str(raised.value)
        assert workflow.describe(wid).state_version == 1


def new_account() -> Any:
    @workflow.virtual_actor(version=2)
    class Account:
        def __init__(self) -> None:
            self.money = 0.0

        @workflow.migrate(from_version=1)
        @staticmethod
        def to_euros(state: dict[str, Any]) -> dict[str, Any]:
            return {"money": state["cents"] / 100}

        def pay(self, by: float) -> float:
            self.money += by
            return self.money

        @workflow.virtual_actor.readonly
        def euros(self) -> float:
            return self.money

    return Account
