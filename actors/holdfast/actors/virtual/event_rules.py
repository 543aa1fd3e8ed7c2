"""What a method of a virtual actor's class says of the events that call it.

Kept in the class, and stored with it. Whoever subscribes the class makes durable
rules of it, and the host finds here what a listener makes of its events before
the method gets them. Nothing here talks to Ray or to the store.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.virtual.requests import HEARING


@dataclass(frozen=True, kw_only=True)
class MethodRule:
    """Each event of a stream is one call of a method.

    Attributes:
        source, selector: Which events.
        id_template: How the actor's id is made of the event; empty when a function makes it.
        id_function: That function; None for none.
        conversion: What the listener makes of the event; None when the method gets it as it is.
        name: Of the rule; None for one that is made of the stream and the method's name.
        creates: An actor that is not there is made, without arguments.
        options: Workflow options of each call.
        ray_options: Ray options, kept with each call.
    """

    source: str
    selector: str
    id_template: str = ""
    id_function: Callable[[Any], str] | None = None
    conversion: Callable[[Any], Any] | None = None
    name: str | None = None
    creates: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    ray_options: Mapping[str, Any] = field(default_factory=dict)


def called_by(method: str, place: int, rule: MethodRule) -> str:
    """What a rule calls.

    Args:
        method: The method that it stands at.
        place: Which one of the method's rules it is.
        rule: The rule.

    Returns:
        The method's name, followed by which way of hearing it is where that matters.
    """
    return method if rule.conversion is None else f"{method}{HEARING}{place}"


def hearing_functions(method: str, function: Callable[..., Any], rules: tuple[MethodRule, ...]) -> dict[str, Any]:
    """The functions that a method's rules call beside the method itself, by what `called_by` names them."""
    return {
        called_by(method, place, rule): _converting(rule.conversion, function)
        for place, rule in enumerate(rules)
        if rule.conversion is not None
    }


def _converting(conversion: Callable[[Any], Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def of_what_it_is_made(instance: Any, event: Any) -> Any:
        return function(instance, conversion(event))

    return of_what_it_is_made
