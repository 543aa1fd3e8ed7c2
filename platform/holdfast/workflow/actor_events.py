"""Methods of virtual actors that events call: what `on_event` says of one, and `subscribe`.

    @workflow.virtual_actor
    class Device:
        @workflow.on_event(KafkaListener, topic="readings", actor_id="device-{key}")
        def measured(self, message): ...

    workflow.subscribe(Device)

It checks what users give and hands it over. Who calls the actors, and when, is
decided elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from holdfast.actors.code import BOOK
from holdfast.actors.environment import capture_environment
from holdfast.actors.nodes import default_task_id
from holdfast.actors.requests import SubscribeRequest
from holdfast.actors.task_options import resolve
from holdfast.actors.values import set_cluster_nonce
from holdfast.actors.virtual import client
from holdfast.actors.virtual.definition import ActorMethod, split_options
from holdfast.actors.virtual.event_rules import MethodRule, called_by
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.listeners.interface import EventListener, conversion_of
from holdfast.storage.strict_json import check_metadata
from holdfast.workflow.api import accepted, ask, check_workflow_id, with_platform
from holdfast.workflow.event_streams import begin_to_read, id_template, stream_of
from holdfast.workflow.platform import get_platform
from holdfast.workflow.virtual_actors import VirtualActorClass, class_request

__all__ = ["Hearing", "hearing", "subscribe"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Self = TypeVar("_Self")


class Hearing(Protocol):
    """What `on_event` with `actor_id=` makes: a decorator for a method of a virtual actor's class."""

    @overload
    def __call__(self, method: ActorMethod[_P, _R], /) -> ActorMethod[_P, _R]: ...

    @overload
    def __call__(self, method: Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _R]], /) -> ActorMethod[_P, _R]: ...

    @overload
    def __call__(self, method: Callable[Concatenate[_Self, _P], _R], /) -> ActorMethod[_P, _R]: ...

    def __call__(self, method: Any, /) -> Any:
        """Say of the method that events call it."""


def hearing(
    listener_class: type[EventListener],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    actor_id: str | Callable[[Any], str],
    *,
    create: bool,
    name: str | None,
    metadata: dict[str, Any] | None,
    options: Mapping[str, Any] | None,
) -> Hearing:
    """What `on_event` is over a method; see there.

    Raises:
        TypeError, ValueError: Names the value and the fix.
    """
    source, selector = stream_of(listener_class, args, kwargs)
    if not isinstance(create, bool):
        raise TypeError(f"create= must be True or False, not {create!r}")
    if name is not None:
        check_workflow_id(name)
    given = {**(options or {}), **({} if metadata is None else {"metadata": check_metadata(metadata)})}
    for refused in ("name", "task_id", "allow_inplace", "checkpoint"):
        if given.get(refused) is not None:
            raise ValueError(f"workflow option {refused!r} cannot be given to the calls of events")
    own, ray_options = split_options(given)
    rule = MethodRule(
        source=source,
        selector=selector,
        id_template=id_template("actor_id", actor_id),
        id_function=actor_id if callable(actor_id) else None,
        conversion=conversion_of(listener_class, args, kwargs),
        name=name,
        creates=create,
        options=own,
        ray_options=ray_options,
    )

    def decorate(method: Any) -> Any:
        heard = method if isinstance(method, ActorMethod) else ActorMethod(method)
        if heard.readonly:
            raise TypeError(f"an event would change nothing by the read-only method {heard.function.__qualname__!r}")
        _check_takes_an_event(heard.function)
        return ActorMethod(heard.function, rules=(*heard.rules, rule))

    return decorate


def _check_takes_an_event(function: Callable[..., Any]) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"{default_task_id(function)}{signature} cannot be called by an event, which is its only argument: {error}"
        ) from None


def subscribe(virtual_class: Any) -> list[str]:
    """Have events call the actors of a class from now on, as `workflow.on_event` says at its methods.

    Args:
        virtual_class: The class, as `workflow.virtual_actor` has made it.

    Returns:
        The names of its rules.

    Raises:
        TypeError: Not a class of virtual actors.
        ValueError: `on_event` stands at none of its methods, or two rules have one name; the name is that of a rule
            for another stream.

    Semantics: durable when this returns; each event from then on is one call, exactly once, whatever dies. Again, with
    the class changed, it goes on where it was, and the next event brings an actor the changed class, as
    `get_or_create` does. `list_event_subscriptions` and `delete_event_subscription` know these rules too.
    """
    if not isinstance(virtual_class, VirtualActorClass):
        raise TypeError(f"subscribe takes a class of virtual actors, not {virtual_class!r}")
    definition = virtual_class.definition
    rules = [
        (
            rule.name or f"{rule.source} {rule.selector} -> {definition.name}.{method}",
            called_by(method, place, rule),
            rule,
        )
        for method, found in definition.methods.items()
        for place, rule in enumerate(found.rules)
    ]
    if not rules:
        raise ValueError(f"no method of {definition.name} is called by events: put @workflow.on_event(...) over one")
    names = [name for name, _, _ in rules]
    for name in names:
        check_workflow_id(name)
        if names.count(name) > 1:
            raise ValueError(f"{definition.name} has two rules {name!r}: tell them apart by on_event(..., name=)")
    set_cluster_nonce(get_platform().address.cluster)
    made_of = class_request(definition)
    if made_of.hosting:
        with_platform(lambda platform: client.keep_hosts(platform, made_of.hosting))
    begin_to_read(get_platform(), [(rule.source, rule.selector) for _, _, rule in rules])
    environment = capture_environment()
    for name, called, rule in rules:
        options = resolve(rule.options, rule.ray_options, step_api=True).options
        code, id_function = dict(made_of.code), ""
        if rule.id_function is not None:
            id_function, code_of_it = BOOK.encode(rule.id_function)
            code[id_function] = code_of_it
        request = SubscribeRequest(
            name=name,
            source=rule.source,
            selector=rule.selector,
            graph=Graph(nodes=(NodeSpec(task_id=called, options=options),), sink=0),
            code=code,
            id_template=rule.id_template,
            id_function=id_function,
            environment=environment,
            actor=made_of,
            creates=rule.creates,
        )
        accepted(ask(name, "subscribe", request))
    return names
