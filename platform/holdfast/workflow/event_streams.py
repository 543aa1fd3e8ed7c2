"""What rules of events are made of, as users give it: which stream, and how an id is made of an event."""

from __future__ import annotations

import string
from typing import Any

from holdfast.engine.selectors import is_outside
from holdfast.listeners.interface import EventListener, Stream

__all__ = ["id_template", "stream_of"]


def stream_of(listener_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
    """(source, selector) of what a listener hears with these arguments.

    Raises:
        TypeError: Not a listener, or one that hears no outside source.
    """
    if not (isinstance(listener_class, type) and issubclass(listener_class, EventListener)):
        raise TypeError(f"on_event takes a subclass of workflow.EventListener, not {listener_class!r}")
    subscription: Any = getattr(listener_class, "subscription", None)
    stream = None if subscription is None else subscription(*args, **kwargs)
    if not isinstance(stream, Stream) or not is_outside(stream.source):
        raise TypeError(
            f"on_event takes a listener that hears an outside source, as KafkaListener does, and not "
            f"{listener_class.__name__}: its events are those of one workflow"
        )
    return stream.source, stream.key


def id_template(what: str, given: Any) -> str:
    """A template of ids, checked; empty for a function, or for nothing.

    Args:
        what: The name of the parameter.
        given: What the user gave.

    Raises:
        TypeError: Neither a template nor a function.
        ValueError: No template.
    """
    if given is None or callable(given):
        return ""
    if not isinstance(given, str) or not given:
        raise TypeError(f"{what}= takes a template or a function of the event, not {given!r}")
    try:
        list(string.Formatter().parse(given))
    except ValueError as error:
        raise ValueError(
            f"{what}={given!r} is no template: {error}. Write braces that stand for themselves twice"
        ) from error
    return given
