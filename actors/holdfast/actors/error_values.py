"""Errors of user code to payloads and back.

An error arrives as the user's own exception object, with the traceback of the
process that raised it chained to it, so that a terminal shows both. One that
cannot be carried over arrives as a TaskError that tells what is known. Reading
a stored error never raises.
"""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

from holdfast.actors.user_code import as_exception, cause_of, said_by, type_name, user_hooks, what_ended
from holdfast.actors.values import LoadContext, dump, load
from holdfast.engine.errors import TaskError
from holdfast.storage.payload import Payload

_DEEPEST_CAUSE = 16


class RemoteTraceback(Exception):
    """Where an error was raised in the process that ran the task. Its text is that traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text.rstrip()


def dump_error(error: BaseException, traceback_text: str) -> Payload:
    """Make an error storable. Never fails: what cannot be pickled is described instead.

    Args:
        error: What the user's code raised.
        traceback_text: As `traceback.format_exc()` gives it, in the process that raised it.
    """
    chain: list[tuple[bytes, str, str, bool]] = []
    at: BaseException | None = what_ended(error)
    while at is not None and len(chain) < _DEEPEST_CAUSE:
        cause, suppresses_context = cause_of(at)
        chain.append((_pickle_alone(at), type_name(at), said_by(at), suppresses_context))
        at = None if cause is None else what_ended(cause)
    return Payload(pickle.dumps((chain, traceback_text), 5))


def load_error(payload: Payload, context: LoadContext | None = None) -> BaseException:
    """The error that `dump_error` stored, with its remote traceback as `__cause__`, or as a note if it has a cause.

    Args:
        payload: What `dump_error` made.
        context: For its classes; by default those of the reader's own modules.
    """
    chain, traceback_text = pickle.loads(payload.inband)
    errors = [
        _load_alone(pickled, type_name, message, traceback_text, context) for pickled, type_name, message, _ in chain
    ]
    first = errors[0]
    # A class may refuse to be given any: it is what it is without them.
    with contextlib.suppress(Exception), user_hooks:
        for (above, entry), cause in zip(zip(errors, chain, strict=True), errors[1:], strict=False):
            above.__cause__ = cause
            above.__suppress_context__ = entry[3]
        if traceback_text:
            if first.__cause__ is None:
                first.__cause__ = RemoteTraceback(traceback_text)
            else:
                # What add_note does, which Python 3.10 lacks.
                notes: list[str] = list(getattr(first, "__notes__", ()))
                first.__notes__ = [*notes, str(RemoteTraceback(traceback_text))]
    return first


def load_raised_error(payload: Payload) -> Exception:
    """Load an error that `dump_error` stored, in a form that can be raised to the caller that waits.

    What is no `Exception` would end the caller as it ended the call: it arrives as the cause of one.
    """
    return as_exception(load_error(payload))


def describe_error(payload: Payload) -> str:
    """The error that `dump_error` stored, and where it was raised, in words. Loads nothing of the user's."""
    chain, traceback_text = pickle.loads(payload.inband)
    _, type_name, message, _ = chain[0]
    return f"{type_name}: {message}" + (f"\n\n{traceback_text.rstrip()}" if traceback_text else "")


def _pickle_alone(error: BaseException) -> bytes:
    """The error without its causes; empty when it does not survive a round trip."""
    objects: dict[str, Payload] = {}
    try:
        payload = dump(error, objects=objects)
        # Buffers and refs inside an exception are rare, and an exception is kept in one piece.
        if payload.buffers or objects:
            return b""
        if not issubclass(type(load(payload)), BaseException):
            return b""
    except Exception:  # noqa: BLE001 - a constructor that does not take its `args` raises whatever it likes
        return b""
    return bytes(payload.inband)


def _load_alone(
    pickled: bytes, type_name: str, message: str, traceback_text: str, context: LoadContext | None
) -> BaseException:
    described = TaskError(type_name, message, traceback_text)
    if not pickled:
        return described
    try:
        error: Any = load(Payload(pickled), context or LoadContext(prefer_import=True))
    except Exception as reason:  # noqa: BLE001 - the class may be gone, or its constructor changed, since it was stored
        described.__cause__ = what_ended(reason)
        return described
    return error if issubclass(type(error), BaseException) else described
