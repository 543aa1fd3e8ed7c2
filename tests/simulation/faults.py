"""Deliberate faults, each of which the laws must catch: the proof that the simulation bites.

A fault replaces one promise of the engine, the store or the executor by its
opposite, for one test. Those inside the engine are put in by name, under
monkeypatch: a hook for them has no other use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from holdfast.actors.due_rows import DueRows, Look
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import Batch, Operation
from holdfast.actors.task_bundle import May
from holdfast.actors.user_code import user_code
from holdfast.actors.workflow_queue import WorkflowQueue
from holdfast.engine import abandoning, admission, failing, finishing, leaving, reading, restoring, retrying, starting
from holdfast.engine import run as engine_run
from holdfast.engine.admission import admit
from holdfast.engine.graph import NodeKind
from holdfast.engine.logged_run import LoggedRun
from holdfast.engine.queueing import Admission, Limits
from holdfast.engine.records import EventTaken, Record, TaskFinished, TaskWaiting, TimerSet
from holdfast.engine.retry import RetryBudget, RetryPolicy
from holdfast.engine.run import Run
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import RunState
from holdfast.engine.signals import Signal, TaskContinued, TaskLost, TaskRaised, TaskReturned
from holdfast.engine.snapshot import Snapshot
from holdfast.engine.starting import start
from holdfast.engine.step import Step
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.values import Split
from holdfast.storage import layout, snapshots
from holdfast.storage import workflow_store as store
from holdfast.storage.interface import KeyValueStore
from holdfast.storage.memory import Operation as Write
from holdfast.storage.record_codec import Blob
from holdfast.storage.workflow_row import WorkflowRow
from tests.simulation import world
from tests.simulation.disk import Fate
from tests.simulation.generator import Program
from tests.simulation.simulate import MakeWorld, make_world
from tests.simulation.world import RunsAhead, Shell, World

ROOMS = (admission, failing, finishing, leaving, reading, restoring, retrying, starting, engine_run)
"""Where the engine decides: what a fault replaces is replaced in all of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A deliberate fault.

    Attributes:
        name: What is wrong.
        inject: Puts it in.
        make: The world it shows in.
        in_town: It takes several workflows to show.
    """

    name: str
    inject: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    make: MakeWorld = make_world
    in_town: bool = False


def _replace(patch: pytest.MonkeyPatch, name: str, replacement: Callable[..., Any]) -> None:
    """Put something in the place of a function of the engine, wherever it is called from."""
    rooms = [room for room in ROOMS if hasattr(room, name)]
    assert rooms, f"the engine has no {name}"
    for room in rooms:
        patch.setattr(room, name, replacement)


# -- the order of commit and commands ----------------------------------------------------------------------------------


class HastyWorld(World):
    """Carries commands out before their records are durable."""

    def perform(self, shell: Shell, operations: list[Operation]) -> Batch:
        late: list[tuple[Write, ...]] = []
        self.disk.store.on_commit = late.append
        try:
            batch = super().perform(shell, operations)
            for row, command in batch.commands:
                shell.carry_out(self.epoch_of(shell, row.seq), command)
            batch.commands.clear()
        finally:
            self.disk.store.on_commit = self.auditor.on_commit
            for operations_ in late:
                self.auditor.on_commit(operations_)
        return batch


class ForgetfulWorld(World):
    """Its disk loses a commit now and then, and does not say so."""

    def __init__(self, random: Random, program: Program, **about: Any) -> None:
        super().__init__(random, program, **about)
        honest = self.disk.fate
        self.disk.fate = lambda: Fate.FORGOTTEN if random.random() < 0.1 else honest()


def _world(kind: type[World]) -> MakeWorld:
    def make(random: Random, program: Program, crashes: int, cancels: bool, withholds: bool) -> World:
        return kind(random, program, crashes=crashes, cancels=cancels, withholds=withholds)

    return make


# -- what is written ---------------------------------------------------------------------------------------------------


def _not_written(leaves_out: Callable[[Record], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        honest = store.write_records

        def write_records(txn: Any, row: Any, records: Iterable[Record]) -> Any:
            return honest(txn, row, [record for record in records if not leaves_out(record)])

        patch.setattr(store, "write_records", write_records)

    return inject


def _lose_inbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "read_inbox", lambda txn, seq: iter(()))


def _accept_stale_epochs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "check_lease", lambda txn, seq, epoch, workflow_id: None)


def _no_dedupe(patch: pytest.MonkeyPatch) -> None:
    honest = store.add_event
    patch.setattr(store, "add_event", lambda txn, seq, stream, value, **_: honest(txn, seq, stream, value))


def _no_dedupe_of_large_events(patch: pytest.MonkeyPatch) -> None:
    honest = store.add_event

    def add_event(txn: Any, seq: int, stream: Any, value: Any, **about: Any) -> int | None:
        return honest(txn, seq, stream, value, **({} if isinstance(value, Blob) else about))

    patch.setattr(store, "add_event", add_event)


def _trust_replaced_processes_that_hold_runs(patch: pytest.MonkeyPatch) -> None:
    honest = ExecutorCore._check_process
    patch.setattr(ExecutorCore, "_check_process", lambda core, txn: None if core.held else honest(core, txn))


def _cancel_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    honest = ExecutorCore._cancel

    def cancel(core: ExecutorCore, txn: Any, workflow_id: str) -> Any:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(core._runs, "take", lambda txn, seq: core.held.get(seq))
            return honest(core, txn, workflow_id)

    patch.setattr(ExecutorCore, "_cancel", cancel)


def _hear_replies_of_old_leases(patch: pytest.MonkeyPatch) -> None:
    honest = ExecutorCore._deliver
    patch.setattr(ExecutorCore, "_deliver", lambda core, txn, one: honest(core, txn, replace(one, epoch=None)))


# -- what is loaded ----------------------------------------------------------------------------------------------------


def _events_of(image: RunImage) -> dict[int, TaskWaiting]:
    nodes = {index: node for graph in image.graphs for index, node in enumerate(graph.nodes, graph.first)}
    return {index: waiting for index, waiting in image.waiting.items() if nodes[index].kind is NodeKind.EVENT}


def _without_back_offs(image: RunImage) -> RunImage:
    backing_off = {index: waiting for index, waiting in _events_of(image).items() if waiting.deaths + waiting.errors}
    at_once = {index: replace(waiting, due_unix_s=None) for index, waiting in backing_off.items()}
    return replace(image, waiting={**image.waiting, **at_once})


def _without_deaths_of_listeners(image: RunImage) -> RunImage:
    innocent = {index: replace(waiting, deaths=0) for index, waiting in _events_of(image).items()}
    return replace(image, waiting={**image.waiting, **innocent})


def _load_without(change: Callable[[RunImage], RunImage]) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        honest = Run.load

        def load(workflow_id: str, image: RunImage, *about: Any) -> tuple[Run, Step]:
            return honest(workflow_id, change(image), *about)

        patch.setattr(Run, "load", staticmethod(load))

    return inject


def _without_splits(image: RunImage) -> RunImage:
    finished = {at: done for at, done in image.finished.items() if not isinstance(done.value.base, Split)}
    return replace(image, finished=finished)


def _take_catching_links_for_aliases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LoggedRun, "_passes_on", lambda logged, graph: graph.sink in logged._image.continuing)


def _believe_stale_snapshots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(snapshots, "_is_good", lambda written_under, epoch: True)


def _forget_in_snapshots(**wrong: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def inject(patch: pytest.MonkeyPatch) -> None:
        honest = snapshots.save_snapshot

        def save_snapshot(txn: Any, seq: int, epoch: int, snapshot: Snapshot) -> None:
            honest(txn, seq, epoch, replace(snapshot, **wrong))

        patch.setattr(snapshots, "save_snapshot", save_snapshot)

    return inject


def _forget_single_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "has_task", lambda txn, seq, task_id: False)


# -- what is decided ---------------------------------------------------------------------------------------------------


def _fire_early(patch: pytest.MonkeyPatch) -> None:
    honest = DueRows.look

    def look(rows: DueRows, txn: Any, now_unix_s: float, elapsed_s: float) -> Look:
        found = honest(rows, txn, now_unix_s + 2, elapsed_s)
        return replace(found, timers=[(min(due, now_unix_s), seq, task) for due, seq, task in found.timers])

    patch.setattr(DueRows, "look", look)
    patch.setattr(engine_run, "CLOCK_GRAIN_S", 10.0)


def _tell_once(patch: pytest.MonkeyPatch) -> None:
    honest = DueRows._tell
    patch.setattr(DueRows, "_tell", lambda rows, row, again_s: honest(rows, row, math.inf))


def _ignore_attempts(patch: pytest.MonkeyPatch) -> None:
    honest = Run.apply

    def apply(run: Run, signal: Signal, now_unix_s: float) -> Step:
        if isinstance(signal, TaskReturned | TaskContinued | TaskRaised | TaskLost):
            signal = replace(signal, attempt=run.attempt_of(signal.task))
        return honest(run, signal, now_unix_s)

    patch.setattr(Run, "apply", apply)


def _retry_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RetryBudget, "allows", lambda budget, **used: True)


def _back_off_for_ever(patch: pytest.MonkeyPatch) -> None:
    honest = RetryPolicy.delay_s
    patch.setattr(RetryPolicy, "delay_s", lambda policy, failures, seed: honest(policy, 1, seed) or 0.0)


def _leak_scopes(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, "open_scope", lambda state, scope: None)


def _alias_to_self(patch: pytest.MonkeyPatch) -> None:
    def admit_below_itself(state: RunState, graph: Any, parent: Any, step: Step) -> int:
        if parent is not None and not parent.spec.options.catch_exceptions:
            parent.group = parent.index
        return admit(state, graph, parent, step)

    _replace(patch, "admit", admit_below_itself)


def _always_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Run, "idle", property(lambda run: not run.status.ended))


def _log_all_taken(patch: pytest.MonkeyPatch) -> None:
    def log_taken(state: RunState, task: Any, stream: Any, number: int, value: Any, step: Step) -> None:
        step.records.append(EventTaken(task=task.index, stream=stream, number=number))

    _replace(patch, "log_taken", log_taken)


def _keep_what_restarted_tasks_took(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, "give_back_events", lambda state, volatile_root: None)


def _start_without_inputs_after_load(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, "start_when_fed", start)


def _log_passing_splits(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, "_give_up_logging", lambda state, task: None)


# -- places and queues -------------------------------------------------------------------------------------------------


def _keep_places_of_ended(patch: pytest.MonkeyPatch) -> None:
    honest = store.save

    def save(txn: Any, row: WorkflowRow, *, was: WorkflowRow | None = None) -> None:
        honest(txn, row, was=was)
        if was is not None and was.status is WorkflowStatus.RUNNING and row.status is WorkflowStatus.SUCCESSFUL:
            _count_once_more(txn)

    patch.setattr(store, "save", save)


def _count_again_when_loaded(patch: pytest.MonkeyPatch) -> None:
    honest = ExecutorCore._recover

    def recover(core: ExecutorCore, txn: Any, seq: int) -> Any:
        held = seq in core.held
        outcome = honest(core, txn, seq)
        if not held and seq in core.held:
            _count_once_more(txn)
        return outcome

    patch.setattr(ExecutorCore, "_recover", recover)


def _count_once_more(txn: Any) -> None:
    running = store.count(txn, WorkflowStatus.RUNNING)
    txn.put(layout.counter("status." + WorkflowStatus.RUNNING.value), layout.pack(running + 1))


def _start_without_a_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Limits, "may_start", lambda limits, *, running: True)


def _let_the_queue_grow(patch: pytest.MonkeyPatch) -> None:
    honest = Limits.decide

    def decide(limits: Limits, **about: Any) -> Admission:
        return honest(replace(limits, max_pending=None), **about)

    patch.setattr(Limits, "decide", decide)


def _serve_the_last_first(patch: pytest.MonkeyPatch) -> None:
    def last_queued(txn: Any) -> tuple[int, int] | None:
        last = next(txn.scan(layout.QUEUE, reverse=True), None)
        return None if last is None else (layout.last_part(last[0]), layout.unpack(last[1]))

    patch.setattr(store, "first_queued", last_queued)


def _tell_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkflowQueue, "hand_over", lambda queue, txn, row: None)


def _admit_nobody_later(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkflowQueue, "admit_queued", lambda queue, txn: None)


# -- what is forgotten -------------------------------------------------------------------------------------------------


def _keep_used_up(patch: pytest.MonkeyPatch) -> None:
    _replace(patch, "forget_if_unused", lambda state, task: None)


def _keep_unread_waits(patch: pytest.MonkeyPatch) -> None:
    def give_up_unused(state: RunState, step: Step) -> None:
        state.unused.clear()
        state.returned.clear()

    _replace(patch, "give_up_unused", give_up_unused)


def _keep_unread_events(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(abandoning, "give_back", lambda state, event, step: None)


# -- workers that run ahead --------------------------------------------------------------------------------------------


def _log_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    def log(kv: KeyValueStore, seq: int, epoch: int, workflow_id: str, record: TaskFinished) -> None:
        with kv.write() as txn:
            row = store.get(txn, seq)
            assert row is not None
            store.write_records(txn, row, [record])

    patch.setattr(world, "log_ahead", log)


def _go_on_unlogged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunsAhead, "log", lambda *_: May.BEGIN)


def _start_again_what_was_begun(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shell, "_ran_ahead", lambda *_: False)


def _start_again_what_is_next(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shell, "_is_next_somewhere", lambda *_: False)


def _forget_what_is_given_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunsAhead, "give_back", lambda *_: None)


# -- user code ---------------------------------------------------------------------------------------------------------


def let_user_code_end_what_runs_it(patch: pytest.MonkeyPatch) -> None:
    """Have the guard of user code hold nothing."""
    patch.setattr(type(user_code), "__exit__", lambda *_: None)


FAULTS = (
    Fault("what ends user code ends what runs it", let_user_code_end_what_runs_it),
    Fault("what a worker is to go on with is started elsewhere", _start_again_what_is_next),
    Fault("what a worker may not go on with is forgotten", _forget_what_is_given_back),
    Fault("a worker logs under a lease that is gone", _log_under_any_lease),
    Fault("a worker goes on before it has logged", _go_on_unlogged),
    Fault("what a worker has begun ahead is started again", _start_again_what_was_begun),
    Fault("commands are carried out before the commit", make=_world(HastyWorld)),
    Fault("a commit is lost and nobody is told", make=_world(ForgetfulWorld)),
    Fault("the inbox is lost", _lose_inbox),
    Fault("a stale epoch is accepted", _accept_stale_epochs),
    Fault("an event that is sent again is a new one", _no_dedupe),
    Fault("a large event that is sent again is a new one", _no_dedupe_of_large_events),
    Fault("a process that was replaced is not refused while it holds runs", _trust_replaced_processes_that_hold_runs),
    Fault("a workflow is cancelled under a lease that is gone", _cancel_under_any_lease),
    Fault("a late reply of an old lease is taken", _hear_replies_of_old_leases),
    Fault("a timer fires early", _fire_early),
    Fault("a timer whose message was lost is not told of again", _tell_once),
    Fault("a timer is not written", _not_written(lambda record: isinstance(record, TimerSet))),
    Fault("a signal of an old attempt is taken", _ignore_attempts),
    Fault("the retry budget is ignored", _retry_for_ever),
    Fault("the retry policy never ends", _back_off_for_ever),
    Fault("results are not logged", _not_written(lambda r: isinstance(r, TaskFinished) and r.task % 2 == 1)),
    Fault("an event is given twice", _not_written(lambda record: isinstance(record, EventTaken))),
    Fault(
        "an event is not kept while it is acknowledged",
        _not_written(lambda record: isinstance(record, TaskWaiting) and record.event is not None),
    ),
    Fault("an event that an unlogged task took leaves the inbox at once", _log_all_taken),
    Fault("events of tasks that a lost worker makes run again are not given back", _keep_what_restarted_tasks_took),
    Fault("a split is decided again after a crash", _load_without(_without_splits)),
    Fault("what tasks wait for is forgotten", _load_without(lambda image: replace(image, waiting={}))),
    Fault("after a crash a listener is asked again at once", _load_without(_without_back_offs)),
    Fault("after a crash a listener has ended nothing", _load_without(_without_deaths_of_listeners)),
    Fault("what continued runs again", _load_without(lambda image: replace(image, continuing={}))),
    Fault("a stale snapshot is believed", _believe_stale_snapshots),
    Fault("a snapshot forgets what a task has left elsewhere", _forget_in_snapshots(kept={})),
    Fault("a snapshot forgets which events were read", _forget_in_snapshots(read=())),
    Fault("a wait that nobody can read any more stays", _keep_unread_waits),
    Fault("an event that nobody can read any more does not go back", _keep_unread_events),
    Fault("a snapshot forgets which ids were given once", _forget_single_names),
    Fault("a snapshot forgets the scopes around scopes", _forget_in_snapshots(outer_scope={})),
    Fault("catch_exceptions does not reach below", _leak_scopes),
    Fault("a link of a chain that catches is taken for an alias", _take_catching_links_for_aliases),
    Fault("the end of a chain gives its value to the link above it only", _alias_to_self),
    Fault("a run is put away while its tasks run", _always_idle),
    Fault("a task is started before inputs that are computed again", _start_without_inputs_after_load),
    Fault("a split that names unlogged tasks is logged", _log_passing_splits),
    Fault("values that nobody will use again stay in memory", _keep_used_up),
    Fault("a workflow that has ended keeps its place", _keep_places_of_ended, in_town=True),
    Fault("a workflow that is recovered is counted again", _count_again_when_loaded, in_town=True),
    Fault("a workflow starts without a place", _start_without_a_place, in_town=True),
    Fault("the queue has no end", _let_the_queue_grow, in_town=True),
    Fault("who came last is served first", _serve_the_last_first, in_town=True),
    Fault("a place that is free stays so", _admit_nobody_later, in_town=True),
    Fault("who is to drive a queued workflow is not told", _tell_nobody, in_town=True),
)
