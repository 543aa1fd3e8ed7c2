"""What Ray repeats by itself, and how it is kept from repeating a user's code.

The engine counts attempts, so each Ray task is to run once. Asking Ray for no
retries would say that, but Ray's memory monitor ends first what can be
repeated: that would be the executors, before the task that uses the memory
up. So Ray is allowed to repeat, and a repetition does nothing but say that it
is one. This is the only module that knows how Ray counts.
"""

from __future__ import annotations

from typing import Any

import ray

from holdfast.engine.errors import HoldfastError

_CHARGED = "its process crashed or was killed, or its node or what it sent was lost; Ray's log of that worker says more"
_UNCHARGED = (
    "Ray ended it because its node ran out of memory (or is being drained). Ask for more of the node with num_cpus= or "
    "memory=, so that fewer tasks run there at once, or have them hold less"
)


class RepeatedByRayError(HoldfastError):
    """Ray runs a task again by itself: its worker, or the reply it had sent, is lost.

    Attributes:
        ray_attempt: How often Ray had begun it before.
    """

    def __init__(self, ray_attempt: int) -> None:
        super().__init__(ray_attempt)
        self.ray_attempt = ray_attempt

    def __str__(self) -> str:
        return self.reason

    @property
    def reason(self) -> str:
        """What became of the first run.

        Ray charges a death, or a lost reply, to the one retry it has; a death for lack of memory it does not. The
        error is charged too: where Ray comes a second time, the first was free.
        """
        return _CHARGED if self.ray_attempt == 1 else _UNCHARGED


RAY_RETRIES: dict[str, Any] = {"max_retries": 1, "retry_exceptions": [RepeatedByRayError]}
"""Ray options of a task that calls `refuse_repetition` first."""


def refuse_repetition() -> None:
    """Let the Ray task that calls go on only when Ray runs it for the first time.

    Raises:
        RepeatedByRayError: It does not.
    """
    ray_attempt: int = ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number()
    if ray_attempt:
        raise RepeatedByRayError(ray_attempt)
