"""What is measured. Each workload is a function for Holdfast and one for plain Ray that do the same work.

Both return seconds. Building the graph counts, since `f.remote()` counts too; starting Ray does not. To
add a workload, write the two functions and a line in `WORKLOADS`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from benchmarks import actor_calls
from benchmarks.sizes import (
    ARRAY_BYTES,
    ARRAYS,
    CHAIN_LENGTH,
    EVENTS,
    FANOUT_WIDTH,
    LATENCY_RUNS,
    MANY_WORKFLOWS,
)
from benchmarks.tasks import fill, grow, noop, total
from holdfast import workflow
from holdfast.listeners import HTTPListener

durable_noop = noop.options(**workflow.options(task_id="noop"))
durable_total = total.options(**workflow.options(task_id="total"))
durable_fill = fill.options(**workflow.options(task_id="fill"))
durable_grow = grow.options(**workflow.options(task_id="grow"))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One thing to measure.

    Attributes:
        what: For people.
        holdfast: Runs it on Holdfast; returns seconds.
        plain_ray: Runs the same on plain Ray; returns seconds.
        tasks_per_workflow: How many logged tasks each workflow must have left, by workflow id and task name.
        asked_speed: At least this many times plain Ray's speed.
        reached: Whether it has been reached once: from then on it is guarded.
    """

    what: str
    holdfast: Callable[[], float]
    plain_ray: Callable[[], float]
    tasks_per_workflow: Mapping[str, Mapping[str, int]]
    asked_speed: float
    reached: bool = True


def latency_holdfast() -> float:
    """Median seconds of a workflow of one task, one after the other."""

    def work(at: int) -> None:
        _check(workflow.run(durable_noop.bind(at), workflow_id=f"latency-{at}"), at)

    return statistics.median(_timed(partial(work, at)) for at in range(LATENCY_RUNS))


def latency_plain_ray() -> float:
    """Median seconds of one task, one after the other."""

    def work(at: int) -> None:
        _check(ray.get(noop.remote(at)), at)

    return statistics.median(_timed(partial(work, at)) for at in range(LATENCY_RUNS))


def chain_holdfast() -> float:
    """Seconds for tasks of which each takes the result of the one before."""

    def work() -> None:
        node: Any = durable_noop.bind(1)
        for _ in range(CHAIN_LENGTH - 1):
            node = durable_noop.bind(node)
        _check(workflow.run(node, workflow_id="chain"), 1)

    return _timed(work)


def chain_plain_ray() -> float:
    """Seconds for tasks of which each takes the reference to the one before."""

    def work() -> None:
        ref = noop.remote(1)
        for _ in range(CHAIN_LENGTH - 1):
            ref = noop.remote(ref)
        _check(ray.get(ref), 1)

    return _timed(work)


def fanout_holdfast() -> float:
    """Seconds for many tasks side by side, and one that adds them up."""

    def work() -> None:
        node: Any = durable_total.bind(*(durable_noop.bind(at) for at in range(FANOUT_WIDTH)))
        _check(workflow.run(node, workflow_id="fanout"), sum(range(FANOUT_WIDTH)))

    return _timed(work)


def fanout_plain_ray() -> float:
    """Seconds for many tasks side by side, and one that adds them up."""

    def work() -> None:
        ref = total.remote(*(noop.remote(at) for at in range(FANOUT_WIDTH)))
        _check(ray.get(ref), sum(range(FANOUT_WIDTH)))

    return _timed(work)


def arrays_holdfast() -> float:
    """Seconds for tasks of which each makes a large array of the one before."""

    def work() -> None:
        node: Any = durable_fill.bind()
        for _ in range(ARRAYS - 1):
            node = durable_grow.bind(node)
        _check(int(workflow.run(node, workflow_id="arrays")[-1]), ARRAYS)

    return _timed(work)


def arrays_plain_ray() -> float:
    """Seconds for tasks of which each makes a large array of the one before."""

    def work() -> None:
        ref = fill.remote()
        for _ in range(ARRAYS - 1):
            ref = grow.remote(ref)
        _check(int(ray.get(ref)[-1]), ARRAYS)

    return _timed(work)


def many_holdfast() -> float:
    """Seconds for many workflows of one task, all at once."""

    def work() -> None:
        refs = [workflow.run_async(durable_noop.bind(at), workflow_id=f"many-{at}") for at in range(MANY_WORKFLOWS)]
        _check(ray.get(refs), list(range(MANY_WORKFLOWS)))

    return _timed(work)


def many_awaited_holdfast() -> float:
    """Seconds for many workflows of one task, all at once, from an event loop."""

    async def run_all() -> list[Any]:
        running = (workflow.aio.run(durable_noop.bind(at), workflow_id=f"many-{at}") for at in range(MANY_WORKFLOWS))
        return await asyncio.gather(*running)

    return _timed(lambda: _check(asyncio.run(run_all()), list(range(MANY_WORKFLOWS))))


def many_plain_ray() -> float:
    """Seconds for as many tasks, all at once."""

    def work() -> None:
        refs = [noop.remote(at) for at in range(MANY_WORKFLOWS)]
        _check(ray.get(refs), list(range(MANY_WORKFLOWS)))

    return _timed(work)


def event_holdfast() -> float:
    """Median seconds from sending an event until the value of the workflow that waited for it is at the caller."""

    def work(workflow_id: str, value: ray.ObjectRef[Any]) -> None:
        workflow.send_event(workflow_id, "key", workflow_id)
        _check(ray.get(value), ("key", workflow_id))

    def wait(at: int) -> tuple[str, ray.ObjectRef[Any]]:
        waits: Any = workflow.wait_for_event(HTTPListener, "key")
        return f"event-{at}", workflow.run_async(waits, workflow_id=f"event-{at}")

    return statistics.median(_timed(partial(work, *waiting)) for waiting in [wait(at) for at in range(EVENTS)])


class _Events:
    """Keeps those who wait for an event until it is sent, in an actor's memory."""

    def __init__(self) -> None:
        self._there: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sent: dict[str, asyncio.Future[str]] = {}

    async def wait(self, key: str) -> str:
        """What is sent under this key."""
        self._sent[key] = asyncio.get_running_loop().create_future()
        self._there[key].set()
        return await self._sent[key]

    async def is_waited_for(self, key: str) -> None:
        """Returns when somebody waits."""
        await self._there[key].wait()

    async def send(self, key: str, payload: str) -> None:
        """To who waits under this key."""
        self._sent[key].set_result(payload)


# Ray's hints know no actor classes.
Events: Any = ray.remote(num_cpus=0)(_Events)


@ray.remote
def wait_for(events: Any, key: str) -> Any:
    """A task that waits for an event; as long as it does it has a process."""
    return ray.get(events.wait.remote(key))


def event_plain_ray() -> float:
    """Median seconds from sending an event to an actor until the value of the task that waited for it is at the caller.

    One task waits at a time, for two hundred at once would be as many processes; and nobody waits for the actor to
    say that it has the event.
    """
    events = Events.remote()

    def measure(key: str) -> float:
        value = wait_for.remote(events, key)
        ray.get(events.is_waited_for.remote(key))

        def work() -> None:
            events.send.remote(key, key)
            _check(ray.get(value), key)

        return _timed(work)

    return statistics.median(measure(f"event-{at}") for at in range(EVENTS))


class _Echo:
    """An actor that gives back what it is given."""

    def say(self, what: str) -> str:
        """What it was given."""
        return what


Echo: Any = ray.remote(num_cpus=0)(_Echo)


def call_plain_ray() -> float:
    """Median seconds of a call of an actor that waits for calls."""
    echo = Echo.remote()
    _check(ray.get(echo.say.remote("")), "")

    def work(at: int) -> None:
        _check(ray.get(echo.say.remote(f"event-{at}")), f"event-{at}")

    return statistics.median(_timed(partial(work, at)) for at in range(EVENTS))


_EVENTS = {f"event-{at}": {"holdfast.listeners.http.HTTPListener": 1} for at in range(EVENTS)}
_AT_ONCE = {f"at-once-{at}": {"add": actor_calls.AT_ONCE // actor_calls.ACTORS + 1} for at in range(actor_calls.ACTORS)}

WORKLOADS: Mapping[str, Workload] = {
    "latency": Workload(
        what=f"one-task workflow, median of {LATENCY_RUNS}",
        holdfast=latency_holdfast,
        plain_ray=latency_plain_ray,
        tasks_per_workflow={f"latency-{at}": {"noop": 1} for at in range(LATENCY_RUNS)},
        asked_speed=1 / 2.5,
    ),
    "chain": Workload(
        what=f"chain of {CHAIN_LENGTH} tasks",
        holdfast=chain_holdfast,
        plain_ray=chain_plain_ray,
        tasks_per_workflow={"chain": {"noop": CHAIN_LENGTH}},
        asked_speed=3.0,
    ),
    "fanout": Workload(
        what=f"fan-out of {FANOUT_WIDTH} tasks and their sum",
        holdfast=fanout_holdfast,
        plain_ray=fanout_plain_ray,
        tasks_per_workflow={"fanout": {"noop": FANOUT_WIDTH, "total": 1}},
        asked_speed=3.0,
    ),
    "many": Workload(
        what=f"{MANY_WORKFLOWS} one-task workflows at once, by run_async",
        holdfast=many_holdfast,
        plain_ray=many_plain_ray,
        tasks_per_workflow={f"many-{at}": {"noop": 1} for at in range(MANY_WORKFLOWS)},
        asked_speed=0.45,
        reached=False,
    ),
    "many-awaited": Workload(
        what=f"{MANY_WORKFLOWS} one-task workflows at once, by aio.run",
        holdfast=many_awaited_holdfast,
        plain_ray=many_plain_ray,
        tasks_per_workflow={f"many-{at}": {"noop": 1} for at in range(MANY_WORKFLOWS)},
        asked_speed=0.45,
    ),
    "arrays": Workload(
        what=f"chain of {ARRAYS} tasks passing arrays of {ARRAY_BYTES // 1_000_000} MB",
        holdfast=arrays_holdfast,
        plain_ray=arrays_plain_ray,
        tasks_per_workflow={"arrays": {"fill": 1, "grow": ARRAYS - 1}},
        asked_speed=0.6,
        reached=False,
    ),
    "event": Workload(
        what=f"event to result of a waiting workflow, against a task that waits for an actor, median of {EVENTS}",
        holdfast=event_holdfast,
        plain_ray=event_plain_ray,
        tasks_per_workflow=_EVENTS,
        asked_speed=1 / 1.6,
    ),
    "event-to-call": Workload(
        what="the same, against a bare call of an actor, for which nobody waited",
        holdfast=event_holdfast,
        plain_ray=call_plain_ray,
        tasks_per_workflow=_EVENTS,
        asked_speed=1 / 1.6,
    ),
    "actor-sequential": Workload(
        what=f"one virtual actor, {actor_calls.SEQUENTIAL} calls one after the other, against an actor of Ray's",
        holdfast=actor_calls.sequential_holdfast,
        plain_ray=actor_calls.sequential_plain_ray,
        tasks_per_workflow={"sequential": {"add": actor_calls.SEQUENTIAL + 1}},
        asked_speed=0.4,
    ),
    "actor-at-once": Workload(
        what=f"{actor_calls.AT_ONCE} calls over {actor_calls.ACTORS} virtual actors at once, by run_async, likewise",
        holdfast=actor_calls.at_once_holdfast,
        plain_ray=actor_calls.at_once_plain_ray,
        tasks_per_workflow=_AT_ONCE,
        asked_speed=0.45,
        reached=False,
    ),
    "actor-at-once-awaited": Workload(
        what="the same, by aio.run",
        holdfast=actor_calls.at_once_awaited_holdfast,
        plain_ray=actor_calls.at_once_plain_ray,
        tasks_per_workflow=_AT_ONCE,
        asked_speed=0.45,
    ),
    "actor-reads": Workload(
        what=f"{actor_calls.READS} read-only calls of a virtual actor, likewise",
        holdfast=actor_calls.reads_holdfast,
        plain_ray=actor_calls.reads_plain_ray,
        tasks_per_workflow={"read": {"add": 1}},
        asked_speed=0.7,
    ),
}


def _timed(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _check(found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"the workload gave {found!r} where {expected!r} was expected")
