"""The engine: decides. Pure state machines; no Ray, asyncio, LMDB, clock or I/O in here."""
