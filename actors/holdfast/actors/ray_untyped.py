"""Ray's `remote` without its type hints, which leave out options it takes and attributes it adds."""

from __future__ import annotations

from typing import Any

import ray

remote: Any = ray.remote


def actor_class(decorated: Any) -> Any:
    """A class that `remote` has made an actor class, with what that adds."""
    return decorated
