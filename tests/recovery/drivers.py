"""Starting the driver of `driver.py`, reading what it says, and ending it with all that is below it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.actors.operating_system import Process
from tests.recovery.processes import descendants, end, interrupt, until

PROJECT = Path(__file__).resolve().parents[2]
HEARD_S = 90.0


class Driver:
    """A driver process.

    Args:
        storage: Its storage folder.
        audit: The audit file of its tasks.
        address: The cluster it joins; None: it starts a Ray of its own.
        workloads: How many workflows of `workloads.make` it runs, of which `seed`.
        gated: Ids of workflows of one task that runs until `gate` is there.
        events: Ids of workflows that wait for an event, which it sends.
        then: "wait" for all values and say them; "exit"; or "stay" until it is killed.
    """

    def __init__(
        self,
        storage: Path,
        audit: Path,
        *,
        address: str | None = None,
        workloads: int = 0,
        seed: int = 0,
        gated: Sequence[str] = (),
        gate: Path | None = None,
        events: Sequence[str] = (),
        max_running: int | None = None,
        resume: str | None = None,
        then: str = "stay",
    ) -> None:
        orders = {"storage": str(storage), "audit": str(audit), "address": address, "workloads": workloads}
        orders |= {"seed": seed, "gated": list(gated), "gate": str(gate), "events": list(events)}
        orders |= {"max_running": max_running, "resume": resume, "then": then}
        self._errors = audit.with_name(f"{audit.name}.stderr").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.recovery.driver", json.dumps(orders)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self.seen: set[Process] = set()

    def hear(self, word: str) -> str:
        """The rest of the next line that begins with this word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found, _, rest = line.strip().partition(" ")
            if found == word:
                return rest
        self._errors.seek(0)
        raise AssertionError(f"the driver ended before it said {word}:\n{self._errors.read()[-4000:]}")

    def values(self) -> dict[str, Any]:
        """All that it says as values, until it ends."""
        assert self.process.stdout is not None
        found: dict[str, Any] = {}
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "VALUE":
                workflow_id, value = json.loads(rest)
                found[workflow_id] = value
        self.process.wait(HEARD_S)
        return found

    def look(self) -> set[Process]:
        """The processes below it, now and before."""
        self.seen.update(descendants(self.process.pid))
        return self.seen

    def kill(self) -> None:
        """SIGKILL for the driver alone."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """SIGKILL for it and everything below it: if it started Ray, the loss of the whole cluster."""
        below = self.look()
        # Parents first, so that nothing is started any more.
        self.process.kill()
        end(sorted(below, key=lambda process: process.started))
        self.process.wait()
        self.wait_until_alone()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.look()
        interrupt(Process(self.process.pid, 0))

    def wait_until_alone(self, within_s: float = 20.0) -> None:
        """Return when nothing of what was ever seen below it is alive."""
        until(lambda: not any(process.alive for process in self.seen), "the driver's processes end", within_s)

    def close(self) -> None:
        """Leave nothing behind, however the test went."""
        if self.process.poll() is None:
            self.kill_all()
        end(self.seen)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


def pause(seconds: float) -> None:
    """Let a random moment pass; not a wait for anything."""
    time.sleep(seconds)
