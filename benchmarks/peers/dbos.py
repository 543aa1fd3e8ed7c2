"""The workloads on DBOS with SQLite, its default: `python -m benchmarks.peers.dbos WORKLOAD FOLDER`.

Its steps run in this process, one after another within a workflow. That is how it is used.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from dbos import DBOS, SetWorkflowID

from benchmarks import sizes

_WARM_UP_STEPS = 32
_PATIENCE_S = 600
# It looks for events about once a second.
_EVENTS = 20


@DBOS.step()
def noop(value: int) -> int:
    """A step that does nothing."""
    return value


@DBOS.step()
def total(values: list[int]) -> int:
    """The sum of what the steps before it gave."""
    return sum(values)


@DBOS.step()
def fill() -> Any:
    """An array of bytes, all 1."""
    import numpy as np  # noqa: PLC0415 - needed by this workload only

    return np.ones(sizes.ARRAY_BYTES, dtype=np.uint8)


@DBOS.step()
def grow(array: Any) -> Any:
    """A new array, each byte one more."""
    return array + 1


@DBOS.workflow()
def one_step(value: int) -> int:
    """A workflow of one step."""
    return noop(value)


@DBOS.workflow()
def chain_of_steps(length: int) -> int:
    """Steps of which each takes the result of the one before."""
    value = 1
    for _ in range(length):
        value = noop(value)
    return value


@DBOS.workflow()
def fan_out(width: int) -> int:
    """Many steps, and one that adds them up."""
    return total([noop(at) for at in range(width)])


@DBOS.workflow()
def arrays_in_a_row(count: int) -> int:
    """Steps of which each makes a large array of the one before."""
    array = fill()
    for _ in range(count - 1):
        array = grow(array)
    return int(array[-1])


@DBOS.workflow()
def wait_for_one() -> Any:
    """Waits for an event."""
    return DBOS.recv("key", timeout_seconds=_PATIENCE_S)


def latency() -> float:
    """Median seconds of a workflow of one step."""
    return statistics.median(_timed(partial(_check, at, one_step, at)) for at in range(sizes.LATENCY_RUNS))


def chain() -> float:
    """Seconds for a chain."""
    return _timed(lambda: _check(1, chain_of_steps, sizes.CHAIN_LENGTH))


def fanout() -> float:
    """Seconds for many steps and their sum."""
    return _timed(lambda: _check(sum(range(sizes.FANOUT_WIDTH)), fan_out, sizes.FANOUT_WIDTH))


def many() -> float:
    """Seconds for many workflows of one step, all at once."""

    def work() -> None:
        handles = [DBOS.start_workflow(one_step, at) for at in range(sizes.MANY_WORKFLOWS)]
        assert [handle.get_result() for handle in handles] == list(range(sizes.MANY_WORKFLOWS))

    return _timed(work)


def arrays() -> float:
    """Seconds for a chain that passes large arrays."""
    return _timed(lambda: _check(sizes.ARRAYS, arrays_in_a_row, sizes.ARRAYS))


def event() -> float:
    """Median seconds from sending an event until the result of the workflow that waited for it is there."""
    handles = []
    for at in range(_EVENTS):
        with SetWorkflowID(f"event-{at}"):
            handles.append(DBOS.start_workflow(wait_for_one))

    def work(handle: Any) -> None:
        DBOS.send(handle.workflow_id, handle.workflow_id, "key")
        assert handle.get_result() == handle.workflow_id

    return statistics.median(_timed(partial(work, handle)) for handle in handles)


def _check(expected: Any, function: Callable[..., Any], *arguments: Any) -> None:
    found = function(*arguments)
    assert found == expected, f"{found!r} in place of {expected!r}"


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


WORKLOADS = {one.__name__: one for one in (latency, chain, fanout, many, arrays, event)}


def main(workload: str, folder: str) -> dict[str, float]:
    """Measure."""
    logging.disable(logging.WARNING)
    DBOS(config={"name": "benchmark", "system_database_url": f"sqlite:///{folder}.sqlite", "log_level": "ERROR"})
    DBOS.launch()
    try:
        fan_out(_WARM_UP_STEPS)
        return {"seconds": WORKLOADS[workload]()}
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
