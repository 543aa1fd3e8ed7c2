"""Threads for calls that wait, made from async code.

They are our own: those of `asyncio.to_thread` are few, and all of them may be
taken by code that waits for what is asked here.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from holdfast.actors.user_code import EndedError, as_exception, user_code

_T = TypeVar("_T")

# Started when they are needed. Each waits for an actor's answer most of its time.
_threads = ThreadPoolExecutor(32, thread_name_prefix="holdfast-aio")


_LIGHT = frozenset({int, float, bool, type(None), str, bytes})
_SHORT = 4096


def is_light(values: Iterable[Any]) -> bool:
    """Whether values are pickled in no time, numbers and short text: to do that in a thread would cost more."""
    return all(
        type(value) in _LIGHT and (not isinstance(value, str | bytes) or len(value) <= _SHORT) for value in values
    )


async def in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Call a function in one of these threads."""
    # With the caller's context, as `asyncio.to_thread`: it tells in which task of a workflow we are.
    call = functools.partial(contextvars.copy_context().run, _call, function, *args, **kwargs)
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, call)
    except EndedError as ended:
        raise as_exception(ended) from ended.error


def _call(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    # What is pickled for the caller may end as it likes, and a future does not carry every end.
    with user_code:
        return function(*args, **kwargs)
