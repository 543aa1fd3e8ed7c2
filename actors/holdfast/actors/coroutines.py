"""Runs the coroutines that tasks return to their end, in the worker."""

from __future__ import annotations

import asyncio
import inspect
import types
from typing import Any


def run_to_end(result: Any) -> Any:
    """Give the value of a task's function; a coroutine is run to its end, for what it returns.

    Raises:
        TypeError: It is an async generator.
        What the coroutine raises.
    """
    if isinstance(result, types.CoroutineType):
        # A loop of its own, closed with what was left running in it: a worker runs one task at a time.
        return asyncio.run(result)
    if isinstance(result, types.AsyncGeneratorType):
        refuse_async_generator(result.__qualname__)
    return result


def check_not_async_generator(function: Any) -> None:
    """Refuse an async generator function where it is declared a step.

    Raises:
        TypeError: It is one; says what to do.
    """
    plain = inspect.unwrap(getattr(function, "func", function))
    if inspect.isasyncgenfunction(plain):
        refuse_async_generator(plain.__qualname__)


def refuse_async_generator(name: str) -> None:
    """Say why an async generator cannot be a task.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"{name!r} is an async generator, which cannot be stored as the result of a task: collect what it yields, "
        "as in `return [item async for item in items()]`"
    )
