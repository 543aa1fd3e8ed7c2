"""Runs a bundle of tasks inside a Ray worker, one after the other.

A bundle is a guess that each of its tasks is tiny. When the guess is wrong a
thread tells what is done, and gives back what has not begun, so that neither
waits here for the one that takes long. What of it is done is noted where the executor finds it
if this process dies with one of the tasks, or because of one. On a node where
nobody would find it each task is reported before the next begins.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from holdfast.actors.bundle_box import BundleBox

Key: TypeAlias = tuple[int, int, int]
"""(workflow, task, attempt)."""

REPORTED = b""
"""In place of a reply that the executor has already."""


class May(Enum):
    """Whether a task may begin where it is."""

    BEGIN = "begin"
    NOT_HERE = "not here"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReply:
    """What came of a bundle, so far or in all. Tasks that it does not name nobody waits for any more.

    Attributes:
        replies: Of the tasks that have ended, packed, in order; `REPORTED` for those the executor has already.
        unbegun: Which are given back.
        busy: The task that goes on, if one does.
        busy_s: For how long it has run.
        round: Which of the bundles that the worker was given, one after the other.
    """

    replies: Sequence[bytes]
    unbegun: Sequence[Key]
    busy: Key | None = None
    busy_s: float = 0.0
    round: int = 0


@dataclass(slots=True, eq=False)
class OpenBundle:
    """A bundle that is being run, shared by the thread that runs it and the one that watches.

    Args:
        keys: Of its tasks, in order.
        give_back: Tells the executor what is done and what is given back.
        slice_s: Seconds after which what has not begun is given back.
        chained: Whether each task follows the one before. Then nobody waits for the others while they come along, and
            it is given back when one of them alone takes so long.
        round: Which bundle of the worker it is.
    """

    keys: Sequence[Key]
    give_back: Callable[[BundleReply], object]
    slice_s: float
    chained: bool = False
    round: int = 0
    _todo: deque[int] = field(init=False)
    _replies: list[bytes] = field(default_factory=list)
    _given_back: list[Key] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: Key | None = None
    _begun_s: float = 0.0
    _opened_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._todo = deque(range(len(self.keys)))

    def run(
        self,
        run_one: Callable[[int], bytes],
        box: BundleBox | None,
        may_begin: Callable[[int], May] = lambda _: May.BEGIN,
    ) -> BundleReply:
        """Run all that is not given back.

        Args:
            run_one: Runs the task at a place in the bundle, and gives its reply, or `REPORTED`.
            box: Where it is noted; None when `run_one` reports each task.
            may_begin: Asked before the task at a place is begun. If it may not, it is given back with all after it, or
                forgotten.

        Returns:
            All that came of it, what the executor was told before included: a message may be lost.
        """
        _watcher.watch(self)
        try:
            while (place := self._begin(box, may_begin)) is not None:
                reply = run_one(place)
                with self._lock:
                    if box is not None:
                        box.end(reply)
                    self._replies.append(reply)
                    self._running = None
        finally:
            _watcher.forget(self)
        with self._lock:
            return BundleReply(replies=tuple(self._replies), unbegun=tuple(self._given_back), round=self.round)

    @property
    def due_s(self) -> float:
        """When it takes too long, by the monotonic clock, if what runs now goes on."""
        since_s = max(self._opened_s, self._begun_s) if self.chained else self._opened_s
        return since_s + self.slice_s

    def _begin(self, box: BundleBox | None, may_begin: Callable[[int], May]) -> int | None:
        # This thread alone takes from the front.
        may = may_begin(self._todo[0]) if self._todo else May.BEGIN
        with self._lock:
            if may is May.NEVER:
                self._todo.clear()
            elif may is May.NOT_HERE:
                self._drop_rest()
            if not self._todo:
                return None
            self._begun_s = time.monotonic()
            if box is not None:
                box.begin()
            place = self._todo.popleft()
            self._running = self.keys[place]
            return place

    def _drop_rest(self) -> None:
        self._given_back += (self.keys[place] for place in self._todo)
        self._todo.clear()

    def give_back_rest(self) -> None:
        """Tell what is done, and give back what has not begun."""
        with self._lock:
            self._drop_rest()
            told = BundleReply(
                replies=tuple(self._replies),
                unbegun=tuple(self._given_back),
                busy=self._running,
                busy_s=time.monotonic() - self._begun_s,
                round=self.round,
            )
        self.give_back(told)


class _Watcher:
    """Looks after the bundle that runs in this process: one thread for all of them, one after the other.

    To start a thread for each would cost as much as a tiny task. It sleeps until the time of the bundle that it saw
    last, and looks then which one runs, so that most bundles come and go without waking it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bundle: OpenBundle | None = None
        self._looks_s = math.inf
        self._process = 0

    def watch(self, bundle: OpenBundle) -> None:
        """Have a bundle give back what it has not begun when it takes too long."""
        with self._changed:
            self._bundle = bundle
            if self._process != os.getpid():
                self._process = os.getpid()
                threading.Thread(target=self._watch, name="holdfast-bundle", daemon=True).start()
            elif bundle.due_s < self._looks_s:
                self._changed.notify()

    def forget(self, bundle: OpenBundle) -> None:
        """A bundle is over."""
        with self._changed:
            if self._bundle is bundle:
                self._bundle = None

    def _watch(self) -> None:
        while True:
            self._next_due().give_back_rest()

    def _next_due(self) -> OpenBundle:
        with self._changed:
            while True:
                if self._bundle is None:
                    self._looks_s = math.inf
                    self._changed.wait()
                elif (left_s := (due_s := self._bundle.due_s) - time.monotonic()) > 0:
                    self._looks_s = due_s
                    self._changed.wait(left_s)
                else:
                    due, self._bundle = self._bundle, None
                    return due


_watcher = _Watcher()
