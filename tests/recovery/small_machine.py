"""A machine without Ray: one executor over a store in memory, workers that run at once, a clock that jumps.

It dies after as many commits as it is told to, and nothing of it survives but the store, the clock, and what
clients were told.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import (
    AdmitQueued,
    Deliver,
    FireTimer,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    Submit,
)
from holdfast.actors.values import render
from holdfast.engine.commands import AcknowledgeEvent, Command, StartListener, StartTask
from holdfast.engine.graph import Graph
from holdfast.engine.signals import (
    EventAcknowledged,
    EventPolled,
    Signal,
    TaskContinued,
    TaskRaised,
    TaskReturned,
)
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split, Value
from holdfast.storage import workflow_store as store
from holdfast.storage.memory import MemoryStore
from holdfast.storage.memory import Operation as Write
from holdfast.storage.payload import Payload
from holdfast.storage.workflow_row import WorkflowRow

EXECUTOR = "executor"
WORKER = "a worker"
Function = Callable[..., Any]


class Died(BaseException):
    """The machine has made the commit that was its last one."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Workflows to run on a machine.

    Attributes:
        graphs: By workflow id, in the order of their submission.
        functions: What the nodes call; a function of name f is called with its inputs and returns a value or a graph.
        events: (workflow id, key, payload), sent in order: the first ones at once, each further one when all rests.
        at_once: How many events are sent at once.
        unlogged: Ids of tasks that may run again: `checkpoint=False`.
        limits: Settings of the platform.
    """

    graphs: Mapping[str, Graph]
    functions: Mapping[str, Function]
    events: Sequence[tuple[str, str, Any]] = ()
    at_once: int = 0
    unlogged: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """One commit: what it wrote, when, and how many clients' requests had been answered before it."""

    writes: tuple[Write, ...]
    now_unix_s: float
    answered: int


class Machine:
    """Runs a case from where a store stands.

    Args:
        case: What is to be run.
        kv: The store.
        now_unix_s: The time.
        answered: How many of the requests clients have their answers of; the others are sent (again).
        dies_after: How many commits it makes before it dies; None: it lives.
    """

    def __init__(
        self, case: Case, kv: MemoryStore, *, now_unix_s: float, answered: int, dies_after: int | None = None
    ) -> None:
        self.case, self.kv, self.now_unix_s, self.answered = case, kv, now_unix_s, answered
        self.log: list[Moment] = []
        self.executions: Counter[str] = Counter()
        self._dies_after = dies_after
        self._todo: deque[tuple[WorkflowRow, Command]] = deque()
        kv.on_commit = self._committed
        if dies_after == 0:
            raise Died
        with kv.write() as txn:
            store.save_setting(txn, "limits", dict(case.limits))
        self.core = ExecutorCore(kv, EXECUTOR)

    def _committed(self, writes: tuple[Write, ...]) -> None:
        self.log.append(Moment(writes, self.now_unix_s, self.answered))

    def run(self, *, new_cluster: bool) -> None:
        """Recover, then go on until nothing is left to be done."""
        if new_cluster:
            lose_cluster(self.kv, [EXECUTOR])
            self._check_alive()
            with self.kv.read() as txn:
                lost = store.list_by_ids(txn, store.list_seqs(txn, WorkflowStatus.RESUMABLE))
            for row in lost:
                self._perform(Resume(workflow_id=row.workflow_id, nonce=f"resume {row.seq} at {self.now_unix_s}"))
            self._perform(AdmitQueued())
        else:
            with self.kv.read() as txn:
                mine = store.held_by(txn, EXECUTOR)
            for seq in mine:
                self._perform(Recover(seq=seq))
        self._go_on()

    def outputs(self) -> dict[str, Any]:
        """The values of the workflows."""
        found = {}
        with self.kv.read() as txn:
            for workflow_id in self.case.graphs:
                row = store.find(txn, workflow_id)
                assert row is not None
                assert row.status is WorkflowStatus.SUCCESSFUL, (workflow_id, row.status)
                assert row.output is not None
                found[workflow_id] = _load(store.read_output(txn, row.seq, row.output, row.output_origin))
        return found

    # -- the course of things ------------------------------------------------------------------------------------

    def _requests(self) -> list[Operation]:
        requests: list[Operation] = [
            Submit(workflow_id=workflow_id, graph=graph, nonce=f"nonce of {workflow_id}")
            for workflow_id, graph in self.case.graphs.items()
        ]
        for number, (workflow_id, key, payload) in enumerate(self.case.events):
            value = Payload(pickle.dumps(payload))
            about = {"workflow_id": workflow_id, "stream": ("http", key), "value": value}
            requests.append(Post(**about, dedupe_id=f"event {number}"))  # type: ignore[arg-type]
        return requests

    def _go_on(self) -> None:
        requests = self._requests()
        at_once = len(self.case.graphs) + self.case.at_once
        while True:
            if self.answered < at_once:
                self._ask(requests[self.answered])
            elif self._todo:
                self._carry_out(*self._todo.popleft())
            elif self.answered < len(requests):
                self._ask(requests[self.answered])
            elif not self._jump_to_next_timer():
                return

    def _ask(self, request: Operation) -> None:
        outcome = self._perform(request)
        assert not isinstance(outcome, Exception), outcome
        self.answered += 1

    def _jump_to_next_timer(self) -> bool:
        with self.kv.read() as txn:
            due_unix_s = store.next_due(txn)
            if due_unix_s is None:
                return False
            self.now_unix_s = max(self.now_unix_s, due_unix_s)
            due = store.due_timers(txn, self.now_unix_s, 10)
        for at, seq, task in due:
            self._perform(FireTimer(seq=seq, task=task, due_unix_s=at))
        return True

    def _perform(self, operation: Operation) -> Outcome:
        self.now_unix_s += 0.001
        batch = self.core.perform([operation], self.now_unix_s)
        self._check_alive()
        self._todo.extend(batch.commands)
        return batch.outcomes[0]

    def _check_alive(self) -> None:
        if self._dies_after is not None and len(self.log) >= self._dies_after:
            raise Died

    # -- workers -------------------------------------------------------------------------------------------------

    def _carry_out(self, row: WorkflowRow, command: Command) -> None:
        match command:
            case StartTask():
                signal = self._run(row, command)
            case StartListener():
                value = Payload(pickle.dumps(f"heard by {command.node.task_id}"))
                signal = EventPolled(task=command.task, attempt=command.attempt, value=value)
            case AcknowledgeEvent():
                signal = EventAcknowledged(task=command.task, attempt=command.attempt)
            case _:
                return
        self._perform(Deliver(seq=row.seq, signal=signal))

    def _run(self, row: WorkflowRow, command: StartTask) -> Signal:
        self._refuse_logged(row, command)
        self.executions[command.node.task_id] += 1
        began = self.now_unix_s
        self.now_unix_s += 0.01
        about: dict[str, Any] = {"task": command.task, "attempt": command.attempt, "place": WORKER}
        about |= {"started_unix_s": began, "ended_unix_s": self.now_unix_s}
        try:
            result = self.case.functions[command.node.function](*(_load(value) for value in command.values))
        except ValueError as error:
            return TaskRaised(**about, error=Payload(pickle.dumps(error)))
        if isinstance(result, Graph):
            return TaskContinued(**about, graph=result)
        return TaskReturned(**about, value=Payload(pickle.dumps(result)))

    def _refuse_logged(self, row: WorkflowRow, command: StartTask) -> None:
        if command.node.task_id in self.case.unlogged:
            return
        with self.kv.read() as txn:
            state = store.get_task(txn, row.seq, command.task).state
        assert state not in ("finished", "continuing"), f"{command.node.task_id} is {state} in the log, and runs again"


def _load(value: Value) -> Any:
    base = value.base
    if isinstance(base, Split):
        # What remains is named by the inputs that a graph needs to ask for it again.
        loaded: Any = ([_load(one) for _, one in base.ready], [-(at + 1) for at, _ in base.remaining])
    else:
        loaded = pickle.loads(base.inband) if isinstance(base, Payload) else base
    return render(loaded, caught=value.caught, wraps=value.wraps)
