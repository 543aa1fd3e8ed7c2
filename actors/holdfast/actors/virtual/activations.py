"""The virtual actors that a host holds in memory: taken up under a lease, written, put away.

What belongs to one transaction (`begin`) is kept here too: which actors it touches, and the batch that comes of it.
What is to be done with an actor is decided elsewhere.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from holdfast.actors.refusal import Refusal
from holdfast.actors.virtual.operations import ActorBatch, OtherHost
from holdfast.engine.errors import StaleLeaseError, StorageCorruptError
from holdfast.engine.transitions import WorkflowStatus
from holdfast.engine.virtual_actor import ActorStep, VirtualActor
from holdfast.engine.virtual_actor_errors import (
    VirtualActorNotFoundError,
    VirtualActorNotInitializedError,
    VirtualActorQuarantinedError,
)
from holdfast.engine.virtual_actor_records import CallEnded, Condition, RetrySet, Standing
from holdfast.storage import actor_store as store
from holdfast.storage import leases
from holdfast.storage.actor_row import ActorRow
from holdfast.storage.interface import KeyValueStore, ReadTransaction, WriteTransaction

Place = Callable[[ActorRow], str]
"""Name of the host that an actor belongs to now: by its id, its class, and whether it is suspected."""

log = logging.getLogger("holdfast")


@dataclass(slots=True)
class Held:
    """An actor in memory, under the lease that lets its records be written.

    Attributes:
        row: As the transaction under way leaves it.
        committed: What readers get.
        epoch: Of the lease.
        listed, status: What the store has: whether this host is to take it up after a crash, and its status.
        used_unix_s: When something was last done with it.
    """

    row: ActorRow
    machine: VirtualActor
    epoch: int
    committed: Standing
    listed: bool
    status: WorkflowStatus
    used_unix_s: float


@dataclass(frozen=True, slots=True)
class Readable:
    """What a reader gets: an actor as it is committed."""

    row: ActorRow
    standing: Standing


class Activations:
    """The actors of one host.

    Args:
        kv: The store.
        name: The host's name, under which it holds leases.
        place: Says which host an actor belongs to.
        history: How many calls of an actor are kept that have ended.
    """

    def __init__(self, kv: KeyValueStore, name: str, place: Place, history: int) -> None:
        self.held: OrderedDict[int, Held] = OrderedDict()
        self.by_id: dict[str, int] = {}
        self.place = place
        self._kv, self._name, self._history = kv, name, history
        self.begin(0.0)

    def begin(self, now_unix_s: float) -> None:
        """A transaction begins."""
        self.now_unix_s = now_unix_s
        self.batch = ActorBatch()
        self.touched: dict[int, None] = {}
        self.reading: ReadTransaction | None = None
        self.working_on: int | None = None

    def committed(self) -> None:
        """It is durable: readers see what it wrote."""
        for seq in self.touched:
            held = self.held.get(seq)
            if held is not None:
                held.committed = held.row.standing
                held.used_unix_s = self.now_unix_s
                self.held.move_to_end(seq)

    def undone(self) -> list[int]:
        """It was not written: forget what it touched. Returns the numbers of these actors."""
        doubtful = dict(self.touched)
        if self.working_on is not None:
            doubtful[self.working_on] = None
        gone = [seq for seq in doubtful if seq in self.held]
        for seq in gone:
            self.drop(seq)
        return gone

    def read(self, actor_id: str) -> Readable:
        """An actor as it is committed, for its read-only methods. Any thread may ask.

        Raises:
            VirtualActorNotFoundError: There is none.
            VirtualActorNotInitializedError: Its constructor is not done.
            VirtualActorQuarantinedError: Its code is not run.
            StorageCorruptError: Its row is damaged.
        """
        held = self.held_by_id(actor_id)
        if held is not None:
            row, standing = held.row, held.committed
        else:
            with self._kv.read() as txn:
                found = store.find(txn, actor_id)
            if found is None:
                raise VirtualActorNotFoundError(actor_id, self._kv.url)
            row, standing = found, found.standing
        if standing.condition is Condition.QUARANTINED:
            if isinstance(standing.error, VirtualActorQuarantinedError):
                raise standing.error
            raise VirtualActorQuarantinedError(actor_id, row.spec.class_name, "", standing.deaths)
        if not standing.initialized:
            raise VirtualActorNotInitializedError(actor_id)
        return Readable(row, standing)

    def put_away(self, before_unix_s: float, most: int) -> list[int]:
        """Forget actors that nothing is lost by forgetting. Nothing is written: they are rows already.

        Args:
            before_unix_s: Those that nothing was done with since, in seconds since the epoch.
            most: How many may stay however short their rest has been, those used last.

        Returns:
            Numbers of those that left memory.
        """
        gone: list[int] = []
        surplus = len(self.held) - most
        for seq, held in list(self.held.items()):
            if held.used_unix_s >= before_unix_s and len(gone) >= surplus:
                break
            if held.machine.idle:
                self.drop(seq)
                gone.append(seq)
        return gone

    def held_by_id(self, actor_id: str) -> Held | None:
        """The actor of an id, if it is in memory."""
        seq = self.by_id.get(actor_id)
        return None if seq is None else self.held.get(seq)

    def find_or_none(self, txn: ReadTransaction, actor_id: str) -> ActorRow | None:
        """The actor of an id, in memory or stored. A damaged row refuses what is asked of it, and nothing else."""
        held = self.held_by_id(actor_id)
        if held is not None:
            return held.row
        try:
            return store.find(txn, actor_id)
        except StorageCorruptError as error:
            raise Refusal(error) from error

    def find(self, txn: ReadTransaction, actor_id: str) -> ActorRow:
        """As `find_or_none`; VirtualActorNotFoundError when there is none."""
        row = self.find_or_none(txn, actor_id)
        if row is None:
            raise VirtualActorNotFoundError(actor_id, self._kv.url)
        return row

    def get_or_none(self, txn: ReadTransaction, seq: int) -> ActorRow | None:
        """As `find_or_none`, by its number."""
        held = self.held.get(seq)
        if held is not None:
            return held.row
        try:
            return store.get(txn, seq)
        except StorageCorruptError as error:
            raise Refusal(error) from error

    def get(self, txn: ReadTransaction, seq: int) -> ActorRow:
        """As `find`, by its number."""
        row = self.get_or_none(txn, seq)
        if row is None:
            raise VirtualActorNotFoundError(f"number {seq}", self._kv.url)
        return row

    def is_mine(self, held: Held) -> bool:
        """Whether an actor at hand stays here. One that was run apart, and is not any more, moves when it rests."""
        return self.place(held.row) == self._name or not held.machine.idle

    def hold(self, txn: WriteTransaction, row: ActorRow) -> Held | OtherHost:
        """The actor in memory, taken up if it is not; or who has it.

        Args:
            txn: The caller's.
            row: As it is in memory, or in the store.
        """
        seq = row.seq
        remembered = seq in self.held
        held = self.take(txn, seq)
        if held is not None:
            if self.is_mine(held):
                return held
            self.show(txn, held)
            row = held.row
            self.drop(seq)
            # That one has nothing to do for it, and removes what it has left behind when it has rested there.
            self.batch.elsewhere.append((self.place(row), seq))
        elif remembered:
            # It has another lease now, and may have changed.
            row = self.get(txn, seq)
        place = self.place(row)
        return self.load(txn, row) if place == self._name else OtherHost(host=place)

    def take(self, txn: ReadTransaction, seq: int) -> Held | None:
        """The held actor, its lease checked in this transaction; None when it is not held, or not any more."""
        self.working_on = seq
        held = self.held.get(seq)
        if held is None or seq in self.touched:
            return held
        try:
            leases.check_lease(txn, seq, held.epoch, held.row.actor_id)
        except StaleLeaseError:
            self.lose(seq)
            return None
        self.touched[seq] = None
        return held

    def load(self, txn: WriteTransaction, row: ActorRow) -> Held:
        """Take an actor up, whoever had it before."""
        seq = row.seq
        self.working_on = seq
        epoch = leases.take_lease(txn, seq, self._name)
        calls = store.load_calls(txn, seq)
        machine, step = VirtualActor.load(
            row.actor_id, row.spec.terms, row.standing, calls, self.now_unix_s, partial(self._given_before, seq)
        )
        held = Held(row, machine, epoch, row.standing, True, store.status(txn, seq), self.now_unix_s)
        self.held[seq] = held
        self.by_id[row.actor_id] = seq
        self.touched[seq] = None
        self.write(txn, held, step)
        return held

    def _given_before(self, seq: int, name: str) -> bool:
        """Whether a call has this name. A machine asks while it takes a call, which it does in transactions only."""
        assert self.reading is not None
        return store.call_of_name(self.reading, seq, name) is not None

    def write(self, txn: WriteTransaction, held: Held, step: ActorStep) -> None:
        """Write what a step recorded, and keep its commands for after the commit."""
        if step.records:
            written = store.write_records(
                txn, held.row, step.records, now_unix_s=self.now_unix_s, history=self._history
            )
            held.row = written.row
            self.batch.freed.extend(written.freed)
            for record in step.records:
                if isinstance(record, RetrySet):
                    self.batch.note_due(record.due_unix_s)
                elif isinstance(record, CallEnded) and record.call.origin and record.call.outcome.error is not None:
                    # An event's, or a reminder's: nobody waits for what comes of it.
                    log.warning(
                        "a call has failed actor_id=%s call=%s origin=%s error=%s",
                        held.row.actor_id,
                        record.call.name,
                        record.call.origin,
                        held.row.standing.said,
                    )
        self.batch.commands.extend((held.row, held.epoch, command) for command in step.commands)

    def list_touched(self, txn: WriteTransaction) -> None:
        """Write what others see of all that this transaction touches."""
        for seq in self.touched:
            held = self.held.get(seq)
            if held is not None:
                self.show(txn, held)

    def note_due(self, due_unix_s: float | None) -> None:
        """Something is to be looked at, at this time."""
        if due_unix_s is not None:
            self.batch.note_due(due_unix_s)

    def show(self, txn: WriteTransaction, held: Held) -> None:
        """Write what others see of a machine: its status, and whether its host must take it up after a crash."""
        machine, seq = held.machine, held.row.seq
        if machine.status is not held.status:
            held.status = machine.status
            store.save_status(txn, seq, held.status)
        if machine.working is not held.listed:
            held.listed = machine.working
            if held.listed:
                leases.hold_again(txn, seq, self._name)
            else:
                leases.put_away(txn, seq, self._name)

    def lose(self, seq: int) -> None:
        """Another host has it: forget it, and have those told who wait here."""
        self.drop(seq)
        self.batch.lost.append(seq)

    def drop(self, seq: int) -> None:
        """Forget an actor."""
        held = self.held.pop(seq)
        if self.by_id.get(held.row.actor_id) == seq:
            del self.by_id[held.row.actor_id]
