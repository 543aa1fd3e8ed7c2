"""What a waiting task gets of an event that an outside source has stored.

A log keeps what the source gave: key, value, and a note. The executor that gives
the event to a task forms the task's value of it here, as pickled bytes; nothing
here may run code of the user's.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from holdfast.listeners import kafka_message


def payload_of(note: Mapping[str, Any], key: bytes | None, value: bytes | None) -> bytes:
    """The value of a waiting task, pickled.

    Args:
        note: What the source said of the event; `form` names the form, and none means `(key, value)`.
        key: The event's key.
        value: The event's value, raw.

    Raises:
        ValueError: A form that this version does not know.
    """
    return pickle.dumps(_formed(note, key, value), 5)


def arguments_of(note: Mapping[str, Any], key: bytes | None, value: bytes | None) -> bytes:
    """The arguments of a function that takes the event and nothing else, pickled; as `payload_of` otherwise."""
    return pickle.dumps(((_formed(note, key, value),), {}), 5)


def _formed(note: Mapping[str, Any], key: bytes | None, value: bytes | None) -> Any:
    form = note.get("form")
    if form is None:
        return key, value
    if form == kafka_message.FORM:
        return kafka_message.message_of(note, key, value)
    raise ValueError(f"no such form of events: {form!r}; the store was written by a newer version")
