"""What a host for suspects begins, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from holdfast.actors.virtual import one_by_one
from holdfast.actors.virtual.one_by_one import OneByOne


def beginner(begun: list[str], name: str, ended: Future[Any] | None) -> Callable[[], Future[Any] | None]:
    def begin() -> Future[Any] | None:
        begun.append(name)
        return ended

    return begin


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_without_a_limit_all_begin_at_once() -> None:
    async def run() -> list[str]:
        begun: list[str] = []
        order = OneByOne(asyncio.get_running_loop(), at_once=None)
        for name in "abc":
            order.add(beginner(begun, name, Future()))
        return begun

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_one_by_one_each_begins_at_the_end_of_the_one_before() -> None:
    async def run() -> None:
        begun: list[str] = []
        ends = {name: Future[Any]() for name in "abc"}
        order = OneByOne(asyncio.get_running_loop(), at_once=1)
        for name, ended in ends.items():
            order.add(beginner(begun, name, ended))
        assert begun == ["a"]
        ends["a"].set_result(None)
        await turns()
        assert begun == ["a", "b"]
        ends["b"].set_result(None)
        ends["c"].set_result(None)
        await turns()
        assert begun == ["a", "b", "c"]

    asyncio.run(run())


def test_what_nobody_wants_any_more_keeps_nobody_waiting() -> None:
    async def run() -> list[str]:
        begun: list[str] = []
        order = OneByOne(asyncio.get_running_loop(), at_once=1)
        order.add(beginner(begun, "a", None))
        order.add(beginner(begun, "b", Future()))
        return begun

    assert asyncio.run(run()) == ["a", "b"]


def test_one_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_by_one, "PATIENCE_S", 0.01)

    async def run() -> None:
        begun: list[str] = []
        order = OneByOne(asyncio.get_running_loop(), at_once=1)
        order.add(beginner(begun, "a", Future()))
        order.add(beginner(begun, "b", Future()))
        while begun != ["a", "b"]:
            await asyncio.sleep(0.001)

    asyncio.run(run())
