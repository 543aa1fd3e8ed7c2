"""A simulated machine with virtual actors: hosts that crash at any write, that disagree about whose an actor is, whose
requests come late, twice and out of order; callers, readers, sub-workflows, reminders and events.

The hosts are the real `ActorCore`; only what the Ray shell would do around it is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from random import Random

from holdfast.actors.virtual.forsaken import give_away
from holdfast.actors.virtual.operations import (
    AcceptCall,
    ActorBatch,
    ActorDone,
    ActorOperation,
    ActorOutcome,
    CallAccepted,
    CallFrom,
    CancelCall,
    ChangeReminder,
    CreateActor,
    DeleteActor,
    EndSubWorkflow,
    FireDue,
    OtherHost,
    RecoverActor,
    ResumeActor,
    SetReminder,
    SweepDeleted,
    WithdrawCall,
)
from holdfast.actors.virtual.reminders import reminder_call
from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.schedules import Overlap
from holdfast.engine.virtual_actor_errors import (
    CallOverError,
    MailboxFullError,
    VirtualActorError,
    VirtualActorQuarantinedError,
)
from holdfast.engine.virtual_actor_records import CallSpec, Condition
from holdfast.engine.virtual_actor_signals import (
    StartSubWorkflow,
    SubWorkflowEnded,
)
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import actor_reminders, event_store, subscriptions
from holdfast.storage import actor_store as store
from holdfast.storage.actor_row import ActorRow, ActorSpec
from holdfast.storage.event_store import IncomingEvent
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.memory import Operation
from holdfast.storage.payload import Payload
from holdfast.storage.subscriptions import Subscription
from tests.simulation.actor_hosts import Host, Reply
from tests.simulation.actor_laws import ActorAuditor
from tests.simulation.actor_plans import ERROR, Plan, load_state, make_plan, spec_of
from tests.simulation.clock import Clock
from tests.simulation.disk import Disk, Fate
from tests.simulation.schedule_laws import demand

START_UNIX_S = 1_800_000_000.0
HOSTS = ("one", "two", "apart")
MOST_HAPPENINGS = 4_000
SOURCE = "kafka/test/topic"


class Sub:
    """A sub-workflow, as the executors know it."""

    def __init__(self, nonce: str, fails: bool, mark: str) -> None:
        self.nonce, self.fails, self.mark = nonce, fails, mark
        self.ended = False


class ActorWorld:
    """Everything around a few actors.

    Args:
        random: Decides all that happens.

    Attributes:
        fewer_hosts: How often it comes about that a host does not come back.
        cancels: How often somebody cancels a call.
        reminders: How often an actor has one.
    """

    fewer_hosts = 0.15
    cancels = 0.08
    reminders = 0.25

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = Clock(random, START_UNIX_S)
        self.disk = Disk(self._fate, self._note_commit)
        self.limit = random.choice((2, 4, 1000))
        self.history = random.choice((1000, 1000, 1000, 2))
        self.suspends = random.random() < 0.3
        self.crashes = random.choice((0, 0, 1, 2, 4))
        self.auditor = ActorAuditor(self.limit)
        self.working: Host | None = None
        self.plans: dict[str, Plan] = {}
        self.effects: dict[str, bool] = {}
        self.subs: dict[str, Sub] = {}
        self.reminded: dict[str, str] = {}
        self.events: list[str] = []
        self.actors = [f"a{number}" for number in range(random.choice((1, 1, 2)))]
        self.spec = ActorSpec(class_name="C", mailbox_limit=self.limit, suspends=self.suspends)
        # Whom each host takes for the one that an actor belongs to.
        self.views = {name: dict.fromkeys(self.actors, (0, "one")) for name in HOSTS}
        self._moves = 0
        self.hosts = {name: Host(self, name) for name in HOSTS}
        self.gone = ""
        self._asking = 0
        self._marks = 0
        self._resumes = 0

    # -- hooks that the list of faults replaces ------------------------------------------------------------------

    def perform(self, host: Host, operations: list[ActorOperation]) -> ActorBatch:
        """Commit."""
        return host.core.perform(operations, self.clock.now_unix_s)

    # -- the course of things ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first call until nothing more happens.

        Raises:
            LawBrokenError: A law did not hold.
        """
        random = self.random
        for actor in self.actors:
            for _ in range(random.choice((1, 2, 3))):
                self._begin_caller(actor)
            if random.random() < self.reminders:
                self._set_reminder(actor)
            for _ in range(random.choice((0, 1, 3))):
                self.clock.after(random.uniform(0, 10), lambda actor=actor: self._read(actor))  # type: ignore[misc]
            for _ in range(random.choice((0, 0, 1, 3))):
                self.clock.after(random.uniform(0, 10), lambda actor=actor: self._move(actor))  # type: ignore[misc]
        if random.random() < 0.2:
            self._begin_events()
        if random.random() < self.fewer_hosts:
            # All belong to the one that will be gone, so that it leaves something behind.
            for view in self.views.values():
                view.update(dict.fromkeys(self.actors, (0, "two")))
            self.clock.after(random.uniform(0, 8), self._have_fewer_hosts)
        self._operate()
        happenings = 0
        while self.clock.step() or self._go_on():
            happenings += 1
            demand(happenings < MOST_HAPPENINGS, "all comes to rest", "it goes in circles")
        with self.disk.read() as txn:
            seqs = {seq for actor in self.actors if (seq := store.seq_of(txn, actor)) is not None}
        self.auditor.on_end(self.disk.store, self.effects, seqs)
        self._check_reminders()
        self.auditor.on_events(self.events)
        self._delete_all()

    def _operate(self) -> None:
        """Somebody looks now and then, as long as anybody calls."""
        self._resume_all()
        self._fire()
        with self.disk.read() as txn:
            events = bool(subscriptions.to_start(txn, 1, limit=1))
        if self._asking or events or not all(sub.ended for sub in self.subs.values()):
            self.clock.after(self.random.uniform(5, 20), self._operate)

    def _go_on(self) -> bool:
        """At rest: fire what is due, resume what is held up. False at the end."""
        with self.disk.read() as txn:
            due = actor_reminders.next_due(txn)
        if due is not None:
            self.clock.at(due + 0.001, self._fire)
            return True
        return self._resume_all()

    def _resume_all(self) -> bool:
        with self.disk.read() as txn:
            held_up = [
                row
                for actor in self.actors
                if (row := store.find(txn, actor)) is not None and row.standing.condition is not Condition.SOUND
            ]
        for row in held_up:
            self._resumes += 1
            demand(self._resumes < 300, "what is resumed goes on", f"{row.standing}")
            for plan in self.plans.values():
                # Somebody has mended it: what it does from now on is not what it would have done.
                if plan.raises or plan.options.timeout_s is not None:
                    self.effects.pop(plan.mark, None)
                plan.raises = plan.kills = 0
                plan.takes_s = min(plan.takes_s, 0.1)
            nonce = f"resume{self._resumes}"
            self._ask(row.actor_id, ResumeActor(actor_id=row.actor_id, nonce=nonce), lambda _: None)
        return bool(held_up)

    def _fire(self) -> None:
        with self.disk.read() as txn:
            due = actor_reminders.due_actors(txn, self.clock.now_unix_s, 10)
            rows = [store.get(txn, seq) for seq in due]
        for row in rows:
            assert row is not None
            for _ in range(self.random.choice((1, 1, 2))):
                self.hosts[self.random.choice(HOSTS[:2])].arrive(
                    FireDue(seq=row.seq), self._passed_on(FireDue(seq=row.seq))
                )

    def _passed_on(self, operation: ActorOperation) -> Reply:
        def reply(outcome: ActorOutcome) -> None:
            if isinstance(outcome, OtherHost):
                self.hosts[outcome.host].arrive(operation)

        return reply

    # -- placement -----------------------------------------------------------------------------------------------

    def place(self, host: str, row: ActorRow) -> str:
        """Where a host believes that an actor belongs. They may disagree; leases decide."""
        return "apart" if row.suspected else self.views[host][row.actor_id][1]

    def _move(self, actor: str) -> None:
        """The hosts change: each learns of it in its time."""
        self._moves += 1
        news = (self._moves, self.random.choice(HOSTS[:2]) if not self.gone else "one")

        def learn(name: str) -> None:
            self.views[name][actor] = max(news, self.views[name][actor])

        for name in HOSTS:
            self.clock.after(self.random.uniform(0, 5), partial(learn, name))

    # -- clients -------------------------------------------------------------------------------------------------

    def _mark(self) -> str:
        self._marks += 1
        return f"{self._marks:08x}"

    def plan_of(self, spec: CallSpec) -> Plan:
        """What a call does: the same for each attempt of it."""
        plan = self.plans.get(spec.nonce)
        if plan is None:
            plan = self.plans[spec.nonce] = Plan(mark=spec.nonce)
        return plan

    def _ask(self, actor: str, operation: ActorOperation, hear: Reply, delay_s: float = 0.0) -> None:
        """Ask until there is an answer, wherever it is to be had; now and then the request comes once more, late."""
        answered = False
        self._asking += 1
        target = self.random.choice(HOSTS[:2])

        def reply(outcome: ActorOutcome) -> None:
            nonlocal answered, target
            if isinstance(outcome, OtherHost):
                target = outcome.host
                if not answered:
                    self.clock.after(0.05, send)
                return
            if answered:
                return
            if isinstance(outcome, MailboxFullError):
                demand(self.limit < 1000, "a mailbox is full at its limit")
                return
            answered = True
            self._asking -= 1
            hear(outcome)
            if self.random.random() < 0.15:
                self.clock.after(self.random.uniform(0, 20), send)

        def send() -> None:
            host = self.hosts[target]
            self.clock.after(
                self.random.choice((0.0, 0.01, self.random.uniform(0, 1))), lambda: host.arrive(operation, reply)
            )

        def again() -> None:
            nonlocal target
            if answered:
                return
            if self.random.random() < 0.3 or target == self.gone:
                # Who asks one that is gone is told so. (Marks are kept for a while only: nobody asks for so long.)
                target = "one" if self.gone else self.random.choice(HOSTS[:2])
            send()
            self.clock.after(self.random.uniform(2, 6), again)

        self.clock.after(delay_s, again)

    def _begin_caller(self, actor: str) -> None:
        random = self.random
        create = CallSpec(method="__init__", nonce=self._mark(), creates=True)
        asked = CreateActor(actor_id=actor, spec=self.spec, call=create)
        calls = random.choice((1, 2, 3, 5))

        def go_on(outcome: ActorOutcome) -> None:
            nonlocal calls
            demand(
                not isinstance(outcome, Exception) or isinstance(outcome, VirtualActorQuarantinedError),
                "nothing is refused without a reason",
                f"{outcome!r}",
            )
            calls -= 1
            if calls < 0:
                return
            self._call(actor, go_on)

        self._ask(actor, asked, go_on, random.uniform(0, 2))

    def _call(self, actor: str, hear: Reply) -> None:
        """One call of a caller, which goes on when it hears of it."""
        random, mark = self.random, self._mark()
        plan = self.plans[mark] = make_plan(random, mark)
        if not self.suspends:
            # One that catches its error ends without an effect, too.
            self.effects[mark] = plan.succeeds and plan.options.timeout_s is None
            if plan.options.timeout_s is not None:
                self.effects[mark] = plan.takes_s <= plan.options.timeout_s
        key = f"key{mark}" if random.random() < 0.2 else ""
        logged = random.random() < 0.5
        spec = spec_of(plan, key=key)
        accept = AcceptCall(actor_id=actor, call=spec, logged=logged)

        def told(outcome: ActorOutcome) -> None:
            if isinstance(outcome, CallAccepted):
                if logged:
                    self.auditor.told.add(mark)
                if outcome.outcome is not None:
                    final = not isinstance(outcome.outcome.error, VirtualActorQuarantinedError)
                    if outcome.outcome.error is None:
                        self.auditor.on_outcome(outcome.seq, mark, outcome.outcome, final=final)
            if key and random.random() < 0.5:
                # The same again, by another request.
                again = spec_of(plan, key=key, nonce=mark + "ff")
                self.plans[again.nonce] = Plan(mark="must not run")
                if isinstance(outcome, CallAccepted):
                    self.effects[again.nonce] = False
                    self._ask(actor, AcceptCall(actor_id=actor, call=again, logged=logged), lambda _: None)
            hear(outcome)

        self._ask(actor, accept, told, random.choice((0.0, 0.0, random.uniform(0, 2))))
        if random.random() < 0.05:
            self._ask(actor, WithdrawCall(actor_id=actor, mark=mark), lambda _: None, random.uniform(0, 3))
        if random.random() < self.cancels:
            self.clock.after(random.uniform(0, 4), lambda: self._cancel(actor, mark))

    def _cancel(self, actor: str, mark: str) -> None:
        """Somebody ends a call, by its name."""
        found = [
            call
            for host in self.hosts.values()
            for held in host.core.held.values()
            if (call := held.machine.find(mark)) is not None
        ]
        if not found:
            return

        def hear(outcome: ActorOutcome) -> None:
            if isinstance(outcome, ActorDone) and outcome.fresh:
                self.auditor.on_cancelled(outcome.seq, outcome.number)

        self._ask(actor, CancelCall(actor_id=actor, name=found[0].name), hear)

    def _read(self, actor: str) -> None:
        host = self.hosts[self.random.choice(HOSTS)]
        if host.dead:
            return
        try:
            found = host.core.read(actor)
        except VirtualActorError:
            return
        self.auditor.on_read(found.row.seq, load_state(found.standing.state), found.standing.version)
        if self.random.random() < 0.7:
            self.clock.after(self.random.uniform(0, 1), lambda: self._read(actor))

    # -- sub-workflows -------------------------------------------------------------------------------------------

    def start_sub(self, host: Host, row: ActorRow, command: StartSubWorkflow) -> None:
        """An executor is asked to submit a workflow, or to resume it, and its end is followed."""
        about, mark = command.sub, command.call.spec.nonce
        plan = self.plan_of(command.call.spec)
        demand(bool(about.request.graph.nodes), "what a call goes on with is kept", about.workflow_id)
        sub = self.subs.get(about.workflow_id)
        if sub is None:
            sub = self.subs[about.workflow_id] = Sub(about.nonce, plan.sub_fails, mark)
            self.clock.after(0.0, lambda: self._run_sub(sub, row, command.call.number, list(plan.parts)))
        demand(sub.nonce == about.nonce, "a sub-workflow is submitted once", about.workflow_id)
        demand(mark in self.auditor.states.get(row.seq, []), "what a call did is seen while it goes on", mark)
        if command.resumes and sub.ended and sub.fails:
            sub.fails, sub.ended = False, False
            self.clock.after(0.0, lambda: self._run_sub(sub, row, command.call.number, list(plan.parts)))
        self._follow(host, row.seq, about.workflow_id, sub)

    def _follow(self, host: Host, seq: int, workflow_id: str, sub: Sub) -> None:
        if host.dead:
            return
        if not sub.ended:
            self.clock.after(0.3, lambda: self._follow(host, seq, workflow_id, sub))
            return
        error = ERROR if sub.fails else None
        signal = SubWorkflowEnded(workflow_id=workflow_id, value=Payload(b"0"), error=error, said="it failed")
        for _ in range(self.random.choice((1, 1, 2))):
            host.arrive(EndSubWorkflow(seq=seq, signal=signal))

    def _run_sub(self, sub: Sub, row: ActorRow, number: int, parts: list[str]) -> None:
        """The tasks of the sub-workflow: those that call the actor itself, one after the other."""
        if sub.mark in self.auditor.cancelled:
            # It is cancelled with its call.
            sub.ended = True
            return
        if not parts:
            self.clock.after(self.random.uniform(0, 3), lambda: setattr(sub, "ended", True))
            return
        mark = parts.pop(0)
        plan = self.plans.setdefault(mark, make_plan(self.random, mark, inner=True))
        plan.raises = plan.raises and 1
        asked = AcceptCall(actor_id=row.actor_id, call=spec_of(plan, inside=number), logged=False)

        def hear(outcome: ActorOutcome) -> None:
            if sub.mark in self.auditor.cancelled:
                sub.ended = True
                return
            over = isinstance(outcome, CallOverError) or (
                isinstance(outcome, CallAccepted)
                and outcome.outcome is not None
                and isinstance(outcome.outcome.error, CallOverError)
            )
            demand(not over, "a part of a call runs before it is over", mark)
            failed = isinstance(outcome, Exception)
            if isinstance(outcome, CallAccepted) and outcome.outcome is not None and outcome.outcome.error is not None:
                failed = True
            if failed:
                # The task tries again.
                plan.raises = 0
                parts.insert(0, mark)
                self._resume_all()
                self.clock.after(5.0, lambda: self._run_sub(sub, row, number, parts))
                return
            self._run_sub(sub, row, number, parts)

        self._ask(row.actor_id, asked, hear)

    # -- reminders and events ------------------------------------------------------------------------------------

    def _set_reminder(self, actor: str) -> None:
        random, nonce = self.random, self._mark()
        repeats = random.random() < 0.5
        timing = Timing.of(every_s=10) if repeats else None
        after_s = None if repeats else 7.0
        # Most as it is when nothing is said.
        overlap, back_s = Overlap.SKIP, random.choice((None, None, 1e6))
        if random.random() < 0.4:
            overlap, back_s = random.choice(((Overlap.QUEUE, 1e6), (Overlap.QUEUE, None), (Overlap.REPLACE, None)))
        change = SetReminder(
            name="r", method="m", nonce=nonce, timing=timing, after_s=after_s, overlap=overlap, catch_up_s=back_s
        )
        last = START_UNIX_S + random.uniform(20, 60)

        def hear(outcome: ActorOutcome) -> None:
            if isinstance(outcome, VirtualActorError):
                self.clock.after(2.0, ask)
                return
            self.reminded[actor] = nonce
            # Nothing ends otherwise.
            self.clock.at(last, lambda: self._cancel_reminder(actor))

        def ask() -> None:
            self._ask(actor, ChangeReminder(actor_id=actor, change=change), hear)

        self.clock.after(random.uniform(0, 3), ask)
        self._ring()

    def _ring(self) -> None:
        self._fire()
        if self.clock.now_unix_s < START_UNIX_S + 70:
            self.clock.after(self.random.choice((0.5, 2.0, self.random.uniform(0, 30))), self._ring)

    def _cancel_reminder(self, actor: str) -> None:
        with self.disk.store.write() as txn:
            self._drop_reminder(txn, actor)

    def _drop_reminder(self, txn: WriteTransaction, actor: str) -> None:
        seq = store.seq_of(txn, actor)
        assert seq is not None
        reminder = actor_reminders.find(txn, seq, "r")
        if reminder is None:
            return
        self.reminded_until = reminder.next_due_unix_s
        expected = reminder.fired
        made = [call for call in self.auditor.ended.values() if call.origin == "reminder r"]
        made_queued = [call for call in store.load_calls(txn, seq) if call.spec.origin == "reminder r"]
        ours = {call.nonce for call in made} | {call.spec.nonce for call in made_queued}
        due, wanted = reminder.created_unix_s, set()
        timing = Timing.from_json(reminder.timing)
        while (found := timing.next_after(due)) is not None and found < reminder.next_due_unix_s:
            due = found
            wanted.add(reminder_call(seq, replace(reminder, next_due_unix_s=due)).nonce)
        demand(len(wanted & ours) == expected, "a reminder counts its calls", f"{expected}, not {len(wanted & ours)}")
        if reminder.overlap is Overlap.QUEUE and reminder.catch_up_s is not None:
            demand(wanted <= ours, "each due time is one call", f"{len(wanted)}, not {len(ours)}")
        actor_reminders.drop(txn, seq, reminder)

    def _check_reminders(self) -> None:
        for call in self.auditor.ended.values():
            if call.origin == "reminder r":
                demand(call.ended_unix_s >= START_UNIX_S + 7, "no reminder calls early", f"{call.ended_unix_s}")

    def _begin_events(self) -> None:
        rule = Subscription(
            name="rule",
            source=SOURCE,
            selector="all",
            graph=Graph(nodes=(NodeSpec(task_id="m"),), sink=0),
            actor=self.spec,
        )
        random, actor = self.random, self.actors[0]
        with self.disk.store.write() as txn:
            kept, _ = subscriptions.subscribe(txn, rule, START_UNIX_S)
        count = random.choice((1, 3, 5))

        def ingest(number: int) -> None:
            event = IncomingEvent(key=None, value=b"{}", time_unix_s=self.clock.now_unix_s, dedupe_id=f"{number}")
            with self.disk.store.write() as txn:
                known = event_store.positions(txn, SOURCE).get("0")
                # Whoever says whose it is may not have said it in time.
                addresses = {(kept.number, event.dedupe_id): actor} if random.random() < 0.7 else {}
                now = self.clock.now_unix_s
                event_store.ingest(
                    txn, SOURCE, [event], moves={"0": (known, number)}, now_unix_s=now, addresses=addresses
                )
            start()

        def start() -> None:
            with self.disk.read() as txn:
                waiting = subscriptions.to_start(txn, kept.number, limit=10)
            if not waiting:
                return
            if random.random() < 0.05:
                # It may be held up, when nobody else calls any more.
                self._resume_all()
            target = self.hosts[random.choice(HOSTS[:2])]
            for before, number in pairwise((0, *(one.event.number for one in waiting))):
                asked = CallFrom(subscription=kept.number, event=number, actor_id=actor, after=before)
                # Not always together: of a batch that is not committed each is tried by itself.
                late = random.choice((0.0, 0.0, random.uniform(0, 1)))
                self.clock.after(late, partial(target.arrive, asked, self._passed_on(asked)))
            self.clock.after(random.uniform(0.5, 5), start)

        self.events = [subscriptions.submission_nonce(kept.number, number + 1) for number in range(count)]
        for number in range(count):
            self.effects[subscriptions.submission_nonce(kept.number, number + 1)] = True
            self.auditor.told.add(subscriptions.submission_nonce(kept.number, number + 1))
            self.clock.after(random.uniform(0, 10) + number, lambda number=number: ingest(number))  # type: ignore[misc]

    # -- the end -------------------------------------------------------------------------------------------------

    def _delete_all(self) -> None:
        self.crashes = 0
        for actor in self.actors:
            self._ask(actor, DeleteActor(actor_id=actor, nonce=self._mark()), lambda _: None)
        while self.clock.step():
            pass
        with self.disk.store.write() as txn:
            while store.sweep_deleted(txn, 3).more:
                pass
        with self.disk.read() as txn:
            left = [key for key, _ in txn.scan(b"v")] + [key for key, _ in txn.scan(b"i")]
        demand(not left, "nothing is left of what was deleted", f"{left}")

    # -- mishaps -------------------------------------------------------------------------------------------------

    def obey(self, host: Host, batch: ActorBatch) -> None:
        """Carry out what a batch asks for, in any order."""
        for seq in batch.lost:
            host.lose(seq)
        for row, epoch, command in batch.commands:
            host.carry_out(row, epoch, command)
        for other, seq in batch.elsewhere:
            if self.random.random() < 0.7:
                self.hosts[other].arrive(RecoverActor(seq=seq))
            else:
                # The message is lost; who has it given finds it when it looks.
                self.clock.after(5.0, lambda other=other: self.hosts[other].recover())  # type: ignore[misc]
        if batch.sweep:
            host.arrive(SweepDeleted())
        if batch.earliest_due_unix_s is not None:
            self.clock.at(batch.earliest_due_unix_s + 0.001, self._fire)

    def crash(self, host: Host) -> None:
        """A host is killed, and comes back."""
        host.dead = True
        died = {seq: mark for (seq, _, _), mark in host.running.items()}

        def come_back() -> None:
            if host.name == self.gone:
                return
            new = self.hosts[host.name] = Host(self, host.name)
            for seq in died:
                new.arrive(RecoverActor(seq=seq, died_in="m"))
            new.recover()
            # What died may not have told the others what it had given them: they look now and then.
            for other in self.hosts.values():
                self.clock.after(self.random.uniform(0, 3), other.recover)

        self.clock.after(self.random.uniform(0, 5), come_back)

    def _have_fewer_hosts(self) -> None:
        """The platform is started anew with one host less, and somebody sees what that one was to take up."""
        self.gone = "two"
        for actor in self.actors:
            self._moves += 1
            for name in HOSTS:
                self.views[name][actor] = (self._moves + 1_000, "one")
        for host in list(self.hosts.values()):
            if not host.dead:
                self.crash(host)

        def look() -> None:
            self.hosts["one"].recover()

        def see() -> None:
            with self.disk.store.write() as txn:
                self.give_away(txn)
            # No message says so: who has been given something finds it when it looks.
            self.clock.after(5.0, look)

        self.clock.after(self.random.uniform(0, 10), see)

    def give_away(self, txn: WriteTransaction) -> None:
        """Give what a host that is gone had to those there are."""
        give_away(txn, [self.gone], lambda row: self.place("one", row))

    def _fate(self) -> Fate:
        if self.working is None or self.crashes <= 0 or self.random.random() > 0.12:
            return Fate.DONE
        self.crashes -= 1
        return self.random.choice((Fate.KILLED_BEFORE, Fate.KILLED_AFTER, Fate.FULL, Fate.KILLED_AFTER))

    def _note_commit(self, writes: tuple[Operation, ...]) -> None:
        host = self.working
        name = "" if host is None else host.name
        epochs = {} if host is None else {seq: held.epoch for seq, held in host.core.held.items()}
        self.auditor.on_commit(self.disk.store, writes, name, epochs, self.clock.now_unix_s)


MakeActorWorld = Callable[[Random], ActorWorld]
