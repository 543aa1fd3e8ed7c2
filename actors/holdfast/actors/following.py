"""Following a request to the executor that answers it.

Who drives a workflow can change while one asks: an executor of its own is being
made, or has ended; one is being started again. Then one is sent on, and looks
again after a while, but not for ever. Knows no Ray; asking and finding are the
caller's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from holdfast.actors.operations import Elsewhere
from holdfast.engine.errors import ExecutorNotFoundError

PATIENCE_S = 120.0
"""For how many seconds one looks for who answers: an executor may take half a minute to start again, and once more."""

_FIRST_PAUSE_S = 0.02
_FACTOR = 1.5
_LONGEST_PAUSE_S = 1.0
# A call that took so long was with somebody who had the workflow, or started again meanwhile: it was no looking.
_ATTENDED_S = 30.0

_E = TypeVar("_E")


def follow(
    workflow_id: str,
    ask: Callable[[_E], Any],
    find_first: Callable[[], _E | None],
    find: Callable[[str], _E | None],
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """Ask, and go on to another executor when told to, until there is an answer.

    Args:
        workflow_id: Whom it is about.
        ask: Asks an executor; gives its answer, or None when it is gone.
        find_first: The executor to begin with, None when it is not there just now.
        find: An executor by its name; None when it is not there: it is being made, or has ended.
        now_s: A clock, in seconds.
        sleep: Waits, in seconds.

    Returns:
        The first answer that is not `Elsewhere`.

    Raises:
        ExecutorNotFoundError: Nobody has answered for two minutes of looking.
    """
    steps = _steps(workflow_id, ask, find_first, find, now_s, sleep)
    done: Any = None
    while True:
        try:
            # Each step has been done when it is named.
            done = steps.send(done)
        except StopIteration as end:
            return end.value


async def follow_awaited(
    workflow_id: str,
    ask: Callable[[_E], Awaitable[Any]],
    find_first: Callable[[], Awaitable[_E | None]],
    find: Callable[[str], Awaitable[_E | None]],
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Any:
    """As `follow`, from an event loop, which goes on meanwhile: who waits for an answer holds no thread."""
    steps = _steps(workflow_id, ask, find_first, find, now_s, sleep)
    done: Any = None
    while True:
        try:
            step = steps.send(done)
        except StopIteration as end:
            return end.value
        done = await step


def _steps(
    workflow_id: str,
    ask: Callable[[_E], Any],
    find_first: Callable[[], Any],
    find: Callable[[str], Any],
    now_s: Callable[[], float],
    sleep: Callable[[float], Any],
) -> Generator[Any, Any, Any]:
    """What to do next, given what the last step led to; returns the answer."""
    executor, name = (yield find_first()), ""
    looking_since_s = now_s()
    pause_s = 0.0
    while True:
        if executor is not None:
            asked_s = now_s()
            answer = yield ask(executor)
            if answer is not None and not isinstance(answer, Elsewhere):
                return answer
            if now_s() - asked_s >= _ATTENDED_S:
                looking_since_s, pause_s = now_s(), 0.0
            executor = None
            if answer is not None:
                name = answer.executor
                executor = yield find(name)
        if now_s() - looking_since_s >= PATIENCE_S:
            raise ExecutorNotFoundError(workflow_id, name, now_s() - looking_since_s)
        if executor is None or pause_s:
            # Sent on the first time one goes at once; to and fro, one takes one's time.
            yield sleep(max(pause_s, _FIRST_PAUSE_S))
        pause_s = min(_LONGEST_PAUSE_S, max(pause_s, _FIRST_PAUSE_S) * _FACTOR)
        if executor is None:
            executor = yield find_first()
