"""What a run holds in memory, with the counts kept over it.

What a run keeps follows what is unfinished, not what has been done. Nothing
here decides anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from holdfast.engine.graph import TaskIndex
from holdfast.engine.inbox import Inbox
from holdfast.engine.live_task import LiveTask, TaskState
from holdfast.engine.names import TaskNames
from holdfast.engine.records import EventTaken
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Taken, Value


@dataclass(frozen=True, slots=True)
class TakenUnlogged:
    """An event that a task took whose result is not logged: the inbox keeps it until nobody needs it."""

    taken: EventTaken
    value: Any
    volatile_root: TaskIndex | None


@dataclass(slots=True)
class CarriedEvent:
    """An event that values of live tasks carry.

    Attributes:
        taken, value: Where it came from, and what it holds.
        holders: How many values carry it.
        read: A user's code was given it: it can not go back.
    """

    taken: Taken
    value: Any
    holders: int = 0
    read: bool = False


@dataclass(slots=True, kw_only=True)
class RunState:
    """The state of one run. Changed by the functions of the engine that a signal leads to, and by nobody else.

    Attributes:
        workflow_id: Whose run it is.
        status: RUNNING until it has ended.
        tasks: The live tasks by index, in order of index.
        names: The ids given out.
        next_index: Index of the next task.
        root: The task whose value is the workflow's.
        inbox: Unread events.
        outer_scope: For each task that catches, the one that catches around it.
        busy: How many tasks run, poll or acknowledge.
        not_durable: How many live tasks are not logged.
        ready: Tasks to be started, in order.
        called_back: Tasks that wait for a stream to which an event was given back.
        taken_unlogged: See `taken_events`.
        carried: The events in values of live tasks, by their numbers; see `holding`.
        unused: Tasks that somebody used and uses no more, to be looked at.
        returned: Events that nobody can read any more, to be given back.
        unread: Tasks that go on although nobody can read their values, and whether they do after a load too.
        named: The tasks that a split has named.
    """

    workflow_id: str
    status: WorkflowStatus = WorkflowStatus.RUNNING
    tasks: dict[TaskIndex, LiveTask] = field(default_factory=dict)
    names: TaskNames = field(default_factory=TaskNames)
    next_index: TaskIndex = 0
    root: TaskIndex = 0
    inbox: Inbox = field(default_factory=Inbox)
    outer_scope: dict[TaskIndex, TaskIndex | None] = field(default_factory=dict)
    busy: int = 0
    not_durable: int = 0
    ready: deque[LiveTask] = field(default_factory=deque)
    called_back: deque[LiveTask] = field(default_factory=deque)
    taken_unlogged: list[TakenUnlogged] = field(default_factory=list)
    carried: dict[int, CarriedEvent] = field(default_factory=dict)
    unused: deque[TaskIndex] = field(default_factory=deque)
    returned: deque[CarriedEvent] = field(default_factory=deque)
    unread: dict[TaskIndex, bool] = field(default_factory=dict)
    named: set[TaskIndex] = field(default_factory=set)

    def add(self, task: LiveTask) -> None:
        """Hold one more task."""
        self.tasks[task.index] = task
        if not task.durable:
            self.not_durable += 1

    def remove(self, task: LiveTask) -> None:
        """Hold a task no longer, if it is held."""
        if self.tasks.pop(task.index, None) is not None and not task.durable:
            self.not_durable -= 1
        if self.named or self.unread:
            self.unread.pop(task.index, None)
            self.named.discard(task.index)

    def set_busy(self, task: LiveTask, state: TaskState) -> None:
        """Something outside works for this task from now on."""
        task.state = state
        self.busy += 1

    def busy_less(self, task: LiveTask) -> None:
        """Nothing outside works for this task any more."""
        if task.state in (TaskState.RUNNING, TaskState.POLLING, TaskState.ACKNOWLEDGING):
            self.busy -= 1
            # Counted off once: who ends an attempt may go on to discard its task.
            task.state = TaskState.BLOCKED

    def scopes_in_use(self) -> dict[TaskIndex, TaskIndex | None]:
        """Of `outer_scope`, what live tasks may still ask for."""
        used: dict[TaskIndex, TaskIndex | None] = {}
        for task in self.tasks.values():
            scope = task.scope
            while scope is not None and scope not in used:
                used[scope] = self.outer_scope.get(scope)
                scope = used[scope]
        return used

    def enter_scope(self, scope: TaskIndex, outer: TaskIndex | None) -> None:
        """Remember what catches around a catching task that continues."""
        if len(self.outer_scope) > 2 * len(self.tasks) + 100:
            self.outer_scope = self.scopes_in_use()
        self.outer_scope[scope] = outer

    def values_of(self, task: LiveTask) -> tuple[Value, ...]:
        """The values of a task's inputs."""
        found = []
        for at in task.spec.inputs:
            value = self.tasks[at].value
            assert value is not None, f"task {task.spec.task_id} started before its input {at}"
            found.append(value)
        return tuple(found)

    def wants_place_after(self, task: LiveTask) -> bool:
        """Whether a task may want to run in the worker that has run this one."""
        return task.place_wanted_above or any(self.tasks[at].spec.options.in_place for at in task.consumers)
