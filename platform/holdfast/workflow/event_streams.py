"""What rules of events are made of, as users give it: which stream, and how an id is made of an event."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any

import ray

from holdfast.actors.client import Platform
from holdfast.engine.selectors import is_outside, parse_selector
from holdfast.listeners.interface import EventListener, Stream

__all__ = ["begin_to_read", "id_template", "stream_of"]

BEGUN_WITHIN_S = 10.0
"""How long the first request for a source waits until the beginning of its reading is fixed, in seconds."""


def begin_to_read(platform: Platform, streams: Iterable[tuple[str, str] | None]) -> None:
    """Fix where the reading of some streams begins, before the request that names them is accepted.

    Args:
        platform: Asked for those sources that this process has not asked it for.
        streams: Those that are events of one workflow, and None, are left out.
    """
    wanted: dict[str, bool] = {}
    for source, text in filter(None, streams):
        if is_outside(source) and source not in platform.begun:
            wanted[source] = wanted.get(source, False) or not parse_selector(text).raw
    if wanted:
        late = ray.get(platform.management.begin_sources.remote(wanted, BEGUN_WITHIN_S))
        # Of the others nothing can be missed any more.
        platform.begun.update(wanted.keys() - set(late))


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
