"""One incarnation of a simulated host of virtual actors: what the Ray shell does around the core, and the methods.

What a method does is a plan's; whatever happens outside of the host is the world's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.actors.virtual.core import ActorCore
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorOperation,
    ActorOutcome,
    CallAccepted,
    EndAttempt,
    KeepCall,
    RecoverActor,
)
from holdfast.engine.errors import StorageFullError
from holdfast.engine.virtual_actor_signals import (
    AnswerCall,
    MethodContinued,
    MethodRaised,
    MethodReturned,
    RunMethod,
    StartSubWorkflow,
    StopMethod,
    TimeoutReached,
)
from holdfast.storage.actor_row import ActorRow
from tests.simulation.actor_plans import ERROR, dump_state, load_state, sub_request, value_of
from tests.simulation.disk import CrashError
from tests.simulation.schedule_laws import demand
from tests.simulation.user_code import is_told

if TYPE_CHECKING:
    from tests.simulation.actor_world import ActorWorld

Reply = Callable[[ActorOutcome], None]


class Host:
    """One incarnation of a host."""

    def __init__(self, world: ActorWorld, name: str) -> None:
        self.world, self.name = world, name
        self.core = ActorCore(world.disk, name, lambda row: world.place(name, row), history=world.history)
        self.dead = False
        self.running: dict[tuple[int, int, int], str] = {}
        self._queue: list[tuple[ActorOperation, Reply]] = []
        self._waiting: dict[tuple[int, int], list[Reply]] = {}
        self._asked_to_work = False

    # -- messages ------------------------------------------------------------------------------------------------

    def arrive(self, operation: ActorOperation, reply: Reply = lambda outcome: None) -> None:
        """Take an operation in; all that has arrived when the host comes to it is one batch."""
        if self.dead:
            return
        self._queue.append((operation, reply))
        if not self._asked_to_work:
            self._asked_to_work = True
            self.world.clock.after(self.world.random.choice((0.0, 0.0, 0.001, 0.05)), self._work)

    def _work(self) -> None:
        self._asked_to_work = False
        if self.dead or not self._queue:
            return
        taken, self._queue = self._queue, []
        world = self.world
        world.working = self
        try:
            batch = world.perform(self, [operation for operation, _ in taken])
        except CrashError:
            world.crash(self)
            return
        except StorageFullError:
            # Who asked hears nothing, and asks again.
            for seq in self.core.dropped:
                self._forget_waiting(seq)
            world.clock.after(0.5, self.recover)
            return
        finally:
            world.working = None
        for (operation, reply), outcome in zip(taken, batch.outcomes, strict=True):
            self._answer(operation, reply, outcome)
        world.obey(self, batch)
        if world.random.random() < 0.2:
            self.core.put_away(
                world.clock.now_unix_s - world.random.choice((0.0, 1.0)), most=world.random.choice((0, 9))
            )

    def _answer(self, operation: ActorOperation, reply: Reply, outcome: ActorOutcome) -> None:
        waits = isinstance(operation, AcceptCall) and not operation.logged
        if waits and isinstance(outcome, CallAccepted) and outcome.outcome is None:
            assert isinstance(operation, AcceptCall)
            waiting = self._waiting.setdefault((outcome.seq, outcome.number), [])
            waiting.append(reply)
            return
        reply(outcome)

    def _forget_waiting(self, seq: int) -> None:
        for key in [key for key in self._waiting if key[0] == seq]:
            del self._waiting[key]

    def recover(self) -> None:
        """Take up what has work, as a host does that has just started."""
        if self.dead:
            return
        for seq in self.core.not_taken_up():
            self.arrive(RecoverActor(seq=seq))

    # -- commands ------------------------------------------------------------------------------------------------

    def carry_out(self, row: ActorRow, epoch: int, command: Any) -> None:
        """Do one command."""
        match command:
            case RunMethod():
                self._run(row, epoch, command)
            case StopMethod():
                if self.world.random.random() < 0.5:
                    self.running.pop((row.seq, epoch, command.attempt), None)
            case StartSubWorkflow():
                self.world.start_sub(self, row, command)
            case AnswerCall():
                self.world.auditor.on_outcome(row.seq, command.nonce, command.outcome, final=command.final)
                for reply in self._waiting.pop((row.seq, command.number), ()):
                    accepted = CallAccepted(seq=row.seq, number=command.number, name="", outcome=command.outcome)
                    reply(accepted)

    def lose(self, seq: int) -> None:
        """Another host has it: who waits here hears nothing, and asks again."""
        self._forget_waiting(seq)

    def _run(self, row: ActorRow, epoch: int, command: RunMethod) -> None:
        world, attempt = self.world, (row.seq, epoch, command.attempt)
        plan = world.plan_of(command.call.spec)
        self.running[attempt] = plan.mark
        state = load_state(command.state)
        demand(len(state) == command.version, "a method runs on the state of its version", f"{state}")
        begun = world.clock.now_unix_s

        def end() -> None:
            if self.dead or attempt not in self.running:
                return
            if plan.kills > 0:
                plan.kills -= 1
                world.crash(self)
                return
            del self.running[attempt]
            times: dict[str, Any] = {"number": command.call.number, "attempt": command.attempt}
            times |= {"started_unix_s": begun, "ended_unix_s": world.clock.now_unix_s}
            after = [*state, command.call.spec.nonce]
            signal: Any
            if command.call.errors < plan.raises and not command.call.spec.creates:
                if not is_told(command.call.number + command.attempt):
                    # Its thread has ended, and nobody is told.
                    return
                signal = MethodRaised(**times, error=ERROR, said="an error")
            elif plan.continues:
                signal = MethodContinued(**times, state=dump_state(after), request=sub_request(plan))
            else:
                signal = MethodReturned(**times, state=dump_state(after), value=value_of(after))
            self._report(EndAttempt(seq=row.seq, epoch=epoch, signal=signal))

        timeout_s = command.call.spec.options.timeout_s
        if timeout_s is not None and plan.takes_s > timeout_s:
            times = {"number": command.call.number, "attempt": command.attempt}
            late = EndAttempt(seq=row.seq, epoch=epoch, signal=TimeoutReached(**times))
            world.clock.after(timeout_s, lambda: self._report(late))
        world.clock.after(plan.takes_s, end)
        if not command.call.logged and world.random.random() < 0.1:
            self.arrive(KeepCall(seq=row.seq, number=command.call.number))

    def _report(self, end: EndAttempt) -> None:
        self.arrive(end)
        if self.world.random.random() < 0.1:
            self.world.clock.after(self.world.random.uniform(0, 3), lambda: self.arrive(end))
