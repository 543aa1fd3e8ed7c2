"""Event loops for code of users that is asynchronous, and may block all the same.

Thousands share the loop of one thread. One that blocks it for long gets it for
itself: the others leave for a fresh loop, and begin anew there. So nothing may
run here that must not be begun twice. Each step's memory is counted to who took
it. Nothing here knows what runs, and nothing is ended by force: one that holds
Python's lock holds all threads, and is a matter for whoever started the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from holdfast.actors.black_box import Key
from holdfast.actors.operating_system import private_bytes
from holdfast.actors.user_code import hide, serve, user_code

log = logging.getLogger("holdfast")

_PATIENCE_S = 2.0
_LOOK_EVERY_S = 0.5


@dataclass(eq=False, slots=True)
class _Entry:
    """A piece of work. `lane` is where it runs now: a copy that runs elsewhere has been left behind.

    `grown` is by how many bytes the process grew in its steps; during one, `before` is how large it was at the start.
    """

    key: Key
    make: Callable[[], Coroutine[Any, Any, Any]]
    result: Future[Any] = field(default_factory=Future)
    lane: _Lane | None = None
    task: asyncio.Task[None] | None = None
    grown: int = 0
    before: int | None = None


class _Lane:
    """One loop in one thread. Threads are numbered in the order of their beginning."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.loop = asyncio.new_event_loop()
        self.entries: set[_Entry] = set()
        self.stepping: _Entry | None = None
        self.heard_s = time.monotonic()
        self.left = False
        self.over = False
        self.thread = threading.Thread(target=self._serve, name="holdfast-polls", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self.over:
            serve(self.loop, "listeners")
        self.loop.close()

    def end(self) -> None:
        """End the thread: nothing is left in it."""
        self.over = True
        self.loop.stop()

    def hear(self) -> None:
        self.heard_s = time.monotonic()


class PollLoops:
    """Runs coroutines on shared loops.

    Args:
        on_step: Told in the loop's thread its number and whose code is about to run; None when it has given the loop
            back.
        on_look: Called about twice a second, in a thread that nothing here can block but Python's lock.
    """

    def __init__(
        self, on_step: Callable[[int, Key | None], None], on_look: Callable[[PollLoops], None] | None = None
    ) -> None:
        self._on_step, self._on_look = on_step, on_look
        self._lock = threading.Lock()
        self._lanes = itertools.count()
        self._lane = _Lane(next(self._lanes))
        self._entries: set[_Entry] = set()
        if on_look is not None:
            # Before anything runs here: the first step may hold Python's lock, and the thread would never come to look.
            on_look(self)
        threading.Thread(target=self._watch, name="holdfast-poll-watch", daemon=True).start()

    async def run(self, key: Key, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run what `make` makes, and give its result or error. To cancel this is to cancel that.

        Args:
            key: Whose code it is.
            make: Called in the loop's thread; again, when another one blocked the loop.
        """
        entry = _Entry(key, make)
        with self._lock:
            self._entries.add(entry)
            self._place(entry, self._lane)
        try:
            return await asyncio.wrap_future(entry.result)
        finally:
            with self._lock:
                self._entries.discard(entry)
                lane, entry.lane = entry.lane, None
            # With a result it has left its lane by itself, and a lane that was left closes after its last entry.
            if lane is not None and (entry.result.cancelled() or not entry.result.done()):
                with contextlib.suppress(RuntimeError):
                    lane.loop.call_soon_threadsafe(self._end, lane, entry)

    def hungriest(self) -> tuple[Key, int] | None:
        """Whose steps have made the process grow most, and by how many bytes; None when nobody's did."""
        now = private_bytes()
        with self._lock:
            grown = [(entry.grown + now - (entry.before or now), entry.key) for entry in self._entries]
        most, key = max(grown, default=(0, None))
        return None if key is None or most <= 0 else (key, most)

    def _place(self, entry: _Entry, lane: _Lane) -> None:
        entry.lane = lane
        lane.entries.add(entry)
        lane.loop.call_soon_threadsafe(self._begin, lane, entry)

    def _begin(self, lane: _Lane, entry: _Entry) -> None:
        if entry.lane is lane:
            entry.task = lane.loop.create_task(self._follow(lane, entry))
            hide(entry.task)

    def _end(self, lane: _Lane, entry: _Entry) -> None:
        if entry.task is not None:
            entry.task.cancel()
        self._leave(lane, entry)

    def _leave(self, lane: _Lane, entry: _Entry) -> None:
        with self._lock:
            lane.entries.discard(entry)
            over = lane.left and not lane.entries
        if over:
            # What was cancelled in this turn of the loop still gets its turn.
            lane.loop.call_soon(lane.loop.call_soon, lane.end)

    async def _follow(self, lane: _Lane, entry: _Entry) -> None:
        try:
            with user_code:
                result = await _in_steps(entry.make(), entry, lane, self._on_step)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            # One that left the lane has been cancelled by us, and nobody is told.
            if entry.lane is lane and not entry.result.done():
                entry.result.set_exception(error)
        else:
            if entry.lane is lane and not entry.result.done():
                entry.result.set_result(result)
        self._leave(lane, entry)

    def _watch(self) -> None:
        while True:
            lane = self._lane
            with contextlib.suppress(RuntimeError):
                # Closed: its thread is dead.
                lane.loop.call_soon_threadsafe(lane.hear)
            if self._on_look is not None:
                self._on_look(self)
            time.sleep(_LOOK_EVERY_S)
            blocker = lane.stepping
            if not lane.thread.is_alive():
                log.error("listeners.loop_ended: its listeners are polled again on another event loop")
                self._move_on(lane, None)
            elif time.monotonic() - lane.heard_s > _PATIENCE_S and blocker is not None:
                log.warning(
                    "a listener blocks its event loop: the other polls go on without it workflow=%d task=%d",
                    *blocker.key[:2],
                )
                self._move_on(lane, blocker)

    def _move_on(self, lane: _Lane, blocker: _Entry | None) -> None:
        with self._lock:
            self._lane, lane.left = _Lane(next(self._lanes)), True
            others = [entry for entry in lane.entries if entry is not blocker and entry.lane is lane]
            for entry in others:
                lane.entries.discard(entry)
                self._place(entry, self._lane)


@types.coroutine
def _in_steps(
    work: Coroutine[Any, Any, Any], entry: _Entry, lane: _Lane, on_step: Callable[[int, Key | None], None]
) -> Generator[Any, Any, Any]:
    """Drive a coroutine from one `await` to the next, so that it is known at any time whose code runs."""
    sent: Any = None
    thrown: BaseException | None = None
    while True:
        if entry.lane is not lane and thrown is None:
            thrown = asyncio.CancelledError()
        lane.stepping = entry
        on_step(lane.number, entry.key)
        # A copy that was left behind may step at the same time, and forgets `entry.before` when it has.
        before = entry.before = private_bytes()
        try:
            awaited = work.throw(thrown) if thrown is not None else work.send(sent)
        except StopIteration as end:
            return end.value
        finally:
            entry.grown += private_bytes() - before
            entry.before = None
            on_step(lane.number, None)
            lane.stepping = None
        sent = thrown = None
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is meant for the coroutine
            thrown = error
