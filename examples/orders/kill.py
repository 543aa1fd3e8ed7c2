"""The accident: SIGKILL for an executor, the reader of Kafka, and the management actor, in the middle of the work."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import Any

from holdfast import workflow


@dataclass
class Accident:
    """Kills one process at a time, and remembers which."""

    killed: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all kinds of process have been killed."""
        return len(self.killed) == 3

    def strike(self) -> str | None:
        """Kill the next victim.

        Returns:
            What was done, for people to read; None when there was no process to kill just now.
        """
        status = workflow.platform_status()
        if "executor" not in self.killed:
            return self._kill("executor", _first_pid(status["executors"]), "Its orders go to another executor.")
        if "reader of Kafka" not in self.killed:
            return self._kill("reader of Kafka", _first_pid(status["event_sources"]), "It reads on where it was.")
        if "management actor" not in self.killed:
            return self._kill("management actor", _first_pid([status["management"]]), "Ray starts it again.")
        return None

    def replaced(self) -> bool:
        """Whether the platform runs on, on other processes than the killed ones."""
        status = workflow.platform_status()
        readers, executors = status["event_sources"], status["executors"]
        alive = {entry["pid"] for entry in [status["management"], *executors, *readers]}
        return bool(executors) and bool(readers) and alive.isdisjoint(self.killed.values())

    def _kill(self, role: str, pid: int | None, what_next: str) -> str | None:
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        self.killed[role] = pid
        return f"kill -9 {pid}: that was the {role}. {what_next}"


def _first_pid(entries: list[dict[str, Any]]) -> int | None:
    return next((int(entry["pid"]) for entry in entries if entry.get("pid")), None)
