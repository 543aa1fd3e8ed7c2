"""A worker that goes on with what can only follow its task: each is run once, or again when it was lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.exceptions import WorkerCrashedError

from holdfast.actors.bundle_box import BundleBox
from holdfast.actors.consequences import Consequences
from holdfast.actors.executor_core import ExecutorCore
from holdfast.actors.logging_ahead import finished_task, log_ahead
from holdfast.actors.operations import Accepted, Cancel, Delete, Deliver, Recover, Submit
from holdfast.actors.reply_signals import signal_of_reply
from holdfast.actors.running_calls import MOST_AHEAD, RunningCalls
from holdfast.actors.task_bundle import BundleReply
from holdfast.actors.task_call import Returned
from holdfast.actors.wire import pack_reply, unpack_call
from holdfast.engine.commands import StartTask
from holdfast.engine.errors import StaleLeaseError
from holdfast.engine.graph import Graph, NodeKind, NodeSpec, TaskOptions
from holdfast.engine.retry import RetryBudget
from holdfast.engine.run import Run
from holdfast.engine.signals import Signal, TaskReturned
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage import layout
from holdfast.storage.memory import MemoryStore
from holdfast.storage.payload import Payload
from holdfast.storage.workflow_row import WorkflowRow
from tests.unit.test_running_calls import ADDRESS, OWNER, Sent, Worker, kills, turn

__all__ = ["kills"]

FUNCTION = "f" * 32
SEQ, EPOCH, OTHER_SEQ = 1, 7, 99
ROW = WorkflowRow(seq=SEQ, workflow_id="w", status=WorkflowStatus.RUNNING, executor="e")
TRIES = TaskOptions(budget=RetryBudget(deaths=3, errors=0, shared=True))


def call_node(number: int, *inputs: int, **about: Any) -> NodeSpec:
    return NodeSpec(task_id=f"t{number}", function=FUNCTION, inputs=inputs, **{"options": TRIES, **about})


def chain(length: int) -> Graph:
    nodes = tuple(call_node(number, *([number - 1] if number else [])) for number in range(length))
    return Graph(nodes=nodes, sink=length - 1)


class Desk:
    """An executor without Ray and store: a run, and its calls."""

    def __init__(self, graph: Graph) -> None:
        self.worker = Worker()
        launcher: Any = self.worker
        self.run, step = Run.create("w", graph, 0.0)
        held: Any = SimpleNamespace(run=self.run, epoch=EPOCH)
        self.calls = RunningCalls(
            launcher,
            "e",
            ADDRESS,
            lambda reply, listener: self.heard(reply.seq, signal_of_reply(reply, None, listener=listener)),
            self.heard,
            lambda seq: None if seq != SEQ or self.run.status.ended else held,
        )
        self.calls.set_cluster_cpus(1)
        self.signals: list[Signal] = []
        self.first = [command for command in step.commands if isinstance(command, StartTask)]

    async def begin(self) -> list[Sent]:
        """Have it be known that such a task is tiny, and start; what is sent from then on."""
        other = WorkflowRow(seq=OTHER_SEQ, workflow_id="x", status=WorkflowStatus.RUNNING, executor="e")
        self.calls.start_task(other, StartTask(task=0, attempt=1, node=call_node(0), values=()))
        await turn()
        self.worker.sent.pop().done.set_result(reply_to(0, seq=OTHER_SEQ))
        await turn()
        for command in self.first:
            self.calls.start_task(ROW, command)
        await turn()
        return self.worker.sent

    async def ends_where_it_began(self, bundle: Sent, last: BundleReply) -> None:
        """The one worker goes, with what it says last: that was all there was to do."""
        bundle.done.set_result(last)
        await turn()
        assert self.run.status is WorkflowStatus.SUCCESSFUL
        assert len(self.worker.sent) == 1

    def heard(self, seq: int, signal: Signal) -> None:
        if seq == SEQ:
            if not self.signals:
                asyncio.get_running_loop().call_soon(self.work)
            self.signals.append(signal)

    def work(self) -> None:
        signals, self.signals = self.signals, []
        commands = [command for signal in signals for command in self.run.apply(signal, 1.0).commands]
        for command in commands:
            if isinstance(command, StartTask):
                self.calls.start_task(ROW, command)


def reply_to(task: int, *, seq: int = SEQ, attempt: int = 1) -> bytes:
    packed = pack_reply(Returned(seq=seq, task=task, attempt=attempt, base=Payload(b"v"), ran_s=0.0001))
    assert isinstance(packed, bytes)
    return packed


def tasks_of(sent: Sent) -> list[tuple[int, int, bool]]:
    return [(call.task, call.attempt, call.follows) for call in sent.calls]


def box_of(sent: Sent, *replies: bytes, begun: int) -> None:
    box = BundleBox(OWNER, sent.place)
    for reply in replies:
        box.begin()
        assert box.end(reply)
    for _ in range(begun - len(replies)):
        box.begin()


class TestWhatMayFollow:
    @staticmethod
    def followers(graph: Graph, most: int = 10) -> list[int]:
        run, _ = Run.create("w", graph, 0.0)
        return [command.task for command in run.followers(0, most)]

    def test_each_that_takes_but_the_one_before(self) -> None:
        assert self.followers(chain(4)) == [1, 2, 3]
        assert self.followers(chain(4), most=2) == [1, 2]
        assert self.followers(chain(1)) == []

    @pytest.mark.parametrize(
        "nodes",
        [
            pytest.param((call_node(0), call_node(1, 0), call_node(2, 0), call_node(3, 1, 2)), id="two take it"),
            pytest.param((call_node(0), call_node(1), call_node(2, 0, 1)), id="another is needed too"),
            pytest.param((call_node(0), call_node(1, 0, kind=NodeKind.SLEEP, duration_s=1.0)), id="no call"),
            pytest.param(
                (call_node(0), call_node(1, 0, options=TaskOptions(ray_options=b"gpu"))), id="other resources"
            ),
            pytest.param((call_node(0), call_node(1, 0, options=TaskOptions(in_place=True))), id="in place"),
            pytest.param((call_node(0, options=TaskOptions(checkpoint=False)), call_node(1, 0)), id="it is not logged"),
            pytest.param(
                (call_node(0, options=TaskOptions(catch_exceptions=True)), call_node(1, 0)), id="it is wrapped"
            ),
            pytest.param(
                (call_node(0), call_node(1, 0), call_node(2, 1, options=TaskOptions(in_place=True))),
                id="what is after it needs its place",
            ),
        ],
    )
    def test_nothing_else(self, nodes: tuple[NodeSpec, ...]) -> None:
        assert self.followers(Graph(nodes=nodes, sink=len(nodes) - 1)) == []


class TestReplies:
    def test_a_chain_is_one_bundle_and_nothing_of_it_is_started_again(self) -> None:
        async def play() -> None:
            desk = Desk(chain(4))
            (bundle,) = await desk.begin()
            assert tasks_of(bundle) == [(0, 1, False), (1, 1, True), (2, 1, True), (3, 1, True)]
            assert {call.epoch for call in bundle.calls} == {EPOCH}
            all_done = BundleReply(replies=[reply_to(task) for task in range(4)], unbegun=())
            await desk.ends_where_it_began(bundle, all_done)

        asyncio.run(play())

    def test_a_long_chain_goes_in_parts(self) -> None:
        async def play() -> None:
            length = 2 * MOST_AHEAD
            desk = Desk(chain(length))
            sent = await desk.begin()
            assert len(sent[0].calls) == MOST_AHEAD + 1
            sent[0].done.set_result(BundleReply(replies=[reply_to(n) for n in range(MOST_AHEAD + 1)], unbegun=()))
            await turn()
            assert tasks_of(sent[1])[0] == (MOST_AHEAD + 1, 1, False)
            assert len(sent[1].calls) == length - MOST_AHEAD - 1

        asyncio.run(play())

    def test_a_worker_that_stays_is_given_the_next_part(self) -> None:
        async def play() -> None:
            length = MOST_AHEAD + 3
            desk = Desk(chain(length))
            (bundle,) = await desk.begin()
            done = BundleReply(replies=[reply_to(n) for n in range(MOST_AHEAD + 1)], unbegun=())
            kind = desk.calls.finish(bundle.place, done)
            assert kind is not None
            desk.work()
            following = [unpack_call(packed) for packed in desk.calls.next_for(bundle.place, kind)]
            assert [(call.task, call.follows) for call in following] == [(length - 2, False), (length - 1, True)]

        asyncio.run(play())

    def test_many_that_wait_are_not_run_ahead_of(self) -> None:
        async def play() -> None:
            heads = [call_node(number) for number in range(8)]
            tails = [call_node(8 + number, number) for number in range(8)]
            desk = Desk(Graph(nodes=(*heads, *tails, call_node(16, *range(8, 16))), sink=16))
            sent = await desk.begin()
            assert not any(call.follows for one in sent for call in one.calls)

        asyncio.run(play())


class TestGoingOn:
    """A worker that is done with a part of a chain has the next at once, while the run hears of the one before."""

    FULL = MOST_AHEAD + 1

    async def prepared(self, desk: Desk) -> Sent:
        """A worker that has a full part, when it is known what it may go on with."""
        (bundle,) = await desk.begin()
        await self.knows_the_next(desk, bundle)
        return bundle

    @staticmethod
    async def knows_the_next(desk: Desk, bundle: Sent) -> None:
        deadline_s = time.monotonic() + 30.0
        while not desk.calls._calls[bundle.place].next_up:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.001)

    def done(self, part: int) -> BundleReply:
        return BundleReply(
            replies=[reply_to(n) for n in range(part * self.FULL, (part + 1) * self.FULL)], unbegun=(), round=part
        )

    @staticmethod
    def numbers(following: list[bytes]) -> list[tuple[int, bool]]:
        return [(call.task, call.follows) for call in map(unpack_call, following)]

    def test_it_gets_all_that_follows_and_nothing_is_started_elsewhere(self) -> None:
        async def play() -> None:
            length = 2 * self.FULL + 3
            desk = Desk(chain(length))
            bundle = await self.prepared(desk)
            second = desk.calls.go_on(bundle.place, self.done(0))
            assert self.numbers(second) == [(n, True) for n in range(self.FULL, 2 * self.FULL)]
            await self.knows_the_next(desk, bundle)
            third = desk.calls.go_on(bundle.place, self.done(1))
            assert self.numbers(third) == [(n, True) for n in range(2 * self.FULL, length)]
            last = BundleReply(replies=[reply_to(n) for n in range(2 * self.FULL, length)], unbegun=(), round=2)
            assert not desk.calls.go_on(bundle.place, last)
            await desk.ends_where_it_began(bundle, last)

        asyncio.run(play())

    def test_not_when_something_was_given_back(self) -> None:
        async def play() -> None:
            desk = Desk(chain(2 * self.FULL))
            bundle = await self.prepared(desk)
            back = [(SEQ, task, 1) for task in range(1, self.FULL)]
            desk.calls.take_back(bundle.place, BundleReply(replies=(), unbegun=back, busy=(SEQ, 0, 1), busy_s=0.03))
            assert not desk.calls.go_on(bundle.place, BundleReply(replies=[reply_to(0)], unbegun=back))
            assert not desk.calls.go_on(bundle.place, BundleReply(replies=[reply_to(0)], unbegun=()))

        asyncio.run(play())

    @pytest.mark.parametrize("heard", [False, True], ids=["the run has not heard", "the run has heard"])
    @pytest.mark.parametrize("begun", [None, 0, 1, 3])
    def test_when_it_dies_then_only_the_task_that_ran_is_tried_again(self, begun: int | None, *, heard: bool) -> None:
        async def play() -> None:
            desk = Desk(chain(2 * self.FULL))
            bundle = await self.prepared(desk)
            assert desk.calls.go_on(bundle.place, self.done(0))
            if heard:
                await turn()
            box = BundleBox(OWNER, bundle.place)
            if begun is not None:
                box.next_round()
            for number in range(begun or 0):
                box.begin()
                assert number + 1 == begun or box.end(reply_to(self.FULL + number))
            bundle.done.set_exception(WorkerCrashedError())
            await turn()
            running = self.FULL + max((begun or 0) - 1, 0)
            assert tasks_of(desk.worker.sent[1])[0] == (running, 2 if begun else 1, False)
            assert len(desk.worker.sent) == 2

        asyncio.run(play())

    @pytest.mark.parametrize("heard", [False, True], ids=["the run has not heard", "the run has heard"])
    def test_one_that_did_not_hear_of_it_leaves_it_to_others(self, *, heard: bool) -> None:
        async def play() -> None:
            desk = Desk(chain(2 * self.FULL))
            bundle = await self.prepared(desk)
            assert desk.calls.go_on(bundle.place, self.done(0))
            if heard:
                await turn()
            # It goes back to Ray with what it had said.
            bundle.done.set_result(self.done(0))
            await turn()
            assert [tasks_of(one)[0] for one in desk.worker.sent[1:]] == [(self.FULL, 1, False)]

        asyncio.run(play())

    @pytest.mark.parametrize("heard", [False, True], ids=["the run has not heard", "the run has heard"])
    def test_one_that_may_not_begin_there_is_started_elsewhere(self, *, heard: bool) -> None:
        async def play() -> None:
            desk = Desk(chain(2 * self.FULL))
            bundle = await self.prepared(desk)
            desk.calls.go_on(bundle.place, self.done(0))
            if heard:
                await turn()
            back = [(SEQ, task, 1) for task in range(self.FULL, 2 * self.FULL)]
            bundle.done.set_result(BundleReply(replies=(), unbegun=back, round=1))
            await turn()
            assert [tasks_of(one)[0] for one in desk.worker.sent[1:]] == [(self.FULL, 1, False)]

        asyncio.run(play())

    @pytest.mark.parametrize("heard", [False, True], ids=["the run has not heard", "the run has heard"])
    def test_it_is_ended_when_its_workflow_is(self, kills: list[Sent], *, heard: bool) -> None:
        async def play() -> None:
            desk = Desk(chain(2 * self.FULL))
            bundle = await self.prepared(desk)
            assert desk.calls.go_on(bundle.place, self.done(0))
            if heard:
                await turn()
            over = asyncio.ensure_future(desk.calls.wait_until_over(SEQ))
            desk.calls.stop_all(SEQ)
            await turn()
            assert kills == [bundle]
            assert not over.done()
            bundle.done.set_exception(WorkerCrashedError())
            await turn()
            assert over.done()
            assert not heard or len(desk.worker.sent) == 1

        asyncio.run(play())


class TestGivingBack:
    def test_one_that_takes_long_goes_on_and_those_after_it_are_started_when_it_has_ended(self) -> None:
        async def play() -> None:
            desk = Desk(chain(4))
            (bundle,) = await desk.begin()
            told = BundleReply(replies=[reply_to(0)], unbegun=[(SEQ, 2, 1), (SEQ, 3, 1)], busy=(SEQ, 1, 1), busy_s=0.03)
            desk.calls.take_back(bundle.place, told)
            await turn()
            assert len(desk.worker.sent) == 1
            bundle.done.set_result(BundleReply(replies=[reply_to(0), reply_to(1)], unbegun=[(SEQ, 2, 1), (SEQ, 3, 1)]))
            await turn()
            # It is known by now that such a task may take long.
            assert [tasks_of(one) for one in desk.worker.sent[1:]] == [[(2, 1, False)]]

        asyncio.run(play())

    def test_one_that_takes_long_and_dies_is_lost_once(self) -> None:
        async def play() -> None:
            desk = Desk(chain(3))
            (bundle,) = await desk.begin()
            box_of(bundle, reply_to(0), begun=2)
            desk.calls.take_back(
                bundle.place, BundleReply(replies=[reply_to(0)], unbegun=[(SEQ, 2, 1)], busy=(SEQ, 1, 1), busy_s=0.03)
            )
            await turn()
            bundle.done.set_exception(WorkerCrashedError())
            await turn()
            assert [tasks_of(one) for one in desk.worker.sent[1:]] == [[(1, 2, False)]]

        asyncio.run(play())

    def test_one_that_may_not_begin_is_started_by_the_executor(self) -> None:
        async def play() -> None:
            desk = Desk(chain(3))
            (bundle,) = await desk.begin()
            bundle.done.set_result(BundleReply(replies=[reply_to(0)], unbegun=[(SEQ, 1, 1), (SEQ, 2, 1)]))
            await turn()
            assert [tasks_of(one) for one in desk.worker.sent[1:]] == [[(1, 1, False), (2, 1, True)]]

        asyncio.run(play())


class TestDeaths:
    @pytest.mark.parametrize("done", range(4))
    @pytest.mark.parametrize("begun", [False, True])
    def test_only_the_task_that_ran_is_tried_again(self, done: int, *, begun: bool) -> None:
        async def play() -> None:
            desk = Desk(chain(4))
            (bundle,) = await desk.begin()
            box_of(bundle, *(reply_to(task) for task in range(done)), begun=done + begun)
            bundle.done.set_exception(WorkerCrashedError())
            await turn()
            ahead = [(task, 1, True) for task in range(done + 1, 4)]
            assert tasks_of(desk.worker.sent[1]) == [(done, 1 + begun, False), *ahead]
            assert len(desk.worker.sent) == 2

        asyncio.run(play())

    def test_one_that_is_stopped_takes_what_would_follow_with_it(self, kills: list[Sent]) -> None:
        async def play() -> None:
            desk = Desk(chain(4))
            (bundle,) = await desk.begin()
            desk.calls.stop(SEQ, 0)
            assert kills == [bundle]
            box_of(bundle, reply_to(0), begun=2)
            bundle.done.set_exception(WorkerCrashedError())
            await turn()
            assert len(desk.worker.sent) == 1
            assert not desk.signals

        asyncio.run(play())


def test_people_read_that_a_task_runs_before_they_read_that_it_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    core = ExecutorCore(MemoryStore(), "e")
    core.perform([Submit(workflow_id="w", graph=chain(3), nonce="n")], 1.0)
    (seq,) = core.held
    signals = [
        TaskReturned(task=task, attempt=1, value=None, started_unix_s=1.0, ended_unix_s=2.0) for task in range(2)
    ]
    batch = core.perform([Deliver(seq=seq, signal=signal) for signal in signals], 3.0)
    nobody: Any = MagicMock()
    Consequences(nobody, nobody, nobody, nobody, nobody, nobody).carry_out(batch)
    said = [(line.split("[")[1].split("]")[0], line[-3:-1]) for line in capsys.readouterr().err.splitlines()]
    assert said == [("SUCCESSFUL", "t0"), ("RUNNING", "t1"), ("SUCCESSFUL", "t1"), ("RUNNING", "t2")]


class TestLogging:
    """Over a store: what a worker logs is what the executor would have."""

    @pytest.fixture
    def core(self) -> ExecutorCore:
        return ExecutorCore(MemoryStore(), "e")

    @staticmethod
    def submitted(core: ExecutorCore) -> int:
        (outcome,) = core.perform([Submit(workflow_id="w", graph=chain(3), nonce="n")], 1.0).outcomes
        assert isinstance(outcome, Accepted)
        return outcome.seq

    @staticmethod
    def returned(task: int = 0) -> TaskReturned:
        return TaskReturned(task=task, attempt=1, value=Payload(b"v"), started_unix_s=1.0, ended_unix_s=2.0)

    def log(self, core: ExecutorCore, seq: int, epoch: int) -> None:
        log_ahead(core._kv, seq, epoch, "w", finished_task(0, "t0", self.returned()))

    @staticmethod
    def rows(core: ExecutorCore, seq: int) -> dict[bytes, bytes]:
        with core._kv.read() as txn:
            return {key: raw for key, raw in txn.scan(b"") if key != layout.lease(seq)}

    def test_the_executor_writes_the_same_once_more(self, core: ExecutorCore) -> None:
        seq = self.submitted(core)
        before = self.rows(core, seq)
        self.log(core, seq, core.held[seq].epoch)
        logged = self.rows(core, seq)
        assert set(logged) - set(before) == {layout.task(seq, 0)}
        batch = core.perform([Deliver(seq=seq, signal=self.returned(), epoch=core.held[seq].epoch)], 3.0)
        assert self.rows(core, seq) == logged
        assert Counter(type(command) for _, command in batch.commands) == {StartTask: 1}

    def test_whoever_takes_the_workflow_up_goes_on_after_it(self, core: ExecutorCore) -> None:
        seq = self.submitted(core)
        self.log(core, seq, core.held[seq].epoch)
        other = ExecutorCore(core._kv, "e")
        batch = other.perform([Recover(seq=seq)], 3.0)
        assert [command.task for _, command in batch.commands if isinstance(command, StartTask)] == [1]
        with pytest.raises(StaleLeaseError):
            self.log(core, seq, core.held[seq].epoch)

    @pytest.mark.parametrize("gone", [False, True])
    def test_nothing_is_logged_for_one_that_does_not_run(self, core: ExecutorCore, *, gone: bool) -> None:
        seq = self.submitted(core)
        epoch = core.held[seq].epoch
        core.perform([Cancel(workflow_id="w")], 2.0)
        if gone:
            core.perform([Delete(workflow_id="w")], 2.0)
        before = self.rows(core, seq)
        with pytest.raises(StaleLeaseError):
            self.log(core, seq, epoch)
        assert self.rows(core, seq) == before
