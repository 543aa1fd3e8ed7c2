"""Workflows that events start, and virtual actors that they call: `on_event` and its kin."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import ray
from ray.remote_function import RemoteFunction

from holdfast.actors.code import BOOK
from holdfast.actors.environment import capture_environment
from holdfast.actors.graph_builder import build
from holdfast.actors.requests import SubscribeRequest
from holdfast.actors.storage_access import portable
from holdfast.actors.task_runner import settle_arguments
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.virtual.requests import HEARING
from holdfast.listeners.interface import EventListener, conversion_of
from holdfast.storage.strict_json import check_metadata
from holdfast.workflow.actor_events import Hearing, hearing
from holdfast.workflow.api import accepted, ask, check_workflow_id
from holdfast.workflow.event_streams import begin_to_read, id_template, stream_of
from holdfast.workflow.platform import get_platform

__all__ = ["EventSubscription", "delete_event_subscription", "list_event_subscriptions", "on_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSubscription:
    """A rule by which events start workflows, or call virtual actors.

    Attributes:
        name: Its name.
        source: Where the events come from, as `kafka/default/orders`.
        selector: Which of them.
        created_unix_s: When it was made, in seconds since the epoch.
        started: Workflows that it has started, or calls that it has made.
        repeated: Events whose workflow id was known already: they started nothing.
        calls: The method that it calls, as `devices.Device.measured`; None when it starts workflows.
    """

    name: str
    source: str
    selector: str
    created_unix_s: float
    started: int
    repeated: int
    calls: str | None = None


@overload
def on_event(
    listener_class: type[EventListener],
    *args: Any,
    start: Any,
    workflow_id: str | Callable[[Any], str] | None = None,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    **kwargs: Any,
) -> str: ...


@overload
def on_event(
    listener_class: type[EventListener],
    *args: Any,
    actor_id: str | Callable[[Any], str],
    create: bool = True,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Hearing: ...


def on_event(
    listener_class: type[EventListener],
    *args: Any,
    start: Any = None,
    workflow_id: str | Callable[[Any], str] | None = None,
    actor_id: str | Callable[[Any], str] | None = None,
    create: bool | None = None,
    name: str | None = None,
    metadata: dict[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Start a workflow with each event of a stream, from now on; or, over a method of a virtual actor's class, call it.

    Args:
        listener_class: One that hears an outside source, as `holdfast.listeners.KafkaListener`.
        *args: What to hear, as for `wait_for_event`.
        start: A function, or Ray remote function, of the event. It is the first task of the workflow: what it
            returns is the workflow's value, or, if a node, what the workflow goes on with.
        workflow_id: The id of an event's workflow: a function of the event, or a template such as
            `"order-{key}"` or `"order-{value[id]}"` (fields: `event_id`, `key`, `value`, and for Kafka `topic`,
            `partition`, `offset`). Default: one that no two events share. An event whose id is known already
            starts nothing.
        actor_id: In place of `start`: this is a decorator then, `@workflow.on_event(...)` over a method in the body of
            a virtual actor's class, and each event is one call of that method. The id of the event's actor: a
            function or a template, as `workflow_id`. `workflow.subscribe(its class)` puts it into force.
        create: With `actor_id`: an actor that is not there is made, by its constructor without arguments. With False
            the event becomes a dead letter, which can be replayed when the actor has been made.
        name: Name of the rule. Default: made of the stream and the function's name.
        metadata: Of each workflow, or call, JSON.
        options: With `actor_id`: of each call, as `max_retries`; what `options` of a handle's method takes.
        **kwargs: What to hear, as for `wait_for_event`.

    Returns:
        The name of the rule; with `actor_id` a decorator.

    Raises:
        TypeError: Not such a listener, or `start`, or the method, does not take the event as its only argument.
        ValueError: The name is that of a rule for another stream; `workflow_id`, or `actor_id`, is no template.

    Semantics: durable when this returns (with `actor_id`, when `subscribe` does); each event from then on starts its
    workflow, or is a call, exactly once, whatever dies. Called again with the same name it changes the functions, and
    goes on where it was. Workflows are refused none: when no place is free in the queue, or a mailbox, events wait.
    """
    if actor_id is not None:
        if start is not None or workflow_id is not None:
            raise TypeError("on_event starts workflows (start=, workflow_id=) or calls a method (actor_id=), not both")
        return hearing(
            listener_class,
            args,
            kwargs,
            actor_id,
            create=True if create is None else create,
            name=name,
            metadata=metadata,
            options=options,
        )
    if start is None:
        raise TypeError("on_event needs start=, to start workflows, or actor_id=, over a method of a virtual actor")
    if create is not None or options is not None:
        raise TypeError("create= and options= of on_event are for methods of virtual actors, with actor_id=")
    source, selector = stream_of(listener_class, args, kwargs)
    user_metadata = check_metadata(metadata)
    function = _remote(start, conversion_of(listener_class, args, kwargs))
    set_cluster_nonce(get_platform().address.cluster)
    draft = build(function.bind(None))
    code = dict(draft.code)
    template, id_function = id_template("workflow_id", workflow_id), ""
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
        user_metadata=user_metadata,
        environment=capture_environment(),
    )
    begin_to_read(get_platform(), [(source, selector)])
    accepted(ask(rule, "subscribe", request))
    return rule


def list_event_subscriptions() -> list[EventSubscription]:
    """The rules by which events start workflows or call virtual actors, in the order in which they were made."""
    return [
        EventSubscription(
            name=rule.name,
            source=rule.source,
            selector=rule.selector,
            created_unix_s=rule.created_unix_s,
            started=rule.started,
            repeated=rule.repeated,
            calls=None if rule.actor is None else f"{rule.actor.class_name}.{_method(rule.graph.nodes[0].task_id)}",
        )
        for rule in ray.get(get_platform().management.list_subscriptions.remote())
    ]


def delete_event_subscription(name: str) -> None:
    """Start no more workflows, and call no more actors, by a rule; events that have not done so yet never will.

    Args:
        name: The rule's.

    Raises:
        ValueError: There is no such rule.
    """
    if not accepted(ask(name, "unsubscribe", name)).fresh:
        known = ", ".join(repr(rule.name) for rule in list_event_subscriptions()) or "none"
        raise ValueError(f"there is no event subscription {name!r}; there are: {known}")


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


def _method(called: str) -> str:
    return called.partition(HEARING)[0]


def _escaped(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")
