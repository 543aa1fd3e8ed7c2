"""Large values may be part of cycles, as every traceback makes them, and still travel without a copy."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np

from holdfast.actors.storage_access import portable
from holdfast.actors.values import dump, load

# In a process of its own: where this goes wrong, the interpreter crashes.
IN_A_CYCLE = """
import gc
import numpy as np
from holdfast.actors.storage_access import portable
from holdfast.actors.values import dump

for _ in range(10):
    payload = portable(dump(np.ones(50_000), objects={}))
    cycle = [payload]
    cycle.append(cycle)
    del payload, cycle
    gc.collect()
"""


def test_the_garbage_collector_takes_a_large_value_in_a_cycle() -> None:
    outcome = subprocess.run([sys.executable, "-c", IN_A_CYCLE], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_a_large_buffer_travels_out_of_band_and_a_small_one_does_not() -> None:
    value = [np.ones(50_000), np.arange(1_000)]
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(portable(dump(value, objects={})), 5, buffer_callback=buffers.append)
    assert [memoryview(buffer).nbytes for buffer in buffers] == [400_000]
    again = load(pickle.loads(pickled, buffers=buffers))
    assert [part.sum() for part in again] == [50_000, 499_500]


def test_a_payload_can_be_pickled_by_an_old_protocol() -> None:
    payload = portable(dump(np.ones(50_000), objects={}))
    assert load(pickle.loads(pickle.dumps(payload, 4))).sum() == 50_000
