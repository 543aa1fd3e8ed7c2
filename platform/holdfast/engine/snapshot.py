"""What is live of a run that only waits: where loading may begin, in place of at the first record.

A snapshot holds no values and no nodes; those stand in the records, which are
read for the live tasks alone. It says what the records would tell only
together. It is good as long as nothing has been recorded since; who keeps it
sees to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.engine.abandoning import going_on_unread, tails_of
from holdfast.engine.graph import TaskIndex
from holdfast.engine.live_task import TaskState
from holdfast.engine.run_state import RunState
from holdfast.engine.values import keeps, names_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is live of an idle run.

    Attributes:
        live: The tasks that the result still needs, in order of index.
        kept: How often a task is in use by what is in no live value: a user's code pickled it by itself.
        unread: Tasks that go on although nobody can read their values.
        read: Numbers of the events in live values that a user's code has been given.
        named: Live tasks that a split has named.
        outer_scope: As in `RunState`, for the scopes of live tasks and those around them.
        names: How often each task id was asked for, of those asked for more than once.
        next_index: Index of the next task.
        root: The task whose value is the workflow's.
    """

    live: tuple[TaskIndex, ...]
    kept: Mapping[TaskIndex, int]
    outer_scope: Mapping[TaskIndex, TaskIndex | None]
    names: Mapping[str, int]
    next_index: TaskIndex
    root: TaskIndex
    unread: tuple[TaskIndex, ...] = ()
    read: tuple[int, ...] = ()
    named: tuple[TaskIndex, ...] = ()

    @property
    def saved(self) -> int:
        """How many records fewer there are to be read, at the least; negative when there are more."""
        return self.next_index - 3 * len(self.live) - len(self.names) - len(self.outer_scope)


def take_snapshot(state: RunState) -> Snapshot:
    """The snapshot of an idle run: no task of it runs, and all that are live are logged."""
    kept = _kept(state)
    needed = _reach(state, [state.root, *kept])
    unread = [index for index in going_on_unread(state) if index not in needed]
    live = tuple(sorted(needed | _reach(state, unread)))
    return Snapshot(
        live=live,
        kept=kept,
        outer_scope=state.scopes_in_use(),
        names=state.names.repeated,
        next_index=state.next_index,
        root=state.root,
        unread=tuple(sorted(unread)),
        read=tuple(sorted(number for number, event in state.carried.items() if event.read)),
        named=tuple(sorted(state.named.intersection(live))),
    )


def _kept(state: RunState) -> dict[TaskIndex, int]:
    """The uses of each task that are not those of the tasks that take it, nor that of the workflow's caller."""
    uses: Counter[TaskIndex] = Counter({state.root: 1})
    for task in state.tasks.values():
        if task.missing >= 0:
            uses.update(task.spec.inputs)
        if task.value is not None and keeps(task.value):
            uses.update(names_in(task.value))
    return {index: task.uses - uses[index] for index, task in state.tasks.items() if task.uses > uses[index]}


def _reach(state: RunState, start: list[TaskIndex]) -> set[TaskIndex]:
    tails = tails_of(state)
    needed: set[TaskIndex] = set()
    stack = list(start)
    while stack:
        index = stack.pop()
        live = state.tasks.get(index)
        if live is None or index in needed:
            continue
        needed.add(index)
        if live.value is not None:
            stack.extend(names_in(live.value))
            continue
        if live.scope is not None:
            stack.append(live.scope)
        if live.state is not TaskState.CONTINUED:
            stack.extend(live.spec.inputs)
        elif index in tails:
            stack.append(tails[index])
    return needed
