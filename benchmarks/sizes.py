"""How much of each workload is done, by all engines. Imports nothing: peers have environments of their own."""

LATENCY_RUNS = 100
CHAIN_LENGTH = 200
FANOUT_WIDTH = 1000
MANY_WORKFLOWS = 500
EVENTS = 200
ARRAYS = 5
ARRAY_BYTES = 50_000_000
