"""The API for async code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray

from holdfast import workflow
from holdfast.actors import client
from holdfast.listeners import HTTPListener, KafkaListener
from tests.integration.traces import wait_for_file

pytestmark = pytest.mark.usefixtures("platform")


@ray.remote
def add(a, b=0):
    return a + b


@ray.remote
def gated(gate, value=None):
    wait_for_file(gate)
    return value


@ray.remote
def boom():
    raise ValueError("boom")


def test_each_call_has_its_twin(wid) -> None:
    async def main() -> None:
        assert await workflow.aio.run(add.bind(1, 2), workflow_id=wid, metadata={"k": 1}) == 3
        assert await (await workflow.aio.run_async(add.bind(2, 2))) == 4
        assert await workflow.aio.get_output(wid) == 3
        assert await workflow.aio.get_output(wid, task_id=f"{__name__}.add") == 3
        assert await workflow.aio.get_status(wid) == "SUCCESSFUL"
        assert (await workflow.aio.get_metadata(wid))["user_metadata"] == {"k": 1}
        assert (wid, "SUCCESSFUL") in await workflow.aio.list_all()
        assert await workflow.aio.resume(wid) == 3
        assert await (await workflow.aio.resume_async(wid)) == 3
        assert await (await workflow.aio.get_output_async(wid)) == 3
        assert await workflow.aio.resume_all() == []
        assert (await workflow.aio.platform_status())["workflows"]["SUCCESSFUL"] >= 2
        await workflow.aio.init()
        await workflow.aio.delete(wid)
        with pytest.raises(workflow.exceptions.WorkflowNotFoundError):
            await workflow.aio.get_status(wid)

    asyncio.run(main())


def test_errors_are_those_of_the_twin(wid, tmp_path) -> None:
    async def main() -> None:
        with pytest.raises(workflow.WorkflowExecutionError) as failure:
            await workflow.aio.run(boom.bind(), workflow_id=wid)
        assert type(failure.value) is workflow.WorkflowExecutionError
        assert type(failure.value.__cause__) is ValueError
        with pytest.raises(ValueError, match=wid) as missing:
            await workflow.aio.get_output(wid)
        assert type(missing.value.__cause__) is ValueError
        with pytest.raises(TypeError):
            await workflow.aio.run(3)
        with pytest.raises(workflow.exceptions.WorkflowNotResumableError):
            await workflow.aio.resume("nobody")
        ref = await workflow.aio.run_async(gated.bind(tmp_path / "gate"), workflow_id=f"{wid}-2")
        with pytest.raises(RuntimeError):
            await workflow.aio.run(add.bind(1), workflow_id=f"{wid}-2")
        with pytest.raises(workflow.exceptions.WorkflowStillActiveError):
            await workflow.aio.delete(f"{wid}-2")
        await workflow.aio.cancel(f"{wid}-2")
        with pytest.raises(workflow.WorkflowCancellationError):
            await ref
        with pytest.raises(workflow.WorkflowCancellationError):
            await workflow.aio.get_output(f"{wid}-2")

    asyncio.run(main())


def test_outside_sources_are_looked_after_from_async_code(wid) -> None:
    async def main() -> None:
        event = workflow.wait_for_event(KafkaListener, topic="t", cluster="unheard-of")
        await workflow.aio.submit(event, workflow_id=wid)
        (source,) = await workflow.aio.event_sources()
        assert (source.name, source.state) == ("kafka/unheard-of/t", "unconfigured")
        assert await workflow.aio.dead_letters(source.name) == []
        for of_one in (workflow.aio.show_dead_letter, workflow.aio.replay_dead_letter, workflow.aio.delete_dead_letter):
            with pytest.raises(workflow.exceptions.DeadLetterNotFoundError):
                await of_one(7)
        await workflow.aio.cancel(wid)

    asyncio.run(main())


def test_the_event_loop_goes_on_while_a_workflow_runs(tmp_path) -> None:
    gate = tmp_path / "gate"

    async def main() -> None:
        waiting = asyncio.create_task(workflow.aio.run(gated.bind(gate, "value")))
        # The gate is opened by the loop that waits for what is behind it.
        await workflow.aio.run(add.bind(1))
        assert not waiting.done()
        gate.touch()
        assert await waiting == "value"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_threads_that_are_all_taken_by_others_hold_nothing_up(wid) -> None:
    release = threading.Event()

    async def main() -> None:
        # More than asyncio has: whoever waits here waits for what comes below.
        waiting = [asyncio.create_task(asyncio.to_thread(release.wait, 60)) for _ in range(64)]
        await asyncio.sleep(0)
        event = workflow.wait_for_event(HTTPListener, event_key="k")
        reference = await workflow.aio.run_async(event, workflow_id=wid)
        await workflow.aio.send_event(wid, "k", 1)
        assert await reference == ("k", 1)
        release.set()
        assert all(await asyncio.gather(*waiting))

    asyncio.run(asyncio.wait_for(main(), 50))


def test_many_run_at_once() -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(workflow.aio.run(add.bind(n, 1)) for n in range(50)))

    assert asyncio.run(main()) == list(range(1, 51))


def test_what_is_asked_for_together_shares_flushes(platform: Path, wid: str) -> None:
    @workflow.virtual_actor
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self, by):
            self.count += by
            return self.count

    counters = [Counter.get_or_create(f"{wid}-counter-{n}") for n in range(10)]
    for counter in counters:
        counter.add.run(0)

    async def main() -> None:
        before = await asyncio.to_thread(flushes, platform)
        assert await asyncio.gather(*(workflow.aio.run(add.bind(n, 1)) for n in range(200))) == list(range(1, 201))
        ids = await asyncio.gather(*(workflow.aio.submit(waits(), workflow_id=f"{wid}-{n}") for n in range(100)))
        assert await asyncio.gather(*(workflow.aio.send_event(one, "k", one) for one in ids)) == [True] * 100
        assert await asyncio.gather(*(workflow.aio.get_output(one) for one in ids)) == [("k", one) for one in ids]
        # The calls of an actor follow one another, those of ten go together; a caller's take effect in its order.
        sums = await asyncio.gather(*(counters[n % 10].add.aio.run(1) for n in range(500)))
        assert sums == [1 + n // 10 for n in range(500)]
        # One after the other it takes two for a workflow, two for an event and its waiter, one for a call: 1,100.
        assert await asyncio.to_thread(flushes, platform) - before < 300

    asyncio.run(main())


def test_the_platform_is_looked_for_in_a_thread(wid, monkeypatch) -> None:
    looked_in: list[threading.Thread] = []
    describe = client._description

    def watched(management):
        looked_in.append(threading.current_thread())
        return describe(management)

    monkeypatch.setattr(client, "_description", watched)

    async def main() -> None:
        await workflow.aio.submit(waits(), workflow_id=wid)
        # As in a process that has asked for nothing yet.
        client.forget_platform()
        assert await workflow.aio.send_event(wid, "k", 1)
        client.forget_platform()
        assert await workflow.aio.run(add.bind(1, 2)) == 3
        client.forget_platform()
        assert await workflow.aio.get_output(wid) == ("k", 1)

    asyncio.run(main())
    assert len(looked_in) >= 3
    assert threading.main_thread() not in looked_in


def waits():
    return workflow.wait_for_event(HTTPListener, event_key="k")


def flushes(platform: Path) -> int:
    """Transactions of the store so far: each is flushed to the disk when it is committed."""
    script = "import lmdb, sys; print(lmdb.open(sys.argv[1], readonly=True).info()['last_txnid'])"
    said = subprocess.run([sys.executable, "-c", script, platform / "meta.lmdb"], capture_output=True, check=True)
    return int(said.stdout)


def test_it_works_in_an_async_actor() -> None:
    @ray.remote(num_cpus=0)
    class Handler:
        async def handle(self, n):
            return await workflow.aio.run(add.bind(n, 1))

    handler = Handler.remote()
    assert ray.get([handler.handle.remote(n) for n in range(5)]) == [1, 2, 3, 4, 5]
    ray.kill(handler)


def test_a_cancelled_coroutine_leaves_its_workflow_alone(wid, tmp_path) -> None:
    gate = tmp_path / "gate"

    async def main() -> None:
        ref = await workflow.aio.run_async(gated.bind(gate, "value"), workflow_id=wid)
        waiting = asyncio.create_task(workflow.aio.get_output(wid))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await workflow.aio.get_status(wid) == "RUNNING"
        gate.touch()
        assert await ref == "value"

    asyncio.run(main())
