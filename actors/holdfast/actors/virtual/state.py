"""The state of a virtual actor as it is stored, and back.

What JSON gives back exactly is stored as JSON, readable in the store and by
other programs; everything else is pickled by the rules of all values. Nothing
here knows where they are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from typing import Any

import orjson

from holdfast.actors.load_context import LoadContext, load
from holdfast.actors.user_code import described, runs_user_code, user_code, what_ended
from holdfast.actors.values import dump
from holdfast.actors.virtual.definition import ActorDefinition, has_own_state
from holdfast.engine.errors import HoldfastError
from holdfast.engine.virtual_actor_errors import VirtualActorStateError
from holdfast.storage.payload import Payload

# Looking at each value is slow in Python: what is larger is not for people to read.
_MOST_VALUES = 100_000
_BITS = 63
_ATOMS = frozenset({type(None), bool, str})


@runs_user_code
def state_of(definition: ActorDefinition, instance: Any) -> Any:
    """What an instance's state is: what its `__getstate__` gives, else its `__dict__`."""
    return instance.__getstate__() if has_own_state(definition.cls) else instance.__dict__


@runs_user_code
def restore(definition: ActorDefinition, state: Any) -> Any:
    """An instance with a state, made without its constructor."""
    instance: Any = object.__new__(definition.cls)
    if has_own_state(definition.cls):
        instance.__setstate__(state)
    else:
        instance.__dict__.update(state)
    return instance


def encode_state(state: Any, *, objects: MutableMapping[str, Payload], where: str) -> tuple[Payload, bool]:
    """A state as it is stored, and whether that is JSON.

    Args:
        state: The user's value.
        objects: Takes the contents of the ObjectRefs in it.
        where: What the value is, for the refusal.

    Raises:
        ResultNotStoredError: It holds what cannot be stored; names it and its place.
    """
    if _is_json(state):
        return Payload(orjson.dumps(state)), True
    return dump(state, objects=objects, where=where), False


def load_instance(
    definition: ActorDefinition,
    actor_id: str,
    payload: Payload,
    *,
    json: bool,
    version: int,
    context: LoadContext | None = None,
) -> Any:
    """An instance with the stored state, carried forward to the version of its class; a new one each time.

    Args:
        definition: Its class.
        actor_id: For the error.
        payload: The state.
        json: Whether it is JSON.
        version: Of the class that wrote it.
        context: For ObjectRefs in it.

    Raises:
        VirtualActorStateError: It cannot be loaded, nobody carries it forward, or the user's code refuses it. What
            is stored stays as it is.
    """
    wanted = definition.settings.version

    def refused(reason: str, fix: str) -> VirtualActorStateError:
        return VirtualActorStateError(actor_id, definition.name, version, reason, fix)

    if version > wanted:
        raise refused(
            f"the class that is there has version {wanted}", "Call it from a program that has the newer class."
        )
    try:
        state = orjson.loads(payload.inband) if json else load(payload, context)
    except HoldfastError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again, from what the user's code was ended by
        raise refused(
            f"it cannot be unpickled ({described(error)})",
            "Give the class what its state needs, or a __setstate__ that takes it.",
        ) from what_ended(error)
    for at in range(version, wanted):
        migrate = definition.migrations.get(at)
        if migrate is None:
            raise refused(
                f"the class has version {wanted}, and nothing carries version {at} forward",
                f"Add a function with @workflow.migrate(from_version={at}) to the class.",
            )
        state = _asked(migrate, state, refused, f"its migration from {at}")
    return _asked(functools.partial(restore, definition), state, refused, "restoring it")


def _asked(call: Callable[[Any], Any], state: Any, refused: Callable[[str, str], Exception], what: str) -> Any:
    try:
        with user_code:
            return call(state)
    except Exception as error:  # noqa: BLE001 - raised again, from what the user's code was ended by
        raise refused(f"{what} raised {described(error)}", "Mend it.") from what_ended(error)


def _is_json(state: Any) -> bool:
    """Whether JSON gives back this very value: its types, and that nothing in it is there twice."""
    seen: set[int] = set()
    todo = [state]
    left = _MOST_VALUES
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind is str:
            if not value.isascii() and not _is_text(value):
                return False
        elif kind in _ATOMS:
            continue
        elif kind is int:
            if not -(1 << _BITS) <= value < 1 << _BITS:
                return False
        elif kind is float:
            # NaN is not itself, and neither it nor infinity is JSON.
            if value - value != 0.0:
                return False
        elif kind is list or kind is dict:
            # One list under two names would come back as two lists.
            if id(value) in seen:
                return False
            seen.add(id(value))
            left -= len(value)
            if left < 0:
                return False
            if kind is dict:
                if not all(type(key) is str and (key.isascii() or _is_text(key)) for key in value):
                    return False
                todo.extend(value.values())
            else:
                todo.extend(value)
        else:
            return False
    return True


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
