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
from typing import Any, TypeGuard, TypeVar

from holdfast.engine.errors import UserCodeExitError

log = logging.getLogger("holdfast")

_F = TypeVar("_F", bound=Callable[..., Any])

_CHANGED_ON_THE_WAY = (StopIteration, concurrent.futures.CancelledError)
"""Exceptions that coroutines and futures do not carry, or turn into something else."""


# What an error is, past the `__getattribute__`, properties and metaclass of its class: they are user code too.
_NAME: Callable[[type], str] = type.__dict__["__name__"].__get__
_QUALIFIED_NAME: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_CAUSE: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
_SUPPRESSES_CONTEXT: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__
_TRACEBACK: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__


_MOST_CAUSES = 16


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
        if error is None or (_is_carried(error) and _may_be_looked_at(error)):
            return
        if threading.current_thread() is threading.main_thread():
            if self._spares_interrupts and issubclass(type(error), KeyboardInterrupt):
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


def hide(task: asyncio.Task[Any]) -> None:
    """Keep a task from code of others on its loop, which may cancel all tasks that it finds there, for its own end."""
    asyncio._unregister_task(task)


def runs_user_code(function: _F) -> _F:
    """Mark a function that runs user code without a guard: its callers have one, or bear the mark too."""
    return function


def what_ended(error: BaseException) -> BaseException:
    """Give the error that ended user code, out of the one by which a guard has replaced it."""
    return error.error if type(error) is EndedError else error


def as_exception(error: BaseException) -> Exception:
    """Give the error that ended user code in a form that can be raised to a caller: always an `Exception`.

    It would end the caller as it ended the call.
    """
    ended = what_ended(error)
    return ended if _is_carried(ended) else UserCodeExitError(type_name(ended), said_by(ended), ended)


def type_name(value: object) -> str:
    """Give the qualified name of a value's type. Runs nothing of the user's, whose metaclass it may have."""
    return _encodable(_QUALIFIED_NAME(type(value)))


def cause_of(error: BaseException) -> tuple[BaseException | None, bool]:
    """Give the cause of an error, and whether its context is hidden. Never fails: its class may answer by user code."""
    try:
        with user_hooks:
            cause, suppresses_context = error.__cause__, bool(error.__suppress_context__)
    except Exception:  # noqa: BLE001 - what answers may raise anything; past it is what Python itself knows
        cause, suppresses_context = _CAUSE(error), _SUPPRESSES_CONTEXT(error)
    return (cause if issubclass(type(cause), BaseException) else None), suppresses_context


def said_by(error: BaseException) -> str:
    """Give the text of an error. Never fails: its `__str__` is user code too."""
    try:
        with user_hooks:
            return _encodable(str(what_ended(error)))
    except Exception as inner:  # noqa: BLE001 - a user's __str__ may raise anything, and this must not fail
        return f"<its __str__ raised {type_name(what_ended(inner))}>"


def described(error: BaseException) -> str:
    """Give type and text of an error. Never fails."""
    return f"{_encodable(_NAME(type(what_ended(error))))}: {said_by(error)}"


def traceback_of(error: BaseException) -> str:
    """Give the traceback of an error, as a terminal shows it. Never fails."""
    ended = what_ended(error)
    try:
        with user_hooks:
            return _encodable("".join(traceback.format_exception(ended)))
    except Exception:  # noqa: BLE001 - as `said_by`: what it shows of causes, notes and names is user code
        told: list[str] = []
        at: BaseException | None = ended
        while at is not None and len(told) < _MOST_CAUSES:
            told.append(_encodable("".join(traceback.format_tb(_TRACEBACK(at)))) + described(at))
            at = cause_of(at)[0]
        return "\n\n".join(reversed(told))


def _encodable(text: str) -> str:
    """Give a text that can be sent and stored: a lone surrogate, as file names may have, is written as an escape."""
    # Not a subclass of the user's, which `__str__` may give.
    exact = str.__str__(text)
    return exact if exact.isascii() else exact.encode(errors="backslashreplace").decode()


def _is_carried(error: BaseException) -> TypeGuard[Exception]:
    """Whether coroutines and futures carry an error."""
    # By its type: `isinstance` asks for `__class__` too.
    return issubclass(type(error), Exception) and not issubclass(type(error), _CHANGED_ON_THE_WAY)


def _may_be_looked_at(error: BaseException) -> bool:
    """Whether to look at an error runs nothing of the user's."""
    return type.__getattribute__(type(error), "__getattribute__") is BaseException.__getattribute__


def _was_raised_by_handler(error: BaseException) -> bool:
    """Whether a handler of a signal raised this, as Ray's does when a worker is to end."""
    handlers = set()
    for number in signal.valid_signals():
        # To look at one Python asks it for its text, and so on down to texts that user code makes.
        with contextlib.suppress(BaseException):
            handler: Any = signal.getsignal(number)
            handlers.add(getattr(getattr(handler, "func", handler), "__code__", None))
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(_TRACEBACK(error)))
