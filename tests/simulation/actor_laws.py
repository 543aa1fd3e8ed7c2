"""What holds of every virtual actor, checked after each commit from what is in the store, and at the end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from holdfast.actors.virtual.reminders import origin_of, reminder_call, repeats
from holdfast.engine.schedules import Overlap
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor_errors import CallCancelledError, CallWithdrawnError
from holdfast.engine.virtual_actor_records import Condition, FinishedCall, Outcome, status_of
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import actor_reminders, layout, leases
from holdfast.storage import actor_store as store
from holdfast.storage.actor_row import ActorRow, Reminder
from holdfast.storage.interface import KeyValueStore, ReadTransaction
from holdfast.storage.memory import Operation
from tests.simulation.actor_plans import load_state
from tests.simulation.schedule_laws import demand

_WATCHED = (b"va", b"vm", b"vc", b"vr")
_PILING = (Overlap.QUEUE, Overlap.ALLOW)


def _passed(was: Reminder, reminder: Reminder, now_unix_s: float) -> list[float]:
    """The times that a reminder is done with, of those that are to have calls: the last one if nothing else is said."""
    timing, due = Timing.from_json(reminder.timing), was.next_due_unix_s
    passed: list[float] = []
    while due < reminder.next_due_unix_s:
        passed.append(due)
        following = timing.next_after(due)
        assert following is not None
        due = following
    if reminder.catch_up_s is not None:
        return passed
    # The last one may be due still, and stands for those before it.
    return passed[-1:] if reminder.next_due_unix_s > now_unix_s else []


class ActorAuditor:
    """Compares what is in the store before and after each commit.

    Attributes:
        states: The state of each actor, as committed last.
        limit: Of each mailbox.
        ended: Calls that have ended, by nonce.
        told: Nonces of calls that somebody was told are accepted.
        cancelled: Nonces of calls that were cancelled, and whether they had gone on as a workflow before.
    """

    def __init__(self, limit: int) -> None:
        self.states: dict[int, list[str]] = {}
        self.limit = limit
        self.ended: dict[str, FinishedCall] = {}
        self.told: set[str] = set()
        self.cancelled: dict[str, bool] = {}
        self._gone_on: set[str] = set()
        self._over: set[tuple[int, int]] = set()
        self._numbers: dict[str, tuple[int, bool]] = {}
        self._last: dict[int, int] = defaultdict(lambda: -1)
        self._accepted: dict[int, set[int]] = defaultdict(set)
        self._reminders: dict[int, dict[str, Reminder]] = defaultdict(dict)

    # -- after each commit ---------------------------------------------------------------------------------------

    def on_commit(
        self, kv: KeyValueStore, writes: tuple[Operation, ...], host: str, epochs: dict[int, int], now_unix_s: float
    ) -> None:
        """A commit is durable.

        Args:
            kv: The store.
            writes: What was written.
            host: Who wrote.
            epochs: Under which lease it holds each actor.
            now_unix_s: The time.
        """
        changed = {layout.unpack(key[2:10]) for key, _ in writes if key[:2] in _WATCHED}
        moved = {layout.unpack(key[2:10]) for key, value in writes if key[:2] == b"va" and value is not None}
        if not changed:
            return
        with kv.read() as txn:
            for seq in changed:
                row = store.get(txn, seq)
                if row is None:
                    continue
                self._check_calls(txn, row, writes)
                self._check_state(txn, row)
                self._check_rows(txn, row)
                self._check_reminders(txn, row, now_unix_s)
                if seq in moved and seq in epochs:
                    right = leases.holder(txn, seq) == host and leases.current_epoch(txn, seq) == epochs[seq]
                    demand(right, "only who has the lease commits", f"{host} under {epochs[seq]}")

    def _check_calls(self, txn: ReadTransaction, row: ActorRow, writes: tuple[Operation, ...]) -> None:
        for key, value in writes:
            if key[:10] != layout.ended_call(row.seq) or value is None:
                continue
            call = store.get_call(txn, row.seq, layout.last_part(key))
            assert isinstance(call, FinishedCall)
            demand(call.nonce not in self.ended, "a call ends once", call.nonce)
            self.ended[call.nonce] = call
            self._over.add((row.seq, call.number))
            if isinstance(call.outcome.error, CallCancelledError):
                self.cancelled[call.nonce] = call.nonce in self._gone_on
            self._numbers[call.nonce] = (call.number, False)
            self._accepted[row.seq].discard(call.number)
        queued = store.load_calls(txn, row.seq)
        for one in queued:
            demand(one.spec.nonce not in self.ended, "what has ended is in no mailbox", one.spec.nonce)
            self._numbers[one.spec.nonce] = (one.number, one.spec.inside is not None)
            self._accepted[row.seq].add(one.number)
            if one.continues is not None:
                self._gone_on.add(one.spec.nonce)
        lost = self._accepted[row.seq] - {one.number for one in queued}
        demand(not lost, "what was accepted is in the mailbox until it ends", f"{lost}")
        demand(len(queued) <= self.limit, "a mailbox keeps its limit", f"{len(queued)}")

    def _check_state(self, txn: ReadTransaction, row: ActorRow) -> None:
        was, marks = self.states.get(row.seq, []), load_state(row.standing.state)
        demand(marks[: len(was)] == was, "nothing that was committed is undone", f"{marks}, not after {was}")
        demand(len(set(marks)) == len(marks), "each call takes effect once", f"{marks}")
        demand(row.standing.version == len(marks), "the state is the fold of its calls", f"{row.standing.version}")
        for mark in marks[len(was) :]:
            if mark not in self._numbers:
                demand(False, "what takes effect is known as a call", mark)
            number, _ = self._numbers[mark]
            inner = len(mark) == 10
            if not inner:
                demand(number > self._last[row.seq], "calls take effect in the order of acceptance", f"{marks}")
                self._last[row.seq] = number
        self.states[row.seq] = marks

    def _check_rows(self, txn: ReadTransaction, row: ActorRow) -> None:
        queued = store.load_calls(txn, row.seq)
        listed = store.status(txn, row.seq)
        demand(listed is status_of(row.standing, calls=bool(queued)), "the status is what the rows say", f"{listed}")
        sound = row.standing.condition is Condition.SOUND
        if queued and sound and queued[0].due_unix_s is None:
            held = row.seq in leases.held_by(txn, leases.holder(txn, row.seq))
            demand(held, "somebody is to take up what has work", f"{row.actor_id}")
        if queued and queued[0].due_unix_s is not None:
            due = txn.get(layout.actor_due(queued[0].due_unix_s, row.seq)) is not None
            demand(due, "a call that is tried again has a time", queued[0].name)
        for reminder in actor_reminders.list_reminders(txn, row.seq):
            due = txn.get(layout.actor_due(reminder.look_unix_s, row.seq, reminder.name)) is not None
            demand(due, "a reminder has a time", reminder.name)

    def _check_reminders(self, txn: ReadTransaction, row: ActorRow, now_unix_s: float) -> None:
        queued = store.load_calls(txn, row.seq)
        known = self._reminders.pop(row.seq, {})
        for reminder in actor_reminders.list_reminders(txn, row.seq):
            self._reminders[row.seq][reminder.name] = reminder
            ours = [call for call in queued if call.spec.origin == origin_of(reminder)]
            if repeats(reminder) and reminder.overlap not in _PILING:
                # The first one of the mailbox may be the one that runs.
                waiting = [call for call in ours if call.number != queued[0].number]
                demand(len(waiting) <= 1, "one call of a reminder waits at most", f"{len(waiting)}")
            was = known.get(reminder.name)
            if was is None or was.nonce != reminder.nonce:
                continue
            for due in _passed(was, reminder, now_unix_s):
                nonce = reminder_call(row.seq, replace(reminder, next_due_unix_s=due)).nonce
                called = nonce in self.ended or any(call.spec.nonce == nonce for call in ours)
                stands_in = reminder.overlap not in _PILING and bool(ours)
                demand(called or stands_in, "no time of a reminder is lost", f"{due} of {reminder.name}")

    # -- what people are told ------------------------------------------------------------------------------------

    def on_read(self, seq: int, marks: list[str], version: int) -> None:
        """A reader got a state."""
        committed = self.states.get(seq, [])
        demand(marks == committed[: len(marks)], "a reader sees a committed state", f"{marks}, not of {committed}")
        demand(version == len(marks), "a reader sees no torn state", f"{version} with {marks}")

    def on_outcome(self, seq: int, nonce: str, outcome: Outcome, *, final: bool) -> None:
        """A caller was told how its call ended."""
        if not final:
            return
        if isinstance(outcome.error, CallCancelledError) and len(nonce) == 8:
            demand(nonce in self.cancelled, "whoever hears that a call was cancelled hears the truth", nonce)
        if outcome.value is None or outcome.value.caught:
            return
        demand(nonce in self.states.get(seq, []), "a value is told when it is durable", nonce)
        call = self.ended.get(nonce)
        demand(call is not None and call.outcome == outcome, "everybody is told the same", nonce)

    def on_cancelled(self, seq: int, number: int) -> None:
        """Somebody was told that a call has been cancelled, just now."""
        demand((seq, number) in self._over, "what was cancelled is over", f"call {number}")

    def on_events(self, nonces: list[str]) -> None:
        """Events of one actor have all been calls.

        Args:
            nonces: Of these calls, in the order of the events.
        """
        for marks in self.states.values():
            called = [mark for mark in marks if mark in nonces]
            wanted = [nonce for nonce in nonces if nonce in called]
            demand(called == wanted, "events call in their order", f"{called}, not {wanted}")

    # -- the end -------------------------------------------------------------------------------------------------

    def on_end(self, kv: KeyValueStore, effects: dict[str, bool], seqs: set[int]) -> None:
        """All has come to rest.

        Args:
            kv: The store.
            effects: For each call that was accepted: whether it has to have taken effect.
            seqs: The actors.
        """
        with kv.read() as txn:
            for seq in seqs:
                queued = store.load_calls(txn, seq)
                demand(not queued, "all that is accepted ends", f"{[call.name for call in queued]}")
                demand(store.status(txn, seq) is not WorkflowStatus.RUNNING, "what rests is not listed as working")
        everywhere = {mark for marks in self.states.values() for mark in marks}
        for nonce in self.told:
            demand(nonce in self.ended, "nothing acknowledged is lost", nonce)
        for nonce, call in self.ended.items():
            expected = effects.get(nonce)
            if isinstance(call.outcome.error, CallWithdrawnError):
                expected = False
            if nonce in self.cancelled:
                # What it had committed when it went on stays; else it leaves nothing, whatever it did later.
                expected = self.cancelled[nonce]
            if expected is not None:
                demand((nonce in everywhere) is expected, "what takes effect is what should", f"{nonce} {call}")
