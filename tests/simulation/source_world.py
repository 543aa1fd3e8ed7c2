"""A simulated source of events, read by a process that crashes, into workflows whose executors crash.

The log, its readers and the executor cores are the real ones; the broker, the
process that reads it, and what is said between processes are simulated: late,
twice, or not at all. A reader that was thought dead may come back and write.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from random import Random
from typing import Any

import orjson

from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.operations import (
    Accepted,
    Cancel,
    Delete,
    FireTimer,
    Operation,
    Recover,
    StartFrom,
    Submit,
    Subscribe,
    Wake,
)
from holdfast.engine.commands import StartTask
from holdfast.engine.errors import StorageFullError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec
from holdfast.engine.selectors import Selector
from holdfast.engine.timers import CLOCK_GRAIN_S
from holdfast.listeners import kafka_intake
from holdfast.storage import event_readers, event_store, layout, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.event_store import IncomingEvent, PositionMovedError, StoredEvent
from holdfast.storage.record_codec import open_frame
from holdfast.storage.subscriptions import Subscription
from tests.simulation.clock import Clock
from tests.simulation.disk import CrashError, Disk, Fate
from tests.simulation.generator import START_UNIX_S
from tests.simulation.laws import LawBrokenError

SOURCE = "kafka/default/simulated"
KEYS = (b"a", b"b")
MOST_S = 60.0
MAX_HAPPENINGS = 20_000


class Executor:
    """One executor: a core, what has arrived, and a successor when it dies."""

    def __init__(self, world: SourceWorld, name: str) -> None:
        self.world, self.name = world, name
        self.arrived: list[Operation] = []
        self._start()

    def _start(self) -> None:
        self.core = ExecutorCore(self.world.disk, self.name)
        with self.world.disk.read() as txn:
            self.arrived = [Recover(seq=seq) for seq in store.held_by(txn, self.name)]
        if self.arrived:
            self.world.soon(self.work)

    def arrive(self, operation: Operation) -> None:
        """Take an operation in."""
        self.arrived.append(operation)
        self.world.soon(self.work)

    def work(self) -> None:
        """Do what has arrived; what a crash or a full disk undid is asked again by whoever asked."""
        taken, self.arrived = self.arrived, []
        if not taken:
            return
        try:
            batch = self.core.perform(taken, self.world.clock.now_unix_s)
        except CrashError:
            self._start()
        except StorageFullError:
            with self.world.disk.read() as txn:
                held = store.held_by(txn, self.name)
            self.arrived.extend(Recover(seq=seq) for seq in held if seq not in self.core.held)
        else:
            self.world.heard(taken, batch.outcomes)
            for row, command in batch.commands:
                # Every task is a wait: nothing is to be run by a worker but the first task of a started workflow.
                waits = not isinstance(command, StartTask) or row.workflow_id.startswith("rule")
                self.world.demand(waits, "only waits run here", row.workflow_id)


class Reader:
    """One incarnation of the process that reads the source."""

    def __init__(self, world: SourceWorld) -> None:
        self.world = world
        self.gone = False
        self._seek()

    def _seek(self) -> None:
        with self.world.disk.read() as txn:
            known = event_store.positions(txn, SOURCE)
        self._positions: dict[str, Any] = {str(at): known.get(str(at)) for at in range(len(self.world.broker))}

    def read(self) -> None:
        """Read a batch and take it in, as this incarnation knows the positions."""
        world = self.world
        events: list[IncomingEvent] = []
        moves: dict[str, tuple[Any, Any]] = {}
        for partition, known in self._positions.items():
            at = 0 if known is None else known["offset"]
            fetched = world.broker[int(partition)][at : at + world.random.randint(0, 3)]
            if fetched:
                events.extend(fetched)
                moves[partition] = (known, {"offset": at + len(fetched)})
        if not events:
            return
        try:
            taken = world.ingest(events, moves)
        except PositionMovedError:
            self._seek()
            return
        self._positions.update({partition: new for partition, (_, new) in moves.items()})
        if world.random.random() < 0.6:
            world.wake(taken.wakes)

    def tell_again(self) -> None:
        """Tell of what is still to be told of: whoever was to may have died."""
        with self.world.disk.read() as txn:
            wakes = event_readers.pending_wakes(txn, 100)
            rules = subscriptions.list_subscriptions(txn)
            starts = [(rule, one) for rule in rules for one in subscriptions.to_start(txn, rule.number, limit=10)]
        self.world.wake(tuple(seq for _, seq in wakes))
        for rule, one in starts:
            workflow_id = f"{rule.name}-{one.event.dedupe_id}"
            operation = StartFrom(subscription=rule.number, event=one.event.number, workflow_id=workflow_id)
            for _ in range(self.world.random.choice((1, 1, 2))):
                self.world.send(self.world.executor_of(workflow_id), operation)


class SourceWorld:
    """A source with partitions, workflows that read it, and rules that start workflows.

    Args:
        random: Decides all that happens.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock = Clock(random, START_UNIX_S)
        self.disk = Disk(self._fate, self._on_commit)
        self.broker: list[list[IncomingEvent]] = [[] for _ in range(random.randint(1, 3))]
        self._crashes = random.choice((0, 2, 5, 10))
        self._asking: list[Operation] = []
        self._created: dict[str, set[int]] = {}
        self._offsets: dict[bytes, int] = {}
        self._graphs: dict[str, Graph] = {}
        self._zombies: list[Reader] = []
        self._count = 0
        self._ever: dict[int, StoredEvent] = {}
        self._expired: set[int] = set()
        self._expires = random.random() < 0.5
        self.executors = [Executor(self, f"executor-{at}") for at in range(random.choice((1, 2)))]
        with self.disk.store.write() as txn:
            event_store.need_source(txn, SOURCE, 0.0)
            if self._expires:
                event_store.set_retention(txn, SOURCE, age_s=random.choice((0.0, 1.0, 10.0)), nbytes=None)
        self.reader = Reader(self)

    def demand(self, holds: bool, law: str, detail: str = "") -> None:
        """Break off when a law does not hold."""
        if not holds:
            raise LawBrokenError(law, detail)

    # -- hook that the list of faults replaces ----------------------------------------------------------------------

    def ingest(self, events: list[IncomingEvent], moves: dict[str, tuple[Any, Any]]) -> event_store.Ingested:
        """Take a batch in."""
        with self.disk.write() as txn:
            return event_store.ingest(txn, SOURCE, events, moves=moves, now_unix_s=self.clock.now_unix_s)

    def expire(self) -> None:
        """Remove what has been kept long enough."""
        with self.disk.write() as txn:
            event_store.expire(txn, SOURCE, self.clock.now_unix_s, limit=self.random.choice((1, 1000)))

    # -- the course of things ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From nothing until nothing more happens.

        Raises:
            LawBrokenError: A law did not hold.
        """
        random = self.random
        for number in range(random.randint(1, 5)):
            self._ask(random.uniform(0, MOST_S), self._workflow(f"w{number}"))
        if random.random() < 0.6:
            self._ask(random.uniform(0, MOST_S / 2), self._rule("rule"))
        for _ in range(random.randint(3, 25)):
            self.clock.after(random.uniform(0, MOST_S), self._produce)
        for workflow_id in self._graphs:
            if random.random() < 0.15:
                self._ask(random.uniform(MOST_S / 2, MOST_S), Cancel(workflow_id=workflow_id))
        self._read_on()
        happenings = 0
        while self.clock.step():
            happenings += 1
            self.demand(happenings < MAX_HAPPENINGS, "all comes to rest", "it goes in circles")
        self._check_the_log()
        self._check_readers()
        self._check_starts()

    def soon(self, what: Any) -> None:
        """Do something a little later."""
        self.clock.after(self.random.choice((0.0, 0.01, 0.3)), what)

    def send(self, executor: Executor, operation: Operation) -> None:
        """Say something to an executor: late, or not at all."""
        if self.random.random() < 0.85:
            delay = self.random.choice((0.0, 0.1, self.random.uniform(0, 2)))
            self.clock.after(delay, lambda: executor.arrive(operation))

    def wake(self, seqs: tuple[int, ...]) -> None:
        """Tell executors of workflows for which there are events."""
        with self.disk.read() as txn:
            for name, seq in event_readers.executors_of(txn, seqs):
                self.send(next(e for e in self.executors if e.name == name), Wake(seq=seq))

    def executor_of(self, workflow_id: str) -> Executor:
        """The executor that a workflow belongs to."""
        return self.executors[sum(workflow_id.encode()) % len(self.executors)]

    def _read_on(self) -> None:
        """The reader's loop; it ends when there is nothing left to read or to tell."""
        reader, random = self.reader, self.random
        with self.disk.read() as txn:
            due = store.due_timers(txn, self.clock.now_unix_s, 10)
        for due_unix_s, seq, task in due:
            for executor in self.executors:
                executor.arrive(FireTimer(seq=seq, task=task, due_unix_s=due_unix_s))
        try:
            reader.read()
            if random.random() < 0.3 or self._nearly_over():
                reader.tell_again()
            if self._expires and random.random() < 0.3:
                self.expire()
            if self._zombies and random.random() < 0.3:
                self._zombies.pop().read()
            if random.random() < 0.05:
                # Thought dead, and replaced; it will write once more.
                self._zombies.append(reader)
                self.reader = Reader(self)
        except CrashError:
            self.reader = Reader(self)
        except StorageFullError:
            pass
        if not self._is_over():
            self.clock.after(random.uniform(0.1, 2), self._read_on)

    def _nearly_over(self) -> bool:
        return self.clock.now_unix_s > START_UNIX_S + MOST_S

    def _is_over(self) -> bool:
        if not self._nearly_over() or self._asking:
            return False
        with self.disk.read() as txn:
            known = event_store.positions(txn, SOURCE)
            read = all(
                known.get(str(at), {"offset": 0})["offset"] == len(messages) for at, messages in enumerate(self.broker)
            )
            told = not event_readers.pending_wakes(txn, 1)
            rules = subscriptions.list_subscriptions(txn)
            started = not any(subscriptions.to_start(txn, rule.number, limit=1) for rule in rules)
        return read and told and started

    def _produce(self) -> None:
        self._count += 1
        at = self.random.randrange(len(self.broker))
        messages = self.broker[at]
        messages.append(
            IncomingEvent(
                key=self.random.choice((*KEYS, None)),
                value=orjson.dumps({"n": self.random.randint(1, 3), "id": self._count}),
                time_unix_s=self.clock.now_unix_s,
                dedupe_id=kafka_intake.dedupe_id("topic", at, len(messages)),
            )
        )

    def _selector(self) -> Selector:
        choice = self.random.random()
        if choice < 0.4:
            return Selector(key=self.random.choice(KEYS))
        return Selector(where={"n": self.random.randint(1, 3)}) if choice < 0.7 else Selector()

    def _workflow(self, workflow_id: str) -> Submit:
        """Waits for events: one after the other, side by side, or some for a limited time only."""
        streams = [(SOURCE, self._selector().text) for _ in range(self.random.choice((1, 2)))]
        nodes: list[NodeSpec] = []
        for at in range(self.random.randint(1, 5)):
            chained = bool(at) and self.random.random() < 0.6
            stream = self.random.choice(streams)
            nodes.append(
                NodeSpec(
                    task_id=f"t{at}",
                    kind=NodeKind.EVENT,
                    stream=stream,
                    inputs=(at - 1,) if chained else (),
                    duration_s=self.random.uniform(0, MOST_S) if self.random.random() < 0.15 else None,
                )
            )
        every = tuple(range(len(nodes)))
        wait_s = self.random.choice((None, None, self.random.uniform(0, MOST_S)))
        nodes.append(
            NodeSpec(task_id="all", kind=NodeKind.WAIT, inputs=every, num_returns=len(every), duration_s=wait_s)
        )
        self._graphs[workflow_id] = graph = Graph(nodes=tuple(nodes), sink=len(every))
        return Submit(workflow_id=workflow_id, nonce=workflow_id, graph=graph)

    def _rule(self, name: str) -> Subscribe:
        graph = Graph(nodes=(NodeSpec(task_id="start", function="simulated"),), sink=0)
        return Subscribe(
            subscription=Subscription(name=name, source=SOURCE, selector=self._selector().text, graph=graph)
        )

    # -- clients -------------------------------------------------------------------------------------------------

    def _ask(self, delay_s: float, operation: Operation) -> None:
        self._asking.append(operation)

        def again() -> None:
            if any(other is operation for other in self._asking):
                name = getattr(operation, "workflow_id", "rule")
                self.executor_of(name).arrive(operation)
                self.clock.after(3.0, again)

        self.clock.after(delay_s, again)

    def heard(self, operations: list[Operation], outcomes: list[Any]) -> None:
        """Whoever asked is answered; some workflows that were started by a rule are deleted at once."""
        for operation, outcome in zip(operations, outcomes, strict=True):
            self._asking = [other for other in self._asking if other is not operation]
            if isinstance(operation, StartFrom) and isinstance(outcome, Accepted) and self.random.random() < 0.5:
                executor = self.executor_of(operation.workflow_id)
                executor.arrive(Cancel(workflow_id=operation.workflow_id))
                executor.arrive(Delete(workflow_id=operation.workflow_id))

    # -- mishaps and what is written -------------------------------------------------------------------------------

    def _fate(self) -> Fate:
        if self._crashes <= 0 or self.random.random() > 0.1:
            return Fate.DONE
        self._crashes -= 1
        return self.random.choice((Fate.KILLED_BEFORE, Fate.KILLED_AFTER, Fate.FULL))

    def _on_commit(self, operations: tuple[tuple[bytes, bytes | None], ...]) -> None:
        for key, raw in operations:
            if key[:1] == b"w" and raw is not None:
                workflow_id = open_frame(raw)[0]["id"]
                seqs = self._created.setdefault(workflow_id, set())
                seqs.add(layout.last_part(key))
                self.demand(len(seqs) == 1, "an event starts its workflow once", workflow_id)
            if key[:1] == b"P" and raw is not None:
                offset = orjson.loads(raw)["offset"]
                before = self._offsets.get(key, 0)
                self.demand(offset >= before, "positions never go back", f"{before} to {offset}")
                self._offsets[key] = offset
            if key[:1] == b"E":
                self._note_event(layout.last_part(key), raw)

    def _note_event(self, number: int, raw: bytes | None) -> None:
        """An event has been taken in, or has been removed: then nobody may still want it."""
        with self.disk.store.read() as txn:
            source = event_store.find_source(txn, SOURCE)
            assert source is not None
            if raw is not None:
                found = event_store.get_event(txn, source.number, number)
                assert found is not None
                self._ever[number] = found
                return
            self._expired.add(number)
            event = self._ever[number]
            for key, waiting in txn.scan(layout.readers(source.number)):
                seq, text = layout.last_part(key), orjson.loads(waiting)["stream"][1]
                read = orjson.loads(txn.get(layout.cursor(seq, source.number, text)) or b"{}")
                unread = number > read.get("at", 0) and _selects(text, event)
                self.demand(not unread, "what somebody waits for is not removed", f"{event.dedupe_id} for {text}")

    # -- laws of the end -----------------------------------------------------------------------------------------

    def _log(self) -> list[StoredEvent]:
        """All that was ever taken in."""
        return [self._ever[number] for number in sorted(self._ever)]

    def _check_the_log(self) -> None:
        log = self._log()
        with self.disk.read() as txn:
            source = event_store.find_source(txn, SOURCE)
            assert source is not None
            there = {event.number for event in event_store.events_after(txn, source.number, 0)}
        self.demand(there == self._ever.keys() - self._expired, "what has not expired is there")
        produced = Counter(message.dedupe_id for messages in self.broker for message in messages)
        kept = Counter(event.dedupe_id for event in log)
        self.demand(kept == produced, "each event is kept once", f"{kept - produced} {produced - kept}")
        for at, messages in enumerate(self.broker):
            order = [event.dedupe_id for event in log if event.dedupe_id.startswith(f"topic/{at}/")]
            self.demand(order == [m.dedupe_id for m in messages], "order within a partition", str(order))

    def _check_readers(self) -> None:
        log = self._log()
        with self.disk.read() as txn:
            for workflow_id, graph in self._graphs.items():
                row = store.find(txn, workflow_id)
                assert row is not None
                views = [store.get_task(txn, row.seq, at) for at in range(len(graph.nodes) - 1)]
                for stream in {node.stream for node in graph.nodes if node.stream is not None}:
                    there = [e for e in log if e.number > row.events_from and _selects(stream[1], e)]
                    expected = [orjson.loads(e.value or b"")["id"] for e in there]
                    readers = [at for at, node in enumerate(graph.nodes[:-1]) if node.stream == stream]
                    took = [
                        orjson.loads(pickle.loads(views[at].value.base.inband)[1])["id"]  # type: ignore[union-attr]
                        for at in readers
                        if views[at].value is not None
                    ]
                    about = f"{workflow_id} {stream[1]}: took {took} of {expected}"
                    # What expired while the workflow did not wait for it is passed by.
                    gone = {orjson.loads(e.value or b"")["id"] for e in there if e.number in self._expired}
                    passed = expected[: max(map(expected.index, took), default=-1) + 1]
                    gaps = set(passed) - set(took)
                    self.demand(len(took) == len(set(took)), "a stream is read without gaps", about)
                    self.demand(gaps <= gone, "a stream is read without gaps", about)
                    self._check_order(graph, views, readers, expected, about)
                    starving = [
                        at
                        for at in readers
                        if views[at].value is None and all(views[before].value for before in graph.nodes[at].inputs)
                    ]
                    self._check_limits(graph, views, about)
                    if row.status.value == "RUNNING" and starving:
                        self.demand(set(expected) - set(took) <= gone, "nobody waits for what is there", about)

    def _check_limits(self, graph: Graph, views: Any, about: str) -> None:
        for node, view in zip(graph.nodes, views, strict=False):
            if view.error is not None:
                due = (view.started_unix_s or 0.0) + (node.duration_s or math.inf)
                in_time = (view.ended_unix_s or 0.0) >= due - CLOCK_GRAIN_S
                self.demand(in_time, "a wait fails when its time is over and not before", about)

    def _check_order(self, graph: Graph, views: Any, readers: list[int], expected: list[int], about: str) -> None:
        for at in readers:
            for before in graph.nodes[at].inputs:
                if before in readers and views[at].value is not None:
                    earlier, later = (
                        expected.index(orjson.loads(pickle.loads(views[one].value.base.inband)[1])["id"])
                        for one in (before, at)
                    )
                    self.demand(earlier < later, "a stream is read in order", about)

    def _check_starts(self) -> None:
        with self.disk.read() as txn:
            for rule in subscriptions.list_subscriptions(txn):
                for event in self._log():
                    if event.number > rule.events_from and _selects(rule.selector, event):
                        started = f"{rule.name}-{event.dedupe_id}" in self._created
                        self.demand(started, "every event starts its workflow", event.dedupe_id)


def _selects(text: str, event: StoredEvent) -> bool:
    """The meaning of a selector, worked out anew."""
    kind, _, rest = text.partition(" ")
    if kind == "key":
        return event.key == bytes.fromhex(rest)
    value = orjson.loads(event.value or b"null")
    return kind == "all" or all(value.get(name) == wanted for name, wanted in orjson.loads(rest).items())


def run_source_seed(seed: int, make: type[SourceWorld] = SourceWorld) -> str | None:
    """One schedule: the law it broke and how, if any."""
    try:
        make(Random(seed)).run()
    except LawBrokenError as broken:
        return f"seed {seed}: {broken.law} ({broken.detail})"
    return None
