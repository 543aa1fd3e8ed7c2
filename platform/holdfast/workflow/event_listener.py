"""Listeners under their old path."""

from holdfast.listeners.interface import EventListener
from holdfast.listeners.timer import TimerListener

__all__ = ["EventListener", "TimerListener"]
