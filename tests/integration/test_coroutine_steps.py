"""Coroutine functions as steps run to their end in the worker, in each way in which tasks run."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow

pytestmark = pytest.mark.usefixtures("platform")


@workflow.step
async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.001)
    return a + b


def test_a_coroutine_step_gives_what_it_returns(wid: str) -> None:
    assert add.step(1, add.step(2, 3)).run(wid) == 6


def test_a_chain_of_coroutine_steps_runs_ahead() -> None:
    node = add.step(0, 0)
    for _ in range(60):
        node = add.step(node, 1)
    assert node.run() == 60


def test_a_coroutine_step_may_continue_and_run_in_place() -> None:
    @workflow.step
    async def countdown(n: int) -> Any:
        await asyncio.sleep(0)
        return countdown.options(allow_inplace=True).step(n - 1) if n else "done"

    assert countdown.step(5).run() == "done"


def test_what_a_coroutine_raises_is_the_steps_failure(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    @workflow.step(max_retries=1)
    async def fails() -> None:
        with runs.open("a") as file:
            file.write("x")
        raise ValueError("in the coroutine")

    @workflow.step(catch_exceptions=True)
    async def caught() -> None:
        raise KeyError("caught")

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        fails.step().run()
    assert str(failure.value.__cause__) == "in the coroutine"
    assert runs.read_text() == "xx"
    assert isinstance(caught.step().run()[1], KeyError)


def test_a_partial_and_a_function_that_returns_a_coroutine_run_too() -> None:
    def returns_one() -> Any:
        return add._function(3, 4)

    assert workflow.step(functools.partial(add._function, 1)).step(2).run() == 3
    assert workflow.run(ray.remote(returns_one).bind()) == 7


def test_an_async_generator_is_refused_where_it_is_declared() -> None:
    async def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"'.*items' is an async generator.*collect what it yields"):
        workflow.step(items)
    with pytest.raises(TypeError, match="is an async generator"):
        workflow.step(functools.partial(items))

    @workflow.step
    def hidden() -> Any:
        return items()

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        hidden.step().run()
    assert "is an async generator" in str(failure.value.__cause__)


def test_a_coroutine_step_can_be_cancelled(wid: str, tmp_path: Path) -> None:
    started = tmp_path / "started"

    @workflow.step
    async def waits() -> None:
        started.touch()
        await asyncio.Event().wait()

    ref = waits.step().run_async(wid)

    async def until_started() -> None:
        while not started.exists():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(until_started(), 60))
    workflow.cancel(wid)
    assert workflow.get_status(wid) == workflow.CANCELED
    with pytest.raises(workflow.WorkflowCancellationError):
        ray.get(ref)


def test_a_time_limit_ends_a_coroutine_step() -> None:
    @workflow.step(timeout_s=0.5)
    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        waits.step().run()
    assert isinstance(failure.value.__cause__, TimeoutError)
