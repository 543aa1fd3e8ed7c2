"""Guards the places where user code runs: whatever ends it there becomes an ordinary error.

User code ends with more than exceptions: `sys.exit`, `KeyboardInterrupt`, `asyncio.CancelledError`, a panic of an
extension. Event loops, thread pools and futures give such an end a meaning of their own: the thread dies, the loop
stops, a caller waits for ever. So none of them may see it: a guard raises `EndedError` in its place, which they treat
like any error of the user's, and what tells of it (`error_values`) takes the original out again.

What a signal handler raises is no end of the code that it falls into: it is meant for the process, and passes.
Nothing here knows what runs, nor whether somebody asked for it to end: who asked has a record of that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import signal
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from holdfast.engine.errors import UserCodeExitError

log = logging.getLogger("holdfast")

_F = TypeVar("_F", bound=Callable[..., Any])

_CHANGED_ON_THE_WAY = (StopIteration, concurrent.futures.CancelledError)
"""Exceptions that coroutines and futures do not carry, or turn into something else."""


class EndedError(Exception):
    """User code was ended by something that only an exception can carry from here."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return said_by(self.error)


class _Guard:
    """A block in which user code runs: `with user_code:`.

    Args:
        spares_interrupts: A `KeyboardInterrupt` in the main thread is somebody's Ctrl-C, and passes.
    """

    __slots__ = ("_spares_interrupts",)

    def __init__(self, *, spares_interrupts: bool) -> None:
        self._spares_interrupts = spares_interrupts

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or (isinstance(error, Exception) and not isinstance(error, _CHANGED_ON_THE_WAY)):
            return
        if threading.current_thread() is threading.main_thread():
            if self._spares_interrupts and isinstance(error, KeyboardInterrupt):
                return
            if _was_raised_by_handler(error):
                return
        raise EndedError(error) from error


user_code = _Guard(spares_interrupts=False)
"""Around user code that is run for a call: whatever ends it is the failure of that call."""

user_hooks = _Guard(spares_interrupts=True)
"""Around pickling and the like, which also happens in the caller's own thread: a Ctrl-C there is the caller's."""


def serve(loop: asyncio.AbstractEventLoop, whose: str) -> None:
    """Run a shared event loop until it is stopped, or until user code ends it: then the caller runs it again.

    Coroutines that are guarded end no loop. What they start beside themselves is not guarded: asyncio has a
    `SystemExit` or a `KeyboardInterrupt` of any task or callback leave through the loop, which can go on all the same.

    Args:
        loop: What the others have on it is still there when this is called again.
        whose: Who shares it, for the log.
    """
    try:
        loop.run_forever()
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything, and others wait on this loop
        log.error("user_code.ended_event_loop loop=%r error=%s: the loop is run again", whose, described(error))


def runs_user_code(function: _F) -> _F:
    """Mark a function that runs user code without a guard: its callers have one, or bear the mark too."""
    return function


def what_ended(error: BaseException) -> BaseException:
    """Give the error that ended user code, out of the one by which a guard has replaced it."""
    return error.error if isinstance(error, EndedError) else error


def as_exception(error: BaseException) -> Exception:
    """Give the error that ended user code in a form that can be raised to a caller: always an `Exception`.

    It would end the caller as it ended the call.
    """
    ended = what_ended(error)
    if isinstance(ended, Exception) and not isinstance(ended, _CHANGED_ON_THE_WAY):
        return ended
    return UserCodeExitError(type(ended).__qualname__, said_by(ended), ended)


def said_by(error: BaseException) -> str:
    """Give the text of an error. Never fails: its `__str__` is user code too."""
    try:
        with user_hooks:
            return str(what_ended(error))
    except Exception as inner:  # noqa: BLE001 - a user's __str__ may raise anything, and this must not fail
        return f"<its __str__ raised {type(what_ended(inner)).__qualname__}>"


def described(error: BaseException) -> str:
    """Give type and text of an error. Never fails."""
    return f"{type(what_ended(error)).__name__}: {said_by(error)}"


def traceback_of(error: BaseException) -> str:
    """Give the traceback of an error, as a terminal shows it. Never fails."""
    ended = what_ended(error)
    try:
        with user_hooks:
            return "".join(traceback.format_exception(ended))
    except Exception:  # noqa: BLE001 - as `said_by`: what it shows of causes, notes and names is user code
        return "".join(traceback.format_tb(ended.__traceback__)) + described(ended)


def _was_raised_by_handler(error: BaseException) -> bool:
    """Whether a handler of a signal raised this, as Ray's does when a worker is to end."""
    handlers = set()
    for number in signal.valid_signals():
        # To look at one Python asks it for its text, and so on down to texts that user code makes.
        with contextlib.suppress(BaseException):
            handler: Any = signal.getsignal(number)
            handlers.add(getattr(getattr(handler, "func", handler), "__code__", None))
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))
