"""Workflows that events start: `on_event` and its kin."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.remote_function import RemoteFunction

from holdfast.actors.code import BOOK
from holdfast.actors.environment import capture_environment
from holdfast.actors.graph_builder import build
from holdfast.actors.requests import SubscribeRequest
from holdfast.actors.storage_access import portable
from holdfast.actors.task_runner import settle_arguments
from holdfast.actors.values import set_cluster_nonce
from holdfast.engine.selectors import is_outside
from holdfast.listeners.interface import EventListener, Stream, conversion_of
from holdfast.workflow.api import accepted, ask, check_metadata, check_workflow_id
from holdfast.workflow.platform import get_platform

__all__ = ["EventSubscription", "delete_event_subscription", "list_event_subscriptions", "on_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSubscription:
    """A rule by which events start workflows.

    Attributes:
        name: Its name.
        source: Where the events come from, as `kafka/default/orders`.
        selector: Which of them.
        created_unix_s: When it was made, in seconds since the epoch.
        started: Workflows that it has started.
        repeated: Events whose workflow id was known already: they started nothing.
    """

    name: str
    source: str
    selector: str
    created_unix_s: float
    started: int
    repeated: int


def on_event(
    listener_class: type[EventListener],
    *args: Any,
    start: Any,
    workflow_id: str | Callable[[Any], str] | None = None,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    **kwargs: Any,
) -> str:
    """Start a workflow with each event of a stream, from now on.

    Args:
        listener_class: One that hears an outside source, as `holdfast.listeners.KafkaListener`.
        *args: What to hear, as for `wait_for_event`.
        start: A function, or Ray remote function, of the event. It is the first task of the workflow: what it
            returns is the workflow's value, or, if a node, what the workflow goes on with.
        workflow_id: The id of an event's workflow: a function of the event, or a template such as
            `"order-{key}"` or `"order-{value[id]}"` (fields: `event_id`, `key`, `value`, and for Kafka `topic`,
            `partition`, `offset`). Default: one that no two events share. An event whose id is known already
            starts nothing.
        name: Name of the rule. Default: made of the stream and the function's name.
        metadata: Of each workflow, JSON.
        **kwargs: What to hear, as for `wait_for_event`.

    Returns:
        The name of the rule.

    Raises:
        TypeError: Not such a listener, or `start` not a function of one argument.
        ValueError: The name is that of a rule for another stream; `workflow_id` is no template.

    Semantics: durable when this returns; each event from then on starts its workflow exactly once, whatever dies.
    Called again with the same name it changes the functions, and goes on where it was. Workflows are refused none:
    when no place is free in the queue, events wait.
    """
    source, selector = _stream_of(listener_class, args, kwargs)
    function = _remote(start, conversion_of(listener_class, args, kwargs))
    set_cluster_nonce(get_platform().address.cluster)
    draft = build(function.bind(None))
    code = dict(draft.code)
    template, id_function = _named(workflow_id)
    if callable(workflow_id):
        id_function, pickled = BOOK.encode(workflow_id)
        code[id_function] = pickled
    rule = name if name is not None else f"{source} {selector} -> {draft.graph.nodes[draft.graph.sink].task_id}"
    check_workflow_id(rule)
    request = SubscribeRequest(
        name=rule,
        source=source,
        selector=selector,
        graph=settle_arguments(draft.graph, portable),
        code=code,
        id_template=template or ("" if id_function else _escaped(rule) + "-{event_id}"),
        id_function=id_function,
        user_metadata=check_metadata(metadata),
        environment=capture_environment(),
    )
    accepted(ask(rule, "subscribe", request))
    return rule


def list_event_subscriptions() -> list[EventSubscription]:
    """The rules by which events start workflows, in the order in which they were made."""
    return [
        EventSubscription(
            name=rule.name,
            source=rule.source,
            selector=rule.selector,
            created_unix_s=rule.created_unix_s,
            started=rule.started,
            repeated=rule.repeated,
        )
        for rule in ray.get(get_platform().management.list_subscriptions.remote())
    ]


def delete_event_subscription(name: str) -> None:
    """Start no more workflows by a rule; events that have not started theirs yet never will.

    Args:
        name: The rule's.

    Raises:
        ValueError: There is no such rule.
    """
    if not accepted(ask(name, "unsubscribe", name)).fresh:
        known = ", ".join(repr(rule.name) for rule in list_event_subscriptions()) or "none"
        raise ValueError(f"there is no event subscription {name!r}; there are: {known}")


def _stream_of(listener_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
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


def _remote(start: Any, conversion: Callable[[Any], Any] | None) -> Any:
    if isinstance(start, RemoteFunction):
        if conversion is not None:
            raise TypeError(
                f"start={start!r} is a Ray remote function, and gets the event as it is: give a plain function, or "
                "leave raw= and deserializer= out and convert the event in it"
            )
        return start
    if not (inspect.isfunction(start) or inspect.ismethod(start)):
        raise TypeError(f"start= takes a function, or a Ray remote function, of the event, not {start!r}")
    return ray.remote(start if conversion is None else _converting(conversion, start))


def _converting(conversion: Callable[[Any], Any], start: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(start)
    def of_what_it_is_made(event: Any) -> Any:
        return start(conversion(event))

    return of_what_it_is_made


def _named(workflow_id: Any) -> tuple[str, str]:
    if workflow_id is None or callable(workflow_id):
        return "", ""
    if not isinstance(workflow_id, str) or not workflow_id:
        raise TypeError(f"workflow_id= takes a template or a function of the event, not {workflow_id!r}")
    try:
        list(string.Formatter().parse(workflow_id))
    except ValueError as error:
        raise ValueError(
            f"workflow_id={workflow_id!r} is no template: {error}. Write braces that stand for themselves twice"
        ) from error
    return workflow_id, ""


def _escaped(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")
