"""One simulated machine: a disk, executors that crash and come back, workers, listeners and clients.

The executor is the real `ExecutorCore`; only what the Ray shell would do around
it is done here: carry messages, carry out commands, start anew after a crash.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

from holdfast.actors.direct_submission import submit_directly
from holdfast.actors.due_rows import DueRows
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.logging_ahead import finished_task, log_ahead
from holdfast.actors.names import process_setting
from holdfast.actors.operations import (
    Batch,
    Cancel,
    Deliver,
    FireTimer,
    Operation,
    Outcome,
    Post,
    Recover,
    Resume,
    Submit,
)
from holdfast.actors.task_bundle import May
from holdfast.engine.commands import AcknowledgeEvent, Command, Complete, StartListener, StartTask, StopTask
from holdfast.engine.errors import ExecutorReplacedError, StaleLeaseError, StorageFullError, WorkflowNotFoundError
from holdfast.engine.restoring import restore, take_up
from holdfast.engine.run import Run
from holdfast.engine.run_image import RunImage
from holdfast.engine.run_state import RunState
from holdfast.engine.signals import EventReceived, Signal, TaskReturned
from holdfast.engine.step import Step
from holdfast.storage import snapshots
from holdfast.storage import workflow_store as store
from tests.simulation.clock import Clock
from tests.simulation.disk import CrashError, Disk, Fate
from tests.simulation.generator import START_UNIX_S, Program
from tests.simulation.laws import Auditor
from tests.simulation.plans import event, large_event
from tests.simulation.workers import Fleet

WORKFLOW_ID = "simulated"
MAX_HAPPENINGS = 20_000


class Shell:
    """One incarnation of the executor."""

    def __init__(self, world: World) -> None:
        self.world = world
        process = world.new_process()
        self.core = ExecutorCore(world.disk, "executor", process, snapshot_saves=world.snapshot_saves)
        self.queue: list[tuple[Operation, int]] = []
        self.fleets: dict[int, Fleet] = {}
        self.ran_ahead: dict[tuple[int, int], int] = {}
        self.promised: dict[tuple[int, int], int] = {}
        self.left: dict[tuple[int, int], tuple[int, StartTask]] = {}
        self.dead = False
        self.paused = False
        self._asked_to_work = False

    # -- messages ------------------------------------------------------------------------------------------------

    def arrive(self, operation: Operation, epoch: int = 0) -> None:
        """Take an operation in; it is done with all others that have arrived when the executor comes to it."""
        self.queue.append((operation, epoch))
        if not self._asked_to_work:
            self._asked_to_work = True
            self.world.clock.after(self.world.random.choice((0.0, 0.001, 0.05)), self.work)

    def _fleet(self, epoch: int) -> Fleet:
        fleet = self.fleets.get(epoch)
        if fleet is None:
            world = self.world
            fleet = self.fleets[epoch] = Fleet(
                world.program.book,
                world.auditor.evaluator,
                world.clock,
                world.random,
                world.runs,
                lambda signal: world.carry(self, signal, epoch),
                RunsAhead(self, epoch),
                world.auditor.code_ended.add,
            )
        return fleet

    # -- work ----------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Do what has arrived, in one transaction, and then what comes of it."""
        self._asked_to_work = False
        if self.dead or self.paused or not self.queue:
            return
        taken, self.queue = self.queue, []
        # What a lease that is gone has started still reports: the core is to know.
        operations = [replace(one, epoch=epoch) if isinstance(one, Deliver) else one for one, epoch in taken]
        world = self.world
        try:
            batch = world.perform(self, operations)
            world.hear(operations, batch.outcomes)
            world.obey(self, batch)
        except CrashError:
            world.crash(self)
        except StorageFullError:
            self._lose_memory(operations)

    def _lose_memory(self, operations: list[Operation]) -> None:
        """The commit failed: what is not in memory any more is loaded again, what clients asked is asked again."""
        for epoch in [epoch for epoch in self.fleets if epoch not in {h.epoch for h in self.core.held.values()}]:
            self.fleets.pop(epoch).stopped = True
        for operation in operations:
            if not isinstance(operation, Deliver | FireTimer | Recover):
                self.arrive(operation)
        with self.world.disk.read() as transaction:
            for seq in store.held_by(transaction, "executor"):
                self.arrive(Recover(seq=seq))
        self.world.set_alarm(self.world.clock.now_unix_s + 0.1)

    def carry_out(self, epoch: int, command: Command) -> None:
        """Do one command."""
        world, fleet = self.world, self._fleet(epoch)
        match command:
            case StartTask() if self._ran_ahead(command, epoch):
                pass
            case StartTask() if self._is_next_somewhere(command, epoch):
                self.left[command.task, command.attempt] = epoch, command
            case StartTask():
                world.auditor.on_start(command, epoch)
                already = any(task == command.task for task, _ in fleet.running)
                world.auditor.demand(not already, "no two attempts of a task run at once", f"task {command.task}")
                fleet.start(command)
            case StartListener():
                world.auditor.on_listen(command)
                fleet.listen(command)
            case AcknowledgeEvent():
                world.auditor.on_acknowledge(command)
                fleet.acknowledge(command)
            case Complete():
                pass
            case _:
                self.left.pop((command.task, command.attempt), None)
                for started in self.fleets.values():
                    started.stop(command.task, command.attempt)

    def _ran_ahead(self, command: StartTask, epoch: int) -> bool:
        """Whether a worker has begun this already. `epoch` is 0 when the run has ended in the same batch."""
        under = self.ran_ahead.get((command.task, command.attempt), 0)
        if under and epoch in (0, under):
            del self.ran_ahead[command.task, command.attempt]
            return True
        return False

    def _is_next_somewhere(self, command: StartTask, epoch: int) -> bool:
        """Whether a worker has this, to begin it when the one before it is logged. `epoch` as above."""
        under = self.promised.pop((command.task, command.attempt), 0)
        return bool(under) and epoch in (0, under)


class RunsAhead:
    """What a worker needs that goes on with the tasks that can only follow its own.

    Args:
        shell: The incarnation that has started it.
        epoch: Under which lease.
    """

    def __init__(self, shell: Shell, epoch: int) -> None:
        self._shell, self._world, self._epoch = shell, shell.world, epoch
        self._last_heard: dict[int, int] = {}

    def followers(self, command: StartTask) -> list[StartTask]:
        """The tasks that can only follow this one, without the values they take."""
        held = self._shell.core.held.get(self._world.seq)
        return [] if held is None or held.epoch != self._epoch else held.run.followers(command.task, 6)

    def log(self, command: StartTask, reply: TaskReturned) -> May:
        """Log what came of a task, under the lease that it was started under. Returns whether the next may begin."""
        auditor, done = self._world.auditor, finished_task(command.task, command.node.task_id, reply)
        auditor.ahead = True
        try:
            log_ahead(self._world.disk, self._world.seq, self._epoch, WORKFLOW_ID, done)
        except StaleLeaseError:
            return May.NEVER
        except (CrashError, StorageFullError):
            # It dies, or gives up.
            return May.NOT_HERE
        finally:
            auditor.ahead = False
        return May.BEGIN

    def go_on(self, signals: list[Signal]) -> list[StartTask]:
        """Say what came of a chain of tasks, of which the last is not logged. What to go on with when it is."""
        shell, first, length = self._shell, signals[0], len(signals)
        held = shell.core.held.get(self._world.seq)
        if shell.dead or shell.paused or held is None or held.epoch != self._epoch:
            return []
        following = held.run.followers(first.task, length + 5)[length - 1 :]
        if following:
            shell.promised[following[0].task, following[0].attempt] = self._epoch
            self._deliver(signals, None)
        return following

    def give_back(self, command: StartTask) -> None:
        """What it was to go on with may not begin."""
        shell, key = self._shell, (command.task, command.attempt)

        def hear() -> None:
            held = shell.core.held.get(self._world.seq)
            shell.promised.pop(key, None)
            epoch, started = shell.left.pop(key, (0, command))
            if not (shell.dead or shell.paused) and held is not None and held.epoch == epoch:
                shell.carry_out(epoch, started)

        self._world.clock.after(self._world.random.choice((0.0, self._world.random.uniform(0, 0.5))), hear)

    def begin(self, command: StartTask) -> None:
        """A task that follows is begun."""
        self._world.auditor.on_start(command, self._epoch)

    def tell(self, signals: list[Signal], begun: StartTask | None) -> None:
        """Say what came of a task and of those after it, in order, and what runs now: all at once."""
        world, shell = self._world, self._shell

        def deliver() -> None:
            if not shell.dead:
                self._deliver(signals, begun)

        world.clock.after(world.random.choice((0.0, 0.01, world.random.uniform(0, 0.5))), deliver)

    def _deliver(self, signals: list[Signal], begun: StartTask | None) -> None:
        shell, first, length = self._shell, signals[0], len(signals)
        if length <= self._last_heard.get(first.task, 0):
            return
        self._last_heard[first.task] = length
        for one in (*signals[1:], *([] if begun is None else [begun])):
            shell.ran_ahead[one.task, one.attempt] = self._epoch
        for signal in signals:
            shell.arrive(Deliver(seq=self._world.seq, signal=signal), self._epoch)


class World:
    """Everything around one workflow.

    Args:
        random: Decides all that happens.
        program: The workflow.
        crashes: How many commits go wrong at most.
        cancels: Whether somebody cancels it.
        withholds: Whether the last event of each stream comes late, when all else has come to rest.
    """

    def __init__(self, random: Random, program: Program, *, crashes: int, cancels: bool, withholds: bool) -> None:
        self.random, self.program = random, program
        self.clock = Clock(random, START_UNIX_S)
        self.auditor = Auditor(program.book, lambda: self.clock.now_unix_s)
        self.disk = Disk(self._fate, self.auditor.on_commit)
        self.runs: dict[int, int] = {}
        self.seq = 1
        self.cancels = cancels
        # Every third world writes snapshots however little they save; the others none, for their runs are short.
        self.snapshot_saves = -math.inf if random.random() < 0.35 else math.inf
        # A task that waits for the rest of a split is logged where the wait is: those made later change nothing.
        self._all_logged = all(program.book[key].durable for key in range(len(program.book)))
        self.auditor.all_logged = self._all_logged
        self._crashes = crashes
        self._resumes = 0
        self._withheld: list[Post] = []
        self._withholds = withholds
        self._zombies: list[Shell] = []
        # Where the store knows which process an executor is, one that was replaced is refused whatever it is asked.
        self._knows_processes = random.random() < 0.5
        self._processes = 0
        self._answered: list[Operation] = []
        self._alarm_unix_s = 0.0
        self._due_rows = self._new_due_rows()
        self.shell = Shell(self)

    # -- hooks that the list of faults replaces --------------------------------------------------------------------

    def perform(self, shell: Shell, operations: list[Operation]) -> Batch:
        """Commit."""
        batch = shell.core.perform(operations, self.clock.now_unix_s)
        for seq in batch.put_away:
            self._check_snapshot(seq)
        for held in shell.core.held.values() if shell is self.shell else ():
            self._check_memory(held.run)
        return batch

    def new_process(self) -> tuple[int, int] | None:
        """The process of a new incarnation, written down as the one that bears the executor's name."""
        if not self._knows_processes:
            return None
        self._processes += 1
        with self.disk.store.write() as transaction:
            store.save_setting(transaction, process_setting("executor"), [self._processes, 0])
        return self._processes, 0

    def epoch_of(self, shell: Shell, seq: int) -> int:
        """The epoch under which the commands of a batch are carried out."""
        held = shell.core.held.get(seq)
        return 0 if held is None else held.epoch

    # -- the course of things ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the submission until nothing more happens.

        Raises:
            LawBrokenError: A law did not hold.
        """
        submit = Submit(workflow_id=WORKFLOW_ID, graph=self.program.graph, nonce="n")
        if self.random.random() < 0.7 or not self._write_down(submit):
            self._ask(submit, 0.0)
        self._send_events()
        if self.cancels:
            self._ask(Cancel(workflow_id=WORKFLOW_ID), self.random.uniform(0, 8))
        happenings = 0
        while self.clock.step() or self._go_on():
            happenings += 1
            self.auditor.demand(happenings < MAX_HAPPENINGS, "every run ends", "it goes in circles")
        with self.disk.read() as transaction:
            row = store.get(transaction, self.seq)
            assert row is not None
            output = row.output
            if output is not None and row.output_origin is not None:
                output = store.read_output(transaction, row.seq, output, row.output_origin)
        self.auditor.on_end(self.program.sink, output, cancelled=self.cancels)
        self.auditor.demand(not self.shell.core.held, "what has ended leaves memory")

    def _go_on(self) -> bool:
        """At rest: wake who was paused, send what was withheld, resume what failed. False at the end."""
        if self._zombies:
            self._wake_zombie(self._zombies.pop())
            return True
        if self._withheld:
            self._check_waits()
            for post in self._withheld:
                self._ask(post, 0.0)
            self._withheld = []
            return True
        if self.auditor.status == "FAILED" and self._may_resume():
            self._resumes += 1
            self.auditor.resumed = True
            self._ask(Resume(workflow_id=WORKFLOW_ID), 0.0)
            return True
        return False

    def _may_resume(self) -> bool:
        expected = self.auditor.evaluator.outcome(self.program.sink)
        if isinstance(expected, tuple) and expected[0] == "failed":
            return self._resumes < 1 or self.auditor.error != ("raised", expected[1])
        return self._resumes < 30

    def _check_waits(self) -> None:
        """A run at rest that has not ended waits for something named, and is not in memory for it."""
        if self.auditor.status != "RUNNING":
            return
        copy = self.disk.store.fork()
        with copy.read() as transaction:
            image = store.load_image(transaction, self.seq)
        run, _ = Run.load(WORKFLOW_ID, image, self.clock.now_unix_s)
        self.auditor.demand(bool(run.waits_for()), "every run ends, or waits for something named")

    def _check_memory(self, run: Run) -> None:
        """Memory follows what is live; where results are not logged, the auditor does not know what that is."""
        if self._all_logged:
            live, most = run.live_tasks, self.auditor.most_live()
            self.auditor.demand(live <= most, "memory follows what is live", f"{live} tasks, not {most}")

    def _check_snapshot(self, seq: int) -> None:
        """Where a snapshot was written, a load from it is a load from all records."""
        with self.disk.read() as transaction:
            image = snapshots.load_run(transaction, seq, store.current_epoch(transaction, seq) + 1)
            if image.snapshot is None:
                return
            everything = store.load_image(transaction, seq)
        (seen, first), (told, said) = self._loaded(image), self._loaded(everything)
        if not self._all_logged:
            # What an unlogged split has named stays too; the records know nothing of it.
            seen.tasks = {at: seen.tasks[at] for at in told.tasks if at in seen.tasks}
            for at, task in seen.tasks.items():
                task.uses = min(task.uses, told.tasks[at].uses)
            seen.next_index = told.next_index
            first.records = [one for one in first.records if getattr(one, "task", None) in told.tasks]
        same = (seen.tasks, seen.root, seen.next_index, first) == (told.tasks, told.root, told.next_index, said)
        if self._all_logged:
            same = same and (seen.unread, _read(seen)) == (told.unread, _read(told))
        same = same and all(_scopes(seen, task.scope) == _scopes(told, task.scope) for task in seen.tasks.values())
        self.auditor.demand(same, "a snapshot tells what the records tell", lambda: f"{seen}, not {told}")

    def _loaded(self, image: RunImage) -> tuple[RunState, Step]:
        """What a run is after a load, and what it does first."""
        state, step = restore(WORKFLOW_ID, image), Step(now_unix_s=self.clock.now_unix_s)
        take_up(state, step)
        return state, step

    # -- clients -------------------------------------------------------------------------------------------------

    def _ask(self, operation: Operation, delay_s: float) -> None:
        """Ask until it is answered, as a client does: what was asked and not answered is asked again."""

        def again() -> None:
            if any(other is operation for other in self._answered):
                return
            if not any(other is operation for other, _ in self.shell.queue):
                self.shell.arrive(operation)
            self.clock.after(1.0, again)

        self.clock.after(delay_s, again)

    def _write_down(self, submit: Submit) -> bool:
        """The client writes the workflow down itself, and tells the executor, or dies before it does."""
        try:
            seq = submit_directly(self.disk, submit, "executor", "", self.clock.now_unix_s)
        except (CrashError, StorageFullError):
            # It is asked for again: by a client that does not know whether it is there.
            self.clock.after(5.0, self._look_again)
            return False
        if self.random.random() < 0.5:
            self.shell.arrive(Recover(seq=seq))
        else:
            self.clock.after(5.0, self._look_again)
        return True

    def _look_again(self) -> None:
        """The management actor has executors look for what is theirs and not in memory."""
        with self.disk.read() as transaction:
            for seq in store.held_by(transaction, "executor"):
                if seq not in self.shell.core.held:
                    self.shell.arrive(Recover(seq=seq))

    def hear(self, operations: list[Operation], outcomes: list[Outcome]) -> None:
        """Clients get their answers, and the alarm."""
        self._answer_timers(operations)
        for operation, outcome in zip(operations, outcomes, strict=True):
            if not isinstance(outcome, WorkflowNotFoundError):
                self._answered.append(operation)

    def _send_events(self) -> None:
        for stream, readers in self.program.readers.items():
            for serial in range(readers):
                value = large_event(stream, serial) if self.random.random() < 0.5 else event(stream, serial)
                about: dict[str, Any] = {"workflow_id": WORKFLOW_ID, "stream": stream, "value": value}
                post = Post(**about, dedupe_id=f"{stream[1]}/{serial}")
                if self._withholds and serial == readers - 1:
                    self._withheld.append(post)
                    continue
                delay = self.random.choice((0.01, self.random.uniform(0, 10)))
                self._ask(post, delay)
                if self.random.random() < 0.3:
                    # The sender never heard that it was taken, and sends it again.
                    self._ask(Post(**about, dedupe_id=post.dedupe_id), delay + 2)

    # -- messages ------------------------------------------------------------------------------------------------

    def carry(self, shell: Shell, signal: Signal, epoch: int) -> None:
        """Bring a signal to the incarnation that asked for it: late, out of order, perhaps twice."""
        seq = self.seq

        def deliver() -> None:
            if not shell.dead:
                shell.arrive(Deliver(seq=seq, signal=signal), epoch)

        self.clock.after(self.random.choice((0.0, 0.01, self.random.uniform(0, 0.5))), deliver)
        if self.random.random() < 0.15:
            self.clock.after(self.random.uniform(0, 3), deliver)

    def set_alarm(self, unix_s: float) -> None:
        """Look for due timers at a time, unless the alarm is set to an earlier one."""
        if not self.clock.now_unix_s < self._alarm_unix_s <= unix_s:
            self._alarm_unix_s = unix_s
            self.clock.at(unix_s, self.fire_timers)

    def fire_timers(self) -> None:
        """The alarm: wake what is due, set the alarm for what is next."""
        now = self.clock.now_unix_s
        with self.disk.read() as transaction:
            look = self._due_rows.look(transaction, now, now)
        for due_unix_s, seq, task in look.timers:
            self.shell.arrive(FireTimer(seq=seq, task=task, due_unix_s=due_unix_s))
        if look.again_unix_s is not None:
            self.set_alarm(max(look.again_unix_s, now + 0.01))

    def _new_due_rows(self) -> DueRows:
        """What a management actor that has just started knows of what is on its way."""
        random = self.random
        return DueRows(at_once=random.choice((1, 10)), most_out=random.choice((2, 50)), lost_after_s=5.0)

    def _answer_timers(self, operations: list[Operation]) -> None:
        fired = [(one.due_unix_s, one.seq, one.task) for one in operations if isinstance(one, FireTimer)]
        if fired:
            now = self.clock.now_unix_s
            with self.disk.read() as transaction:
                again_s = self._due_rows.timers_answered(transaction, fired, now)
            if again_s is not None:
                self.set_alarm(now + again_s)

    def obey(self, shell: Shell, batch: Batch) -> None:
        """Carry out what a batch asks for; the process may die in the middle of it."""
        stop_at = -1
        if self._crashes > 0 and batch.commands and self.random.random() < 0.05:
            self._crashes -= 1
            stop_at = self.random.randint(0, len(batch.commands))
        for seq in batch.lost:
            for fleet in shell.fleets.values():
                fleet.stopped = True
            self.auditor.demand(seq not in shell.core.held, "a lost run leaves memory")
        given_up = {(c.task, c.attempt) for _, c in batch.commands if isinstance(c, StopTask)}
        for position, (row, command) in enumerate(batch.commands):
            if isinstance(command, StartTask) and (command.task, command.attempt) in given_up:
                continue
            if position == stop_at:
                raise CrashError
            shell.carry_out(self.epoch_of(shell, row.seq), command)
        if stop_at == len(batch.commands):
            raise CrashError
        if batch.earliest_due_unix_s is not None:
            self.set_alarm(batch.earliest_due_unix_s)

    # -- mishaps -------------------------------------------------------------------------------------------------

    def _fate(self) -> Fate:
        if self._crashes <= 0 or self.random.random() > 0.15:
            return Fate.DONE
        self._crashes -= 1
        return self.random.choice((Fate.KILLED_BEFORE, Fate.KILLED_AFTER, Fate.FULL, Fate.KILLED_AFTER))

    def crash(self, shell: Shell) -> None:
        """The executor dies, or stops and is replaced; a new one takes its place after a while."""
        if self.random.random() < 0.3 and shell.core.held:
            shell.paused = True
            self._zombies.append(shell)
            self.clock.after(self.random.uniform(0.5, 8), lambda: self._wake_early(shell))
        else:
            shell.dead = True
            # Ray ends what it has started a moment later.
            linger_s = self.random.choice((0.0, self.random.uniform(0, 5)))
            for fleet in shell.fleets.values():
                self.clock.after(linger_s, fleet.end)
        self.clock.after(self.random.choice((0.0, self.random.uniform(0, 3))), self._start_anew)

    def _start_anew(self) -> None:
        shell = self.shell = Shell(self)
        with self.disk.read() as transaction:
            mine = store.held_by(transaction, "executor")
        for seq in mine:
            shell.arrive(Recover(seq=seq))
        if self.random.random() < 0.3:
            # The management actor died with it, or as well.
            self._due_rows = self._new_due_rows()
        self.set_alarm(self.clock.now_unix_s)

    def _wake_early(self, zombie: Shell) -> None:
        """One that was replaced goes on while its successor works, and may be asked for something."""
        held = zombie.core.held.get(self.seq)
        with self.disk.read() as transaction:
            replaced = held is not None and store.current_epoch(transaction, self.seq) > held.epoch
        if zombie not in self._zombies or not replaced or self.auditor.status != "RUNNING":
            return
        if self.random.random() < 0.5:
            self._zombies.remove(zombie)
            self._wake_zombie(zombie)
        elif not self._knows_processes:
            self._cancel_by(zombie)

    def _cancel_by(self, zombie: Shell) -> None:
        """It is asked to cancel what it held: that counts, and its successor may write no more."""
        self.cancels = True
        try:
            self.perform(zombie, [Cancel(workflow_id=WORKFLOW_ID)])
        except (CrashError, StorageFullError):
            return
        # Whatever it does next it hears of that.
        self.clock.after(self.random.uniform(0, 5), self.shell_hears_late)

    def shell_hears_late(self) -> None:
        """The executor looks at the workflow once more."""
        self.shell.arrive(Deliver(seq=self.seq, signal=EventReceived(stream=("", ""), number=0, value=None)), 0)

    def _wake_zombie(self, zombie: Shell) -> None:
        """It goes on where it stopped, with what has been sent to it meanwhile: nothing of it may be written."""
        operations: list[Operation] = [
            replace(operation, epoch=epoch) for operation, epoch in zombie.queue if isinstance(operation, Deliver)
        ]
        if self._knows_processes:
            operations.append(self.random.choice((Recover(seq=self.seq), Cancel(workflow_id=WORKFLOW_ID))))
        self.auditor.barred = True
        try:
            batch = self.perform(zombie, operations)
        except ExecutorReplacedError:
            batch = Batch()
        except (CrashError, StorageFullError):
            return
        finally:
            self.auditor.barred = False
        self.auditor.demand(not batch.commands, "a replaced executor starts nothing")
        zombie.dead = True
        for fleet in zombie.fleets.values():
            fleet.stopped = True


def _read(state: RunState) -> dict[int, bool]:
    """Which events live values carry, and whether somebody was given them."""
    return {number: event.read for number, event in state.carried.items()}


def _scopes(state: RunState, scope: int | None) -> list[int]:
    """A scope and those around it, from the inside."""
    around = []
    while scope is not None:
        around.append(scope)
        scope = state.outer_scope.get(scope)
    return around
