"""Listeners: hear. One source of events per file; all use only what a third party could."""

from holdfast.listeners.http import HTTPListener
from holdfast.listeners.interface import EventListener, PointInTime, ReportHandle, Stream
from holdfast.listeners.kafka import KafkaListener, KafkaMessage
from holdfast.listeners.timer import TimerListener

__all__ = [
    "EventListener",
    "HTTPListener",
    "KafkaListener",
    "KafkaMessage",
    "PointInTime",
    "ReportHandle",
    "Stream",
    "TimerListener",
]
