"""The actors: run. Thin Ray shells around the engine and the store, and the function that runs one task in a worker."""
