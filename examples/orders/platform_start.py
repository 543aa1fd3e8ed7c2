"""Starting and ending: a Ray and a Holdfast only for this demo, and the signals that end them early."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType

import ray
from rich.console import Console

from examples.orders.leftovers import adopt_orphans, wait_until_alone
from holdfast import workflow


class StoppedError(BaseException):
    """The user, or the system, wants the demo to end. No `except Exception` may swallow it."""


class StopSignals:
    """Turns SIGINT and SIGTERM into `StoppedError`, in whatever line the demo is at that moment."""

    def __init__(self) -> None:
        self._asked = False

    def listen(self) -> None:
        """From now on a signal ends the demo."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def check(self) -> None:
        """Raise if a signal came at a moment when Python drops exceptions, such as inside a finalizer."""
        if self._asked:
            raise StoppedError

    def ignore(self) -> None:
        """From now on a signal does nothing: the demo is tidying up, and half of that would leave processes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True
        raise StoppedError


def start_platform(storage: Path, kafka_servers: str) -> None:
    """Start Ray and Holdfast; what was running when the last run was stopped goes on by itself."""
    # Holdfast tells of every task; with 300 orders in one window that would hide the table.
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    adopt_orphans()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Four workers also on two cores: the tasks wait for services, they do not compute.
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(str(storage), resume="auto", kafka={"default": {"bootstrap_servers": kafka_servers}})


def stop_platform(console: Console) -> None:
    """Stop all that `start_platform` started, also when it did not come to its end."""
    try:
        if ray.is_initialized():
            console.print("Stopping Ray ...")
            workflow.shutdown()
    finally:
        # Also when Ray is not up: a start that was cut short has made processes already.
        ray.shutdown()
        wait_until_alone()
