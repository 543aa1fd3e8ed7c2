"""Which event goes to which task: streams read in order, each event once."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

from holdfast.engine.graph import TaskIndex

Stream: TypeAlias = tuple[str, str]


class Inbox:
    """The unread events of one workflow, and the tasks that wait for one.

    Events of a stream are taken in the order of their numbers by the tasks in
    the order in which they began to wait. Never both are there: an event
    without a reader, or a reader without an event.
    """

    def __init__(self, last_number: int = 0) -> None:
        self._last_number = last_number
        self._unread: dict[Stream, deque[tuple[int, Any]]] = {}
        self._readers: dict[Stream, deque[TaskIndex]] = {}

    def restore(self, stream: Stream, number: int, value: Any) -> None:
        """Put an unread event back, as loaded; in the order of the numbers."""
        self._unread.setdefault(stream, deque()).append((number, value))
        self._last_number = max(self._last_number, number)

    def receive(self, stream: Stream, number: int, value: Any) -> TaskIndex | None:
        """Take an event in; the task that gets it, or None when it was kept or is a repetition."""
        if number <= self._last_number:
            return None
        self._last_number = number
        readers = self._readers.get(stream)
        if not readers:
            self._unread.setdefault(stream, deque()).append((number, value))
            return None
        reader = readers.popleft()
        if not readers:
            del self._readers[stream]
        return reader

    def read(self, stream: Stream, task: TaskIndex) -> tuple[int, Any] | None:
        """The next event for this task, or None when it has to wait (and is then in line)."""
        unread = self._unread.get(stream)
        if not unread:
            self._readers.setdefault(stream, deque()).append(task)
            return None
        event = unread.popleft()
        if not unread:
            del self._unread[stream]
        return event

    def give_back(self, stream: Stream, number: int, value: Any) -> TaskIndex | None:
        """Put an event back in its place; a task that waits, and is out of the line now, so that it reads again."""
        unread = self._unread.setdefault(stream, deque())
        later = sum(number < other for other, _ in unread)
        unread.insert(len(unread) - later, (number, value))
        readers = self._readers.get(stream)
        if not readers:
            return None
        reader = readers.popleft()
        if not readers:
            del self._readers[stream]
        return reader

    def has_reader(self, stream: Stream) -> bool:
        """Whether some task waits for an event of this stream."""
        return stream in self._readers

    def leave(self, stream: Stream, task: TaskIndex) -> None:
        """This task waits no longer."""
        readers = self._readers.get(stream)
        if readers and task in readers:
            readers.remove(task)
            if not readers:
                del self._readers[stream]
