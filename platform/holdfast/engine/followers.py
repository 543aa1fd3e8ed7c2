"""Which tasks can only run after one that runs now, and so can run where it does.

A task and the one task that takes its value may share a worker: whoever runs
the first logs it and goes on with the second, and tells of both at once. What
such a task is given, and that nothing else follows from the first one's end,
is known before it begins. Nothing here changes a run.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.graph import NodeKind, TaskIndex
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.run_state import RunState


def followers(state: RunState, index: TaskIndex) -> Iterator[LiveTask]:
    """The tasks that follow a running one, each the only input of the next, in order.

    Args:
        state: The run; it must not change while this is used.
        index: The task that runs.

    Yields:
        Tasks that are blocked. The value of each one before is to be logged before it is begun, as `TaskFinished`.
    """
    task = state.tasks.get(index)
    if task is None or task.state is not TaskState.RUNNING:
        return
    while (follower := _only_consumer(state, task)) is not None:
        yield follower
        task = follower


def _only_consumer(state: RunState, task: LiveTask) -> LiveTask | None:
    """The task that takes the value of this one, if its end leads to nothing else."""
    options = task.spec.options
    is_plain = (
        len(task.consumers) == 1
        and task.durable
        and task.numbered
        and task.group == task.index
        and task.catcher is None
        and task.index != state.root
        and task.volatile_root is None
        and not options.catch_exceptions
        and not state.wants_place_after(task)
    )
    follower = state.tasks.get(task.consumers[0]) if is_plain else None
    if follower is None:
        return None
    may_follow = (
        follower.spec.kind is NodeKind.CALL
        and follower.spec.inputs == (task.index,)
        and follower.state is TaskState.BLOCKED
        and follower.attempt == 0
        and not follower.spec.process_local
        and not state.wants_place_after(follower)
        and follower.spec.options.ray_options == options.ray_options
    )
    return follower if may_follow else None
