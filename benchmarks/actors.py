"""Virtual actors that rest: `python -m benchmarks.actors [--count N] [--rest-s S] [--sample N] [--callers N]`.

So many actors are made and called once each, by several callers at a time, and left alone until their hosts have put
them away. Reports how fast that went; what each costs then, in memory (growth of the proportional set size of all
processes of the cluster, and what of it is no page of the store) and on disk; and what a call takes of one that is
rows only, and of the same one right after, one call at a time. JSON; progress on the error output. Ctrl-C ends all that
was started and removes the folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from benchmarks.machine import machine_line
from benchmarks.memory import Memory, memory_of_all
from holdfast import workflow

_WARM_UP = 1_000
_AT_A_TIME = 200
_SHOWN = 4
_TELL_EVERY_S = 10.0
_SEED = 7


@workflow.virtual_actor
class Device(workflow.VirtualActor):
    """A little state, as of a device or a cart."""

    def __init__(self, name: str) -> None:
        self.name, self.readings = name, [20.5]

    @workflow.virtual_actor.method
    def note(self, reading: float) -> int:
        """Note a reading."""
        self.readings = [*self.readings[-9:], reading]
        return len(self.readings)

    @workflow.virtual_actor.readonly
    def look(self) -> list[float]:
        """The last readings."""
        return self.readings


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.actors", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2_000, help="how many actors")
    parser.add_argument("--rest-s", type=float, default=45.0, help="seconds from the last call to the measurement")
    parser.add_argument("--sample", type=int, default=300, help="how many of them are called again")
    parser.add_argument("--callers", type=int, default=16, help="threads that make them")
    asked = parser.parse_args()
    try:
        figures = measure(asked.count, asked.rest_s, asked.sample, asked.callers)
    except KeyboardInterrupt:
        _tell("interrupted; nothing is left behind")
        return 130
    print(json.dumps({"machine": machine_line(), **figures}, indent=1))
    return 0


def measure(count: int, rest_s: float, sample: int, callers: int) -> dict[str, Any]:
    """Make actors, leave them alone, and call some of them.

    Args:
        count: How many.
        rest_s: Seconds that they are left alone; less than thirty, and they are not put away.
        sample: How many are called again, one after the other.
        callers: Threads that make them.
    """
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory(prefix="holdfast-actors-") as scratch:
        folder = Path(scratch) / "storage"
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            workflow.init(folder)
            # What every process has at hand from the first call on is no cost of an actor.
            _make("warm-up", _WARM_UP, callers)
            memory, disk = memory_of_all(), _bytes_in(folder)
            _tell(f"making {count:,} actors")
            made_s = _make("device", count, callers)
            _rest(rest_s)
            resting, on_disk = memory_of_all(), _bytes_in(folder)
            chosen = [f"device-{at}" for at in random.Random(_SEED).sample(range(count), min(sample, count))]
            _tell(f"calling {len(chosen):,} of them, and again")
            cold_ms, warm_ms = _call_twice(chosen)
            # Those called above are at hand: others.
            called = set(chosen)
            unread = [name for at in range(count) if (name := f"device-{at}") not in called][:sample]
            read_ms = _times_ms(unread, lambda actor: actor.look.run())
        finally:
            # Also when Ray or the platform had not come up.
            if ray.is_initialized():
                workflow.shutdown()
                ray.shutdown()
    return {
        "actors": count,
        "made_and_called_per_s": round(count / made_s, 1),
        "kib_each": _growth(memory, resting, count, lambda one: one.kib),
        "kib_each_without_pages_of_the_store": _growth(memory, resting, count, lambda one: one.own_kib),
        "largest_growth": _largest(memory, resting),
        "processes_more": len(resting) - len(memory),
        "disk_bytes_each": round((on_disk - disk) / count),
        "cold_call_ms": _summary(cold_ms),
        "warm_call_ms": _summary(warm_ms),
        "cold_read_ms": _summary(read_ms),
    }


def _make(prefix: str, count: int, callers: int) -> float:
    """Make actors and call each once. Seconds that it took."""

    def make(at: int) -> None:
        Device.get_or_create(f"{prefix}-{at}", f"{prefix} {at}").note.run(21.5)

    begun = told = time.perf_counter()
    threads = ThreadPoolExecutor(callers)
    try:
        for first in range(0, count, _AT_A_TIME):
            # A little at a time: Ctrl-C waits for no more than this.
            list(threads.map(make, range(first, min(first + _AT_A_TIME, count))))
            if time.perf_counter() - told > _TELL_EVERY_S:
                told = time.perf_counter()
                done = min(first + _AT_A_TIME, count)
                _tell(f"{done:,} of {count:,} made and called, {done / (told - begun):,.0f} a second")
    finally:
        threads.shutdown(cancel_futures=True)
    return time.perf_counter() - begun


def _rest(seconds: float) -> None:
    """Leave them alone. Nothing tells from outside when the last is put away; hosts do it after thirty seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _tell(f"they rest, {left:.0f} s more")
        time.sleep(min(left, _TELL_EVERY_S))


def _call_twice(actor_ids: list[str]) -> tuple[list[float], list[float]]:
    """What a call takes of each, and what another right after, in ms. The class is known to the caller."""
    times_ms = [_times_ms([actor_id, actor_id], lambda actor: actor.note.run(22.5)) for actor_id in actor_ids]
    return [cold for cold, _ in times_ms], [warm for _, warm in times_ms]


def _times_ms(actor_ids: list[str], call: Callable[[Any], Any]) -> list[float]:
    found = []
    for actor_id in actor_ids:
        actor = workflow.get_actor(actor_id)
        # Fetches the class, which the first call of a process would do otherwise.
        assert actor.definition.methods
        begun = time.perf_counter()
        call(actor)
        found.append((time.perf_counter() - begun) * 1e3)
    return found


def _growth(before: dict[int, Memory], after: dict[int, Memory], count: int, size: Callable[[Memory], int]) -> float:
    more = sum(size(one) - (size(before[pid]) if pid in before else 0) for pid, one in after.items())
    return round(more / count, 2)


def _largest(before: dict[int, Memory], after: dict[int, Memory]) -> dict[str, int]:
    """The processes that have grown most, in KiB."""
    growth = {f"{one.name} {pid}": one.kib - (before[pid].kib if pid in before else 0) for pid, one in after.items()}
    return dict(sorted(growth.items(), key=lambda item: -item[1])[:_SHOWN])


def _bytes_in(folder: Path) -> int:
    """What is allocated on disk: the store's file is sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _summary(times_ms: list[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    if not ordered:
        return {}
    return {"median": round(statistics.median(ordered), 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2)}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
