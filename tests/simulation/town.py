"""Several workflows at once on one or two executors, with places for fewer of them than there are.

What one workflow does by itself is the subject of `world`; here they take each
other's places, wait in the queue, and are handed from one executor to the
other, while executors crash at commits and between a commit and its commands.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from holdfast.actors.due_rows import DueRows
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import (
    Accepted,
    Batch,
    Cancel,
    Deliver,
    Elsewhere,
    FireTimer,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    Submit,
)
from holdfast.engine.commands import AcknowledgeEvent, Command, Complete, StartListener, StartTask, StopTask
from holdfast.engine.errors import StorageFullError, WorkflowNotFoundError
from holdfast.engine.queueing import Limits
from holdfast.engine.signals import Signal
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage import workflow_store as store
from holdfast.storage.memory import Operation as Write
from tests.simulation.clock import Clock
from tests.simulation.disk import CrashError, Disk, Fate
from tests.simulation.generator import START_UNIX_S, Program
from tests.simulation.laws import Auditor, demand
from tests.simulation.plans import event
from tests.simulation.workers import Fleet

MAX_HAPPENINGS = 20_000


class Resident:
    """One workflow, and who watches it."""

    def __init__(self, number: int, program: Program, town: Town) -> None:
        self.workflow_id = f"resident {number}"
        self.program = program
        self.auditor = Auditor(program.book, lambda: town.clock.now_unix_s)
        self.executions: dict[int, int] = {}
        self.seq = -1
        self.cancels = town.random.random() < 0.05
        self.resumes = 0

    @property
    def expected(self) -> Any:
        """The outcome of a plain evaluation."""
        return self.auditor.evaluator.outcome(self.program.sink)


class QueueAuditor:
    """Watches the queue and the places, by what is committed."""

    def __init__(self, limits: Limits) -> None:
        self.status: dict[int, str] = {}
        self.queued: dict[int, int] = {}
        self._limits = limits

    def count(self, status: WorkflowStatus) -> int:
        """How many workflows have this status."""
        return sum(seen == status.value for seen in self.status.values())

    def on_commit(self, operations: Sequence[Write]) -> None:
        """One transaction has become durable."""
        left: list[int] = []
        for key, raw in operations:
            if key[:1] == b"s":
                name, seq = key[1:-9].decode(), layout.last_part(key)
                if raw is not None:
                    self.status[seq] = name
                elif self.status.get(seq) == name:
                    del self.status[seq]
            elif key[:1] == b"q" and raw is not None:
                self.queued[layout.last_part(key)] = layout.unpack(raw)
            elif key[:1] == b"q":
                left.append(layout.last_part(key))
        started = [number for number in left if self.status[self.queued.pop(number)] == WorkflowStatus.RUNNING.value]
        in_order = not started or not self.queued or max(started) < min(self.queued)
        demand(in_order, "the queue is served in its order", f"{started} before {sorted(self.queued)}")
        running, most = self.count(WorkflowStatus.RUNNING), self._limits.max_running
        demand(most is None or running <= most, "no more workflows run than have a place", f"{running} of {most}")
        pending, room = self.count(WorkflowStatus.PENDING), self._limits.max_pending
        demand(room is None or pending <= room, "no more workflows wait than have room", f"{pending} of {room}")
        demand(pending == len(self.queued), "who is pending is in the queue", f"{pending}, {len(self.queued)}")


@dataclass(frozen=True, slots=True)
class Letter:
    """An operation on its way, with what it came from."""

    operation: Operation
    seq: int = -1
    epoch: int = -1


class Clerk:
    """One incarnation of an executor."""

    def __init__(self, town: Town, name: str) -> None:
        self.town, self.name = town, name
        self.core = ExecutorCore(town.disk, name, snapshot_saves=town.snapshot_saves)
        self.letters: list[Letter] = []
        self.fleets: dict[tuple[int, int], Fleet] = {}
        self.dead = False
        self._asked_to_work = False

    def arrive(self, letter: Letter) -> None:
        """Take an operation in; it is done with all others that have arrived when the executor comes to it."""
        self.letters.append(letter)
        if not self._asked_to_work:
            self._asked_to_work = True
            self.town.clock.after(self.town.random.choice((0.0, 0.001, 0.05)), self._work)

    def epoch_of(self, seq: int) -> int:
        """The epoch under which it holds a workflow; 0 when it does not."""
        held = self.core.held.get(seq)
        return 0 if held is None else held.epoch

    def _work(self) -> None:
        self._asked_to_work = False
        if self.dead or not self.letters:
            return
        taken, self.letters = self.letters, []
        operations = [one.operation for one in taken if one.seq < 0 or one.epoch == self.epoch_of(one.seq)]
        town = self.town
        try:
            batch = self.core.perform(operations, town.clock.now_unix_s)
            town.hear(self, operations, batch.outcomes)
            self._obey(batch)
        except CrashError:
            town.crash(self)
        except StorageFullError:
            self._lose_memory(operations)

    def _lose_memory(self, operations: list[Operation]) -> None:
        held = {(seq, held.epoch) for seq, held in self.core.held.items()}
        for of in [of for of in self.fleets if of not in held]:
            self.fleets.pop(of).stopped = True
        for operation in operations:
            if not isinstance(operation, Deliver | FireTimer | Recover):
                self.arrive(Letter(operation))
        self.look_again()
        self.town.set_alarm(self.town.clock.now_unix_s + 0.1)

    def look_again(self) -> None:
        """Take up what is its own and not in memory: whoever was to tell of it may have died."""
        with self.town.disk.read() as transaction:
            for seq in store.held_by(transaction, self.name):
                if seq not in self.core.held:
                    self.arrive(Letter(Recover(seq=seq)))

    def _obey(self, batch: Batch) -> None:
        stop_at = self.town.stop_at(len(batch.commands) + len(batch.elsewhere))
        given_up = {(row.seq, c.task, c.attempt) for row, c in batch.commands if isinstance(c, StopTask)}
        for done, (row, command) in enumerate(batch.commands):
            if done == stop_at:
                raise CrashError
            if not isinstance(command, StartTask) or (row.seq, command.task, command.attempt) not in given_up:
                self._carry_out(row.seq, command)
        for done, (name, seq) in enumerate(batch.elsewhere, start=len(batch.commands)):
            if done == stop_at:
                raise CrashError
            self.town.clerks[name].arrive(Letter(Recover(seq=seq)))
        if batch.earliest_due_unix_s is not None:
            self.town.set_alarm(batch.earliest_due_unix_s)

    def _fleet(self, seq: int, epoch: int) -> Fleet:
        fleet = self.fleets.get((seq, epoch))
        if fleet is None:
            town, resident = self.town, self.town.of(seq)
            auditor, executions = resident.auditor, resident.executions
            fleet = self.fleets[seq, epoch] = Fleet(
                resident.program.book,
                auditor.evaluator,
                town.clock,
                town.random,
                executions,
                lambda signal: town.carry(self, signal, seq, epoch),
                code_ended=auditor.code_ended.add,
            )
        return fleet

    def _carry_out(self, seq: int, command: Command) -> None:
        epoch, auditor = self.epoch_of(seq), self.town.of(seq).auditor
        match command:
            case StartTask():
                auditor.on_start(command, epoch)
                self._fleet(seq, epoch).start(command)
            case StartListener():
                auditor.on_listen(command)
                self._fleet(seq, epoch).listen(command)
            case AcknowledgeEvent():
                auditor.on_acknowledge(command)
                self._fleet(seq, epoch).acknowledge(command)
            case Complete():
                pass
            case _:
                for (of, _), fleet in self.fleets.items():
                    if of == seq:
                        fleet.stop(command.task, command.attempt)


class Town:
    """All workflows, executors and clients.

    Args:
        random: Decides all that happens.
        programs: The workflows, in the order in which they are submitted.
        crashes: How many commits go wrong at most.
    """

    def __init__(self, random: Random, programs: Sequence[Program], *, crashes: int) -> None:
        self.random = random
        self.clock = Clock(random, START_UNIX_S)
        max_running = random.choice((1, 2, 3, None))
        self.limits = Limits(max_running=max_running, max_pending=random.choice((1, 3, None)))
        self.queue = QueueAuditor(self.limits)
        self.disk = Disk(self._fate, self._on_commit)
        self._crashes = 0
        with self.disk.write() as transaction:
            limits = {"max_running": max_running, "max_pending": self.limits.max_pending}
            store.save_setting(transaction, "limits", limits)
        self._crashes = crashes
        self.snapshot_saves = random.choice((-1e9, 1e9))
        self.residents = [Resident(number, program, self) for number, program in enumerate(programs)]
        self._by_seq: dict[int, Resident] = {}
        self._answered: list[Operation] = []
        self._alarm_unix_s = 0.0
        self._due_rows = DueRows(at_once=random.choice((1, 10)), most_out=random.choice((2, 50)), lost_after_s=5.0)
        self.clerks = {name: Clerk(self, name) for name in ("one", "two")[: random.randint(1, 2)]}

    def of(self, seq: int) -> Resident:
        """The workflow of a number."""
        return self._by_seq[seq]

    # -- the course of things ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first submission until nothing more happens.

        Raises:
            LawBrokenError: A law did not hold.
        """
        for resident in self.residents:
            submit = Submit(workflow_id=resident.workflow_id, graph=resident.program.graph, nonce=resident.workflow_id)
            at = self.random.uniform(0, 4)
            self._ask(resident, submit, at)
            self._send_events(resident, at)
            if resident.cancels:
                self._ask(resident, Cancel(workflow_id=resident.workflow_id), at + self.random.uniform(0, 8))
        happenings = 0
        while self.clock.step() or self._resume_failed():
            happenings += 1
            demand(happenings < MAX_HAPPENINGS, "every run ends", "they go in circles")
        self._check_rest()

    def _resume_failed(self) -> bool:
        for resident in self.residents:
            auditor, expected = resident.auditor, resident.expected
            if auditor.status != "FAILED" or resident.resumes >= 30:
                continue
            if expected == ("failed", auditor.error[1]) and resident.resumes >= 1:
                continue
            resident.resumes += 1
            auditor.resumed = True
            self._ask(resident, Resume(workflow_id=resident.workflow_id), 0.0)
            return True
        return False

    def _check_rest(self) -> None:
        pending = self.queue.count(WorkflowStatus.PENDING)
        demand(not pending, "who waits gets a place when one is free", f"{pending} wait for ever")
        with self.disk.read() as transaction:
            for status in WorkflowStatus:
                counted, there = store.count(transaction, status), self.queue.count(status)
                demand(counted == there, "the counters count what is there", f"{status}: {counted}, not {there}")
            for resident in self.residents:
                row = store.find(transaction, resident.workflow_id)
                assert row is not None
                output = row.output
                if output is not None and row.output_origin is not None:
                    output = store.read_output(transaction, row.seq, output, row.output_origin)
                resident.auditor.on_end(resident.program.sink, output, cancelled=resident.cancels)
        for clerk in self.clerks.values():
            demand(not clerk.core.held, "what has ended leaves memory")

    # -- what is committed ---------------------------------------------------------------------------------------

    def _on_commit(self, operations: tuple[Write, ...]) -> None:
        for key, raw in operations:
            if key[:1] == b"i" and raw is not None:
                resident = next(one for one in self.residents if layout.workflow_id(one.workflow_id) == key)
                self._by_seq[layout.unpack(raw)] = resident
        shares: dict[int, list[Write]] = {}
        for key, raw in operations:
            if key[:1] in b"wgtye" and len(key) >= 9:
                shares.setdefault(layout.unpack(key[1:9]), []).append((key, raw))
        for seq, share in shares.items():
            self.of(seq).auditor.on_commit(tuple(share))
        self.queue.on_commit(operations)

    # -- clients -------------------------------------------------------------------------------------------------

    def _ask(self, resident: Resident, operation: Operation, delay_s: float) -> None:
        """Ask until it is answered; any executor will do."""

        def again() -> None:
            if any(other is operation for other in self._answered):
                return
            if not any(one.operation is operation for clerk in self.clerks.values() for one in clerk.letters):
                self.random.choice(list(self.clerks.values())).arrive(Letter(operation))
            self.clock.after(self.random.uniform(0.5, 1.5), again)

        self.clock.after(delay_s, again)

    def _send_events(self, resident: Resident, begin_s: float) -> None:
        for stream, readers in resident.program.readers.items():
            for serial in range(readers):
                dedupe = f"{stream[1]}/{serial}"
                value = event(stream, serial)
                post = Post(workflow_id=resident.workflow_id, stream=stream, value=value, dedupe_id=dedupe)
                self._ask(resident, post, begin_s + self.random.uniform(0, 10))

    def hear(self, clerk: Clerk, operations: list[Operation], outcomes: list[Outcome]) -> None:
        """Clients get their answers, and go where they are sent; the alarm gets its own."""
        self._answer_timers(operations)
        for operation, outcome in zip(operations, outcomes, strict=True):
            match outcome:
                case Elsewhere(executor=name):
                    self.clerks[name].arrive(Letter(operation))
                case queue.Full():
                    if len(operations) == 1:
                        self._check_full()
                case WorkflowNotFoundError():
                    pass
                case Accepted() | Exception():
                    self._answered.append(operation)

    def _check_full(self) -> None:
        pending, room = self.queue.count(WorkflowStatus.PENDING), self.limits.max_pending
        full = room is not None and pending >= room
        demand(full, "only who finds the queue full is refused", f"{pending} of {room} wait")

    # -- messages ------------------------------------------------------------------------------------------------

    def carry(self, clerk: Clerk, signal: Signal, seq: int, epoch: int) -> None:
        """Bring a signal to the incarnation that asked for it: late, out of order, perhaps twice."""

        def deliver() -> None:
            if not clerk.dead:
                clerk.arrive(Letter(Deliver(seq=seq, signal=signal), seq, epoch))

        self.clock.after(self.random.choice((0.0, 0.01, self.random.uniform(0, 0.5))), deliver)
        if self.random.random() < 0.15:
            self.clock.after(self.random.uniform(0, 3), deliver)

    def set_alarm(self, unix_s: float) -> None:
        """Look for due timers at a time, unless the alarm is set to an earlier one."""
        if not self.clock.now_unix_s < self._alarm_unix_s <= unix_s:
            self._alarm_unix_s = unix_s
            self.clock.at(unix_s, self._fire_timers)

    def _fire_timers(self) -> None:
        now = self.clock.now_unix_s
        with self.disk.read() as transaction:
            look = self._due_rows.look(transaction, now, now)
        for due_unix_s, seq, task in look.timers:
            fire = FireTimer(seq=seq, task=task, due_unix_s=due_unix_s)
            self.random.choice(list(self.clerks.values())).arrive(Letter(fire))
        if look.again_unix_s is not None:
            self.set_alarm(max(look.again_unix_s, now + 0.01))

    def _answer_timers(self, operations: list[Operation]) -> None:
        fired = [(one.due_unix_s, one.seq, one.task) for one in operations if isinstance(one, FireTimer)]
        if fired:
            now = self.clock.now_unix_s
            with self.disk.read() as transaction:
                again_s = self._due_rows.timers_answered(transaction, fired, now)
            if again_s is not None:
                self.set_alarm(now + again_s)

    # -- mishaps -------------------------------------------------------------------------------------------------

    def _fate(self) -> Fate:
        if self._crashes <= 0 or self.random.random() > 0.1:
            return Fate.DONE
        self._crashes -= 1
        return self.random.choice((Fate.KILLED_BEFORE, Fate.KILLED_AFTER, Fate.FULL, Fate.KILLED_AFTER))

    def stop_at(self, commands: int) -> int:
        """Before which of so many commands the process dies; -1 for none."""
        if self._crashes <= 0 or not commands or self.random.random() > 0.05:
            return -1
        self._crashes -= 1
        return self.random.randrange(commands)

    def crash(self, clerk: Clerk) -> None:
        """An executor dies, and is started again after a while; the others look whether it left them something."""
        clerk.dead = True
        for fleet in clerk.fleets.values():
            fleet.stopped = True

        def start_anew() -> None:
            self.clerks[clerk.name] = Clerk(self, clerk.name)
            for one in self.clerks.values():
                one.look_again()
            self.set_alarm(self.clock.now_unix_s)

        self.clock.after(self.random.uniform(0, 3), start_anew)
