"""The import path of the error about virtual actors that users of the original know."""

from __future__ import annotations

from holdfast.engine.virtual_actor_errors import VirtualActorNotInitializedError

__all__ = ["VirtualActorNotInitializedError"]
