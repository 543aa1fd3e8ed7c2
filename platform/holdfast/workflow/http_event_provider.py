"""Events over HTTP under their old path."""

from holdfast.listeners.http import HTTPListener

__all__ = ["HTTPListener"]
