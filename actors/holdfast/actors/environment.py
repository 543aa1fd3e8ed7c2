"""The runtime environment of a job, as it is stored with its workflows."""

from __future__ import annotations

from typing import Any

import orjson
import ray


def capture_environment() -> bytes:
    """The runtime environment of the process that calls, in stored form; empty when it has none."""
    environment = dict(ray.get_runtime_context().runtime_env)
    return orjson.dumps(environment, option=orjson.OPT_SORT_KEYS) if environment else b""


def load_environment(stored: bytes) -> dict[str, Any]:
    """The runtime environment of a stored form, for `.options(runtime_env=...)`."""
    environment: dict[str, Any] = orjson.loads(stored)
    return environment
