"""Tasks that share a worker: each is answered for by itself, whatever becomes of the worker."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from holdfast.actors import running_calls
from holdfast.actors.bundle_box import BundleBox, read_box
from holdfast.actors.running_calls import RunningCalls
from holdfast.actors.storage_access import StorageAddress
from holdfast.actors.task_bundle import REPORTED, BundleReply
from holdfast.actors.task_call import Raised, Reply, Returned, TaskCall
from holdfast.actors.wire import pack_reply, unpack_call
from holdfast.engine.commands import StartTask
from holdfast.engine.graph import NodeSpec
from holdfast.engine.signals import Signal, TaskLost
from holdfast.engine.transitions import WorkflowStatus
from holdfast.storage.workflow_row import WorkflowRow

ADDRESS = StorageAddress("/nowhere", "node", "cluster")
# Of this process: another one may run the tests of another file, in the same memory of the machine.
OWNER = f"testowner{os.getpid()}"
_places = itertools.count(1)


class Sent:
    """A Ray task that is out, as Ray's reference of its reply."""

    def __init__(self, calls: Sequence[TaskCall]) -> None:
        self.calls = calls
        self.place = f"{next(_places):032x}"
        self.done: Future[Any] = Future()
        self.killed = False

    def task_id(self) -> Sent:
        return self

    def hex(self) -> str:
        return self.place

    def future(self) -> Future[Any]:
        return self.done

    @property
    def numbers(self) -> list[int]:
        return [call.seq for call in self.calls]


class Worker:
    """In place of Ray: keeps what is sent."""

    owner = OWNER

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def start_task(self, row: WorkflowRow, call: TaskCall) -> Sent:
        return self.start_bundle(row, [call])

    def start_bundle(self, row: WorkflowRow, calls: Sequence[TaskCall]) -> Sent:
        self.sent.append(Sent(calls))
        return self.sent[-1]


class Desk:
    """The calls of an executor, and what was said of them."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.replies: list[int] = []
        self.signals: list[tuple[int, Signal]] = []
        launcher: Any = self.worker
        self.calls = RunningCalls(
            launcher, "e", ADDRESS, self.replied, lambda seq, one: self.signals.append((seq, one)), lambda _: None
        )
        self.calls.set_cluster_cpus(1)

    def replied(self, reply: Reply, listener: bool) -> None:
        assert not listener
        self.replies.append(reply.seq)

    def signalled(self, seq: int, signal: Signal) -> None:
        self.signals.append((seq, signal))

    def start(self, *seqs: int, task: int = 0, environment: str = "") -> None:
        for seq in seqs:
            row = WorkflowRow(
                seq=seq, workflow_id=f"w{seq}", status=WorkflowStatus.RUNNING, executor="e", environment=environment
            )
            node = NodeSpec(task_id="t", function="f" * 32)
            self.calls.start_task(row, StartTask(task=task, attempt=1, node=node, values=()))

    @property
    def lost(self) -> list[int]:
        assert all(isinstance(signal, TaskLost) for _, signal in self.signals)
        return [seq for seq, _ in self.signals]


async def turn() -> None:
    """Let all that is ready happen, what comes from other threads too."""
    for _ in range(5):
        await asyncio.sleep(0)


def reply(seq: int, *, ran_s: float = 0.001) -> bytes:
    packed = pack_reply(Returned(seq=seq, task=0, attempt=1, base=None, ran_s=ran_s))
    assert isinstance(packed, bytes)
    return packed


def keys(*seqs: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((seq, 0, 1) for seq in seqs)


async def with_a_bundle(seqs: Sequence[int]) -> tuple[Desk, Sent]:
    """A desk that has sent these together, for it knows that such tasks are tiny."""
    desk = Desk()
    desk.start(1000)
    await turn()
    desk.worker.sent[0].done.set_result(reply(1000))
    await turn()
    # Of four that wait each of two places gets two: so many times two are put in.
    desk.start(*seqs, *(2000 + seq for seq in seqs))
    await turn()
    _, bundle, other = desk.worker.sent
    assert bundle.numbers == list(seqs)
    other.done.set_result(BundleReply(replies=[reply(seq) for seq in other.numbers], unbegun=()))
    await turn()
    desk.replies.clear()
    return desk, bundle


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    killed: list[Sent] = []
    monkeypatch.setattr(ray, "cancel", lambda ref, force: killed.append(ref))
    return killed


@pytest.fixture(autouse=True)
def no_box_is_left() -> Iterator[None]:
    yield
    for number in range(next(_places)):
        assert read_box(OWNER, f"{number:032x}") is None


def test_each_of_a_bundle_gets_its_reply() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3])
        bundle.done.set_result(BundleReply(replies=[reply(1), REPORTED, reply(3)], unbegun=()))
        await turn()
        assert desk.replies == [1, 3]

    asyncio.run(play())


def test_what_is_given_back_goes_out_again_and_counts_once() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3, 4])
        told = BundleReply(replies=[reply(1)], unbegun=keys(3, 4), busy_s=0.5)
        desk.calls.take_back(bundle.place, told)
        await turn()
        assert desk.replies == [1]
        # It is known by now that such a task may take long.
        assert [sent.numbers for sent in desk.worker.sent[3:]] == [[3], [4]]
        bundle.done.set_result(BundleReply(replies=[reply(1), reply(2)], unbegun=keys(3, 4)))
        await turn()
        assert desk.replies == [1, 2]
        assert len(desk.worker.sent) == 5

    asyncio.run(play())


def test_when_the_message_about_it_is_lost_the_reply_gives_back() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3])
        bundle.done.set_result(BundleReply(replies=[reply(1)], unbegun=keys(2, 3)))
        await turn()
        assert desk.replies == [1]
        again = [seq for sent in desk.worker.sent[3:] for seq in sent.numbers]
        assert again == [2, 3]

    asyncio.run(play())


@pytest.mark.parametrize(
    ("noted", "answered", "lost", "again"),
    [
        (lambda box: None, [], [], [1, 2, 3]),
        (lambda box: box.begin(), [], [1], [2, 3]),
        (lambda box: (box.begin(), box.end(reply(1))), [1], [], [2, 3]),
        (lambda box: (box.begin(), box.end(reply(1)), box.begin()), [1], [2], [3]),
        (None, [], [1], [2, 3]),
    ],
    ids=["before the first", "in the first", "between two", "in the second", "on another machine"],
)
def test_a_worker_that_dies_takes_nothing_with_it_but_the_task_that_ran(
    noted: Callable[[BundleBox], object] | None, answered: list[int], lost: list[int], again: list[int]
) -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3])
        if noted is not None:
            noted(BundleBox(OWNER, bundle.place))
        bundle.done.set_exception(WorkerCrashedError())
        await turn()
        assert desk.replies == answered
        assert desk.lost == lost
        assert [seq for sent in desk.worker.sent[3:] for seq in sent.numbers] == again

    asyncio.run(play())


def test_one_that_is_stopped_before_it_began_harms_no_other_and_is_not_run_again(kills: list[Sent]) -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3])
        desk.calls.stop_all(3)
        over = asyncio.ensure_future(desk.calls.wait_until_over(3))
        await turn()
        assert not over.done()
        desk.calls.take_back(bundle.place, BundleReply(replies=[], unbegun=keys(2, 3), busy_s=0.5))
        await asyncio.wait_for(over, 10)
        assert kills == []
        assert [sent.numbers for sent in desk.worker.sent[3:]] == [[2]]

    asyncio.run(play())


def test_one_that_is_stopped_while_it_runs_is_ended_when_it_is_the_only_one_left(kills: list[Sent]) -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2, 3])
        desk.calls.stop_all(2)
        over = asyncio.ensure_future(desk.calls.wait_until_over(2))
        desk.calls.take_back(bundle.place, BundleReply(replies=[reply(1)], unbegun=keys(3), busy_s=0.5))
        await turn()
        assert kills == [bundle]
        assert not over.done()
        bundle.done.set_exception(WorkerCrashedError())
        await asyncio.wait_for(over, 10)
        assert desk.lost == []
        assert desk.replies == [1]

    asyncio.run(play())


async def given_more(desk: Desk, bundle: Sent, *seqs: int) -> list[int]:
    """A worker that has done its bundle stays, and these follow from that. What it is to run next."""
    done = BundleReply(replies=[reply(seq) for seq in bundle.numbers], unbegun=())
    kind = desk.calls.finish(bundle.place, done)
    assert kind is not None
    desk.start(*seqs)
    await turn()
    return [unpack_call(packed).seq for packed in desk.calls.next_for(bundle.place, kind)]


def test_a_worker_that_is_done_runs_what_follows_from_it() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        out = len(desk.worker.sent)
        assert await given_more(desk, bundle, 11) == [11]
        assert desk.replies == [1, 2]
        second = BundleReply(replies=[reply(11)], unbegun=(), round=1)
        bundle.done.set_result(second)
        await turn()
        assert desk.replies == [1, 2, 11]
        assert len(desk.worker.sent) == out
        assert desk.lost == []

    asyncio.run(play())


def test_one_for_whom_there_is_nothing_goes_and_what_comes_later_goes_to_another() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        assert await given_more(desk, bundle) == []
        bundle.done.set_result(BundleReply(replies=(), unbegun=(), round=1))
        desk.start(3)
        await turn()
        assert desk.worker.sent[-1].numbers == [3]
        assert desk.replies == [1, 2]

    asyncio.run(play())


async def lingering(desk: Desk, bundle: Sent) -> asyncio.Task[list[int]]:
    """A worker that is done with all there is, and what it is given at last."""

    async def follow() -> list[int]:
        kind = desk.calls.finish(bundle.place, BundleReply(replies=[reply(1), reply(2)], unbegun=()))
        assert kind is not None
        await desk.calls.linger(kind)
        return [unpack_call(packed).seq for packed in desk.calls.next_for(bundle.place, kind)]

    task = asyncio.ensure_future(follow())
    await turn()
    return task


def test_a_worker_that_lingers_is_given_what_comes_and_nobody_else_is_asked_for() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle((1, 2))
        given = await lingering(desk, bundle)
        assert not given.done()
        sent = len(desk.worker.sent)
        desk.start(7)
        assert await given == [7]
        assert len(desk.worker.sent) == sent

    asyncio.run(play())


def test_a_worker_lingers_no_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "LINGERS_S", 0.0)

    async def play() -> None:
        desk, bundle = await with_a_bundle((1, 2))
        assert await (await lingering(desk, bundle)) == []
        # What comes then goes to another one.
        desk.start(7)
        await turn()
        assert desk.worker.sent[-1].numbers == [7]

    asyncio.run(play())


def test_a_worker_that_lingers_goes_when_its_place_may_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "LINGERS_S", 600.0)

    async def play() -> None:
        desk, bundle = await with_a_bundle((1, 2))
        given = await lingering(desk, bundle)
        desk.start(7, environment="another")
        assert await given == []
        await turn()
        assert desk.worker.sent[-1].numbers == [7]

    asyncio.run(play())


def test_a_worker_does_not_linger_where_its_place_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "LINGERS_S", 600.0)

    async def play() -> None:
        desk, bundle = await with_a_bundle((1, 2))
        desk.start(7, environment="another")
        await turn()
        assert await (await lingering(desk, bundle)) == []

    asyncio.run(play())


def test_of_several_that_linger_each_is_given_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "LINGERS_S", 600.0)

    async def play() -> None:
        desk, bundle = await with_a_bundle((1, 2))
        first = await lingering(desk, bundle)
        desk.start(3)
        assert await first == [3]
        desk.start(4)
        await turn()
        second = desk.worker.sent[-1]
        assert second.numbers == [4]

        async def follow(sent: Sent, seq: int, round_: int) -> list[int]:
            kind = desk.calls.finish(sent.place, BundleReply(replies=[reply(seq)], unbegun=(), round=round_))
            assert kind is not None
            await desk.calls.linger(kind)
            return [unpack_call(packed).seq for packed in desk.calls.next_for(sent.place, kind)]

        both = [asyncio.ensure_future(follow(bundle, 3, 1)), asyncio.ensure_future(follow(second, 4, 0))]
        await turn()
        sent = len(desk.worker.sent)
        desk.start(5)
        desk.start(6)
        assert sorted(await asyncio.gather(*both)) == [[5], [6]]
        assert len(desk.worker.sent) == sent

    asyncio.run(play())


def test_a_worker_that_did_not_hear_what_is_next_takes_nothing_with_it() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        assert await given_more(desk, bundle, 11) == [11]
        # It says once more what it has done, by the ordinary way.
        bundle.done.set_result(BundleReply(replies=[reply(1), reply(2)], unbegun=()))
        await turn()
        assert [seq for sent in desk.worker.sent[3:] for seq in sent.numbers] == [11]
        assert (desk.replies, desk.lost) == ([1, 2], [])

    asyncio.run(play())


@pytest.mark.parametrize(("begun", "ended", "lost"), [(0, 0, []), (1, 0, [11]), (1, 1, [])])
def test_a_worker_that_dies_over_what_it_was_given_later_loses_what_ran(
    begun: int, ended: int, lost: list[int]
) -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        assert await given_more(desk, bundle, 11) == [11]
        if begun:
            box = BundleBox(OWNER, bundle.place)
            box.next_round()
            for number in range(begun):
                box.begin()
                if number < ended:
                    box.end(reply(11 + number))
        bundle.done.set_exception(WorkerCrashedError())
        await turn()
        assert desk.lost == lost
        again = [seq for sent in desk.worker.sent[3:] for seq in sent.numbers]
        assert sorted([*desk.replies, *desk.lost, *again]) == [1, 2, 11]

    asyncio.run(play())


def test_one_that_dies_while_it_stays_leaves_what_follows_to_others() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        kind = desk.calls.finish(bundle.place, BundleReply(replies=[reply(1), reply(2)], unbegun=()))
        assert kind is not None
        desk.start(3)
        bundle.done.set_exception(WorkerCrashedError())
        await turn()
        assert len(desk.worker.sent) == 3
        assert desk.calls.next_for(bundle.place, kind) == []
        await turn()
        assert desk.worker.sent[3].numbers == [3]
        assert (desk.replies, desk.lost) == ([1, 2], [])

    asyncio.run(play())


def test_a_workflow_is_over_when_all_of_it_is_in_whatever_order_it_ends(kills: list[Sent]) -> None:
    async def play() -> None:
        desk = Desk()
        desk.start(7)
        desk.start(7, task=1)
        await turn()
        first, second = desk.worker.sent
        desk.calls.stop_all(7)
        assert kills == [first, second]
        over = asyncio.ensure_future(desk.calls.wait_until_over(7))
        await turn()
        for sent in (second, first):
            assert not over.done()
            sent.done.set_exception(WorkerCrashedError())
            await turn()
        await asyncio.wait_for(over, 10)

    asyncio.run(play())


def test_all_of_a_bundle_stopped_end_at_once(kills: list[Sent]) -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        desk.calls.stop_all(1)
        assert kills == []
        desk.calls.stop_all(2)
        assert kills == [bundle]

    asyncio.run(play())


def test_one_that_was_stopped_while_it_waited_does_not_go_out() -> None:
    async def play() -> None:
        desk = Desk()
        desk.start(1, 2)
        desk.calls.stop_all(1)
        await turn()
        assert [sent.numbers for sent in desk.worker.sent] == [[2]]

    asyncio.run(play())


def test_a_reply_of_an_attempt_that_nobody_waits_for_says_nothing() -> None:
    async def play() -> None:
        desk, bundle = await with_a_bundle([1, 2])
        stale = Raised(seq=1, task=0, attempt=7, error=reply(1), retryable=True)  # type: ignore[arg-type]
        assert not desk.calls.take_report(bundle.place, stale)

    asyncio.run(play())
