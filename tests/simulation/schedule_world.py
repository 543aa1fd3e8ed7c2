"""A simulated machine with a schedule: executors that crash at any write, rings that come late or twice or not at all,
a time of day that is set back and forth, users who pause and trigger, and clusters that are lost.

The executors are the real `ExecutorCore`, the times come from the real triggers.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.lost_cluster import lose_cluster
from holdfast.actors.operations import AdmitQueued, Batch, Cancel, Deliver, Operation, Outcome, Recover, Submit
from holdfast.actors.schedule_messages import (
    FireSchedule,
    KeepSchedule,
    ScheduleKept,
    Steering,
    SteerSchedule,
    Terms,
)
from holdfast.engine.commands import StartTask
from holdfast.engine.errors import StorageFullError
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.schedules import Overlap
from holdfast.engine.signals import TaskRaised, TaskReturned
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import layout, schedule_store
from holdfast.storage import workflow_store as store
from holdfast.storage.payload import Payload
from tests.simulation.clock import Clock
from tests.simulation.disk import CrashError, Disk, Fate
from tests.simulation.schedule_laws import NAME, ScheduleAuditor, demand

START_UNIX_S = 1_800_000_000.0
EXECUTORS = ("one", "two")
MOST_HAPPENINGS = 20_000
_GRAPH = Graph(nodes=(NodeSpec(task_id="t"),), sink=0)
_NONE = Payload(b"\x80\x05N.")


class ScheduleWorld:
    """Everything around one schedule.

    Args:
        random: Decides all that happens.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = Clock(random, START_UNIX_S)
        self.offset_s = 0.0
        self._last_unix_s: float | None = None
        self._written: set[int] | None = None
        self.disk = Disk(self._fate, self._note_commit)
        self.auditor = ScheduleAuditor()
        self.crashes = random.choice((0, 1, 3, 6))
        self.cores: dict[str, ExecutorCore] = {name: ExecutorCore(self.disk, name) for name in EXECUTORS}
        self.lasts_s = random.choice((60.0, 200.0))
        self.rings_from_s = 0.0
        self.longest_run_s = random.choice((1.0, 15.0, 60.0))
        self.terms = Terms(
            timing=random.choice(
                (
                    Timing.of(every_s=random.choice((10, 30))),
                    Timing.of(cron=random.choice(("* * * * *", "*/2 * * * *"))),
                )
            ),
            overlap=random.choice(list(Overlap)),
            catch_up_s=random.choice((10.0, 40.0, 100_000.0)),
            coalesce=random.random() < 0.4,
        )
        if random.random() < 0.4:
            with self.disk.store.write() as txn:
                limits = {"max_running": random.choice((1, 2)), "max_pending": random.choice((0, 0, 1))}
                store.save_setting(txn, "limits", limits)

    @property
    def now(self) -> float:
        """The time of day."""
        return self.clock.now_unix_s + self.offset_s if self._last_unix_s is None else self._last_unix_s

    # -- the course of things ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the definition of the schedule until nothing more happens.

        Raises:
            LawBrokenError: A law did not hold.
        """
        random = self.random
        self._ask(KeepSchedule(name=NAME, terms=self.terms, graph=_GRAPH, nonce="f" * 32, digest="d"), 0.0)
        for _ in range(random.choice((0, 0, 2, 5))):
            self.clock.after(random.uniform(1, self.lasts_s), self._set_clock)
        for number in range(random.choice((0, 0, 1, 4))):
            when, nonce = random.uniform(1, self.lasts_s), f"{number:08x}" + "0" * 24
            self._ask(SteerSchedule(name=NAME, steering=Steering.TRIGGER, nonce=nonce), when)
        if random.random() < 0.3:
            begin = random.uniform(1, self.lasts_s)
            for steering, when in ((Steering.PAUSE, begin), (Steering.RESUME, begin + random.uniform(0, 60))):
                self._ask(SteerSchedule(name=NAME, steering=steering, nonce=steering.value), when)
        if random.random() < 0.2:
            self.clock.after(random.uniform(1, self.lasts_s), self._lose_cluster)
        for number in range(random.choice((0, 0, 2))):
            # Others want a place too.
            submit = Submit(workflow_id=f"other-{number}", graph=_GRAPH, nonce=f"{number:032x}")
            self._ask(submit, random.uniform(0, self.lasts_s), once=True)
        self.clock.at(START_UNIX_S + self.lasts_s, self._stop_the_clock)
        self._ring_on()
        happenings = 0
        while self.clock.step() or self._go_on():
            happenings += 1
            demand(happenings < MOST_HAPPENINGS, "all comes to rest", "it goes in circles")
        self.auditor.on_end(self.now)

    def _stop_the_clock(self) -> None:
        """What is due is still run, and nothing comes due any more: an end to a day that would have none."""
        self._last_unix_s = self.now

    def _go_on(self) -> bool:
        """At rest: look a last time, if a row says that somebody should; resume it when it stayed paused."""
        schedule = self.auditor.schedule
        if schedule is None:
            return False
        if schedule.paused:
            self._ask(SteerSchedule(name=NAME, steering=Steering.RESUME, nonce="last"), 0.0)
            return True
        with self.disk.read() as txn:
            due = schedule_store.due(txn, self.now, 10)
        if due:
            self._ask(FireSchedule(name=NAME), 1.0)
        return bool(due)

    # -- executors -----------------------------------------------------------------------------------------------

    def perform(self, core: ExecutorCore, operations: list[Operation]) -> Batch:
        """Commit; the faulty worlds do it otherwise."""
        return core.perform(operations, self.now)

    def work(self, executor: str, operations: list[Operation]) -> list[Outcome] | None:
        """Have an executor do something; None when it died over it, or there was no space."""
        core = self.cores[executor]
        resumes = any(isinstance(one, SteerSchedule) and one.steering is Steering.RESUME for one in operations)
        self._written = None
        try:
            batch: Batch | None = self.perform(core, operations)
        except CrashError:
            batch = None
            self.cores[executor] = ExecutorCore(self.disk, executor)
            # What died may not have told the other what it had given it: both look.
            self.clock.after(self.random.uniform(0, 5), lambda: [self._recover(name) for name in EXECUTORS])
        except StorageFullError:
            batch = None
            self.clock.after(1.0, lambda: self._recover(executor))
        self._audit(resumes=resumes)
        if batch is None:
            return None
        self._obey(executor, batch)
        return batch.outcomes

    def _recover(self, executor: str) -> None:
        with self.disk.read() as txn:
            mine = store.held_by(txn, executor)
        operations: list[Operation] = [Recover(seq=seq) for seq in mine if seq not in self.cores[executor].held]
        if operations:
            self.work(executor, operations)

    def _obey(self, executor: str, batch: Batch) -> None:
        random = self.random
        for row, command in batch.commands:
            held = self.cores[executor].held.get(row.seq)
            if isinstance(command, StartTask) and held is not None:
                self._end_later(executor, row.seq, command, held.epoch)
        for other, seq in batch.elsewhere:
            self.clock.after(random.random(), lambda other=other, seq=seq: self.work(other, [Recover(seq=seq)]))  # type: ignore[misc]
        for other, workflow_id in batch.cancel_elsewhere:
            if random.random() < 0.7:
                cancel = Cancel(workflow_id=workflow_id)
                self.clock.after(random.random(), lambda other=other, cancel=cancel: self.work(other, [cancel]))  # type: ignore[misc]

    def _end_later(self, executor: str, seq: int, command: StartTask, epoch: int) -> None:
        about = {"task": command.task, "attempt": command.attempt}
        fails = self.random.random() < 0.1
        signal = TaskRaised(**about, error=_NONE, retryable=False) if fails else TaskReturned(**about, value=_NONE)
        deliver = Deliver(seq=seq, signal=signal, epoch=epoch)

        def end() -> None:
            operations: list[Operation] = [deliver]
            if self.random.random() < 0.2:
                # Both have arrived when it comes to them: one batch.
                operations.insert(self.random.randint(0, 1), FireSchedule(name=NAME))
            self.work(executor, operations)

        self.clock.after(self.random.uniform(0, self.longest_run_s), end)

    # -- clients -------------------------------------------------------------------------------------------------

    def _ask(self, operation: Operation, delay_s: float, *, once: bool = False) -> None:
        """Ask until it is answered, as a client does; now and then once more, as Ray does when it heard no answer."""

        def again() -> None:
            outcomes = self.work(self.random.choice(EXECUTORS), [operation])
            unanswered = outcomes is None or isinstance(outcomes[0], ValueError)
            if unanswered and not once:
                self.clock.after(1.0, again)
            elif outcomes is not None:
                self._hear(operation, outcomes[0])
                if self.random.random() < 0.2:
                    self.clock.after(1.0, lambda: self.work(self.random.choice(EXECUTORS), [operation]))

        self.clock.after(delay_s, again)

    def _hear(self, operation: Operation, outcome: Outcome) -> None:
        triggers = isinstance(operation, SteerSchedule) and operation.steering is Steering.TRIGGER
        if triggers and isinstance(outcome, ScheduleKept) and outcome.workflow_id:
            self.auditor.asked.add(operation.nonce)  # type: ignore[union-attr]

    # -- the management actor ------------------------------------------------------------------------------------

    def _ring_on(self) -> None:
        """Ring now and then, until the time is over."""
        random = self.random
        with self.disk.read() as txn:
            due = schedule_store.due(txn, self.now, 10)
        if due or random.random() < 0.1:
            for _ in range(random.choice((1, 1, 1, 2))):
                self.clock.after(random.choice((0.0, 0.01, random.uniform(0, 2))), self._fire)
        if self.clock.now_unix_s < START_UNIX_S + self.lasts_s:
            # Now and then it is dead for long.
            self.clock.after(random.choice((0.2, 0.2, 1.0, 1.0, random.uniform(0, 60))), self._ring_on)

    def _fire(self) -> None:
        self.work(self.random.choice(EXECUTORS), [FireSchedule(name=NAME)])

    # -- mishaps -------------------------------------------------------------------------------------------------

    def _set_clock(self) -> None:
        self.offset_s += self.random.choice((-1.0, 1.0)) * self.random.choice((0.5, 5.0, 30.0, 120.0))

    def _lose_cluster(self) -> None:
        """Everything is gone but the disk; a new platform takes it over."""
        self._written = None
        lose_cluster(self.disk.store, list(EXECUTORS))
        self._audit(resumes=False)
        for name in EXECUTORS:
            self.cores[name] = ExecutorCore(self.disk, name)
        # What was queued waits for somebody to ask for it.
        self._ask(AdmitQueued(), self.random.uniform(0, 30))

    def _fate(self) -> Fate:
        if self.crashes <= 0 or self.random.random() > 0.15:
            return Fate.DONE
        self.crashes -= 1
        return self.random.choice((Fate.KILLED_BEFORE, Fate.KILLED_AFTER, Fate.FULL, Fate.KILLED_AFTER))

    def _note_commit(self, writes: tuple[tuple[bytes, bytes | None], ...]) -> None:
        rows = {
            layout.last_part(key) for key, value in writes if key.startswith(layout.WORKFLOWS) and value is not None
        }
        self._written = rows | (self._written or set())

    def _audit(self, *, resumes: bool) -> None:
        if self._written is not None:
            self.auditor.on_commit(self.disk.store, self._written, self.now, resumes=resumes)


MakeScheduleWorld = Callable[[Random], ScheduleWorld]
