"""Settings of the platform, as JSON, each under its name."""

from __future__ import annotations

from typing import Any

import orjson

from holdfast.engine.queueing import Limits
from holdfast.storage import layout
from holdfast.storage.interface import ReadTransaction, WriteTransaction


def save_setting(txn: WriteTransaction, name: str, value: Any) -> None:
    """Write a setting of the platform, JSON."""
    txn.put(layout.setting(name), orjson.dumps(value))


def drop_setting(txn: WriteTransaction, name: str) -> None:
    """Forget a setting of the platform."""
    txn.delete(layout.setting(name))


def settings_beginning(txn: ReadTransaction, names: str) -> dict[str, Any]:
    """The settings of the platform whose names begin so."""
    prefix = layout.setting(names)
    return {names + key[len(prefix) :].decode(): orjson.loads(raw) for key, raw in txn.scan(prefix)}


def load_setting(txn: ReadTransaction, name: str) -> Any:
    """A setting of the platform; None when it was never set."""
    raw = txn.get(layout.setting(name))
    return None if raw is None else orjson.loads(raw)


def load_limits(txn: ReadTransaction) -> Limits:
    """The limits on running and queued workflows."""
    limits = load_setting(txn, "limits") or {}
    return Limits(max_running=limits.get("max_running"), max_pending=limits.get("max_pending"))
