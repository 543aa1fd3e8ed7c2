"""What goes to workers together, and what alone."""

from __future__ import annotations

import pytest

from holdfast.actors.bundling import (
    MOST_OUT,
    MOST_TOGETHER,
    OVERDUE_S,
    PROBE_S,
    SLICE_S,
    TINY_S,
    Bundle,
    Durations,
    TaskQueue,
)

WORKERS = 2
PLACES = 2 * WORKERS
Task = tuple[str, int]


class Queue:
    """A queue of tasks (function, number)."""

    def __init__(self, **known_s: float) -> None:
        self.durations = Durations()
        for function, seconds in known_s.items():
            self.durations.note(function, seconds)
        self.queue: TaskQueue[Task] = TaskQueue(self.durations, lambda task: task[0])

    def put(self, function: str, count: int) -> None:
        for number in range(count):
            self.queue.put((function, number))

    def take(self, now_s: float = 0.0, workers: int | None = WORKERS) -> list[Bundle[Task]]:
        return self.queue.take(workers, now_s)[0]

    def sizes(self, now_s: float = 0.0, workers: int | None = WORKERS) -> list[int]:
        return [len(bundle.tasks) for bundle in self.take(now_s, workers)]


def test_one_that_waits_alone_goes_at_once() -> None:
    queue = Queue()
    queue.put("f", 1)
    assert queue.sizes() == [1]


def test_tiny_ones_go_in_bundles_of_a_fair_share() -> None:
    queue = Queue(f=0.001)
    queue.put("f", 20)
    assert queue.sizes() == [5] * PLACES
    assert queue.sizes() == []


def test_what_is_not_worth_a_bundle_waits_for_the_one_that_is_out() -> None:
    queue = Queue(f=0.00001)
    queue.put("f", 20)
    (first,) = queue.take()
    assert len(first.tasks) == 20
    queue.put("f", 30)
    assert queue.sizes() == []
    queue.queue.ended(first)
    assert queue.sizes() == [30]


def test_no_bundle_is_larger_or_longer_than_allowed() -> None:
    queue = Queue(quick=0.00001, rather=TINY_S)
    queue.put("quick", 1000)
    assert queue.sizes() == [MOST_TOGETHER] * PLACES
    queue = Queue(rather=TINY_S)
    queue.put("rather", 1000)
    assert queue.sizes() == [round(SLICE_S / TINY_S)] * PLACES


def test_slow_ones_go_alone_and_as_many_as_there_are() -> None:
    queue = Queue(slow=1.0)
    queue.put("slow", 50)
    assert queue.sizes() == [1] * 50


def test_a_slow_one_ends_the_bundle_before_it() -> None:
    queue = Queue(quick=0.001, slow=1.0)
    queue.put("quick", 3)
    queue.put("slow", 1)
    queue.put("quick", 3)
    assert queue.sizes() == [2, 1, 1, 2, 1]


def test_those_that_nothing_limits_go_alone_even_if_they_are_tiny() -> None:
    queue = Queue(f=0.00001)
    queue.put("f", 10)
    assert queue.sizes(workers=None) == [1] * 10


def test_of_a_function_that_is_not_known_a_few_go_ahead_and_the_others_follow_when_it_is() -> None:
    queue = Queue()
    queue.put("f", 40)
    bundles, again_s = queue.queue.take(WORKERS, 5.0)
    assert [len(bundle.tasks) for bundle in bundles] == [1] * PLACES
    assert again_s == 5.0 + PROBE_S
    queue.durations.note("f", 0.00015)
    queue.queue.ended(bundles[0])
    assert queue.sizes(5.001) == [36]


def test_when_the_first_take_long_the_others_wait_no_longer() -> None:
    queue = Queue()
    queue.put("f", 40)
    assert queue.sizes(5.0) == [1] * PLACES
    assert queue.sizes(5.0 + PROBE_S / 2) == []
    assert queue.sizes(5.0 + PROBE_S) == [1] * 36


def test_a_place_that_is_given_up_goes_to_another_bundle() -> None:
    queue = Queue(f=0.001)
    queue.put("f", PLACES)
    first, *_ = queue.take()
    queue.put("f", 3)
    assert queue.sizes() == []
    queue.queue.free_place(first)
    queue.queue.free_place(first)
    assert queue.sizes() == [3]
    # Its end frees no second one.
    queue.queue.ended(first)
    queue.put("f", 1)
    assert queue.sizes() == []


def test_one_that_is_not_known_and_takes_long_keeps_no_tiny_one_waiting() -> None:
    queue = Queue(tiny=0.00001)
    queue.put("outer", PLACES)
    outer = queue.take(5.0)
    assert len(outer) == PLACES
    queue.put("tiny", 3)
    bundles, again_s = queue.queue.take(WORKERS, 5.001)
    assert (bundles, again_s) == ([], 5.0 + OVERDUE_S)
    assert queue.sizes(5.0 + OVERDUE_S) == [3]
    # And by now it is known.
    queue.put("outer", 2 * PLACES)
    assert queue.sizes(5.0 + OVERDUE_S) == [1] * 2 * PLACES
    for bundle in outer:
        queue.queue.ended(bundle)


def test_a_tiny_one_goes_at_once_beside_one_that_is_not_known() -> None:
    queue = Queue(tiny=0.00001)
    queue.put("outer", 1)
    assert queue.sizes(5.0) == [1]
    queue.put("tiny", 1)
    assert queue.sizes(5.001) == [1]
    queue.put("tiny", 2)
    bundles, again_s = queue.queue.take(WORKERS, 5.002)
    assert (bundles, again_s) == ([], 5.0 + OVERDUE_S)


def test_what_a_worker_gives_back_goes_before_what_waits() -> None:
    queue = Queue(slow=1.0)
    queue.put("slow", 1)
    queue.queue.put_back([("slow", 7), ("slow", 8)])
    assert [bundle.tasks for bundle in queue.take()] == [[("slow", 7)], [("slow", 8)], [("slow", 0)]]


def test_only_so_many_are_out() -> None:
    queue = Queue(slow=1.0)
    queue.put("slow", MOST_OUT + 10)
    out = queue.take()
    assert (len(out), len(queue.queue)) == (MOST_OUT, 10)
    queue.queue.ended(out[0])
    assert queue.sizes() == [1]


def test_those_not_wanted_any_more_do_not_go() -> None:
    queue = Queue(slow=1.0, quick=0.00001)
    queue.queue.wanted = lambda task: task[1] % 2 == 1
    queue.put("slow", 4)
    queue.put("quick", 16)
    taken = [bundle.tasks for bundle in queue.take()]
    assert taken[:2] == [[("slow", 1)], [("slow", 3)]]
    assert [number for tasks in taken[2:] for _, number in tasks] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert not queue.queue.idle


class TestDurations:
    def test_one_slow_task_counts_at_once_and_is_forgotten_slowly(self) -> None:
        durations = Durations()
        for _ in range(100):
            durations.note("f", 0.0001)
        durations.note("f", 1.0)
        assert durations.expected_s("f") == 1.0
        quick = 0
        while (durations.expected_s("f") or 0.0) > TINY_S:
            durations.note("f", 0.0001)
            quick += 1
        assert 10 < quick < 50

    def test_a_clock_that_was_set_back_gives_no_negative_time(self) -> None:
        durations = Durations()
        durations.note("f", -5.0)
        assert durations.expected_s("f") == 0.0

    @pytest.mark.parametrize("others", [4095, 4096])
    def test_functions_that_nobody_uses_are_forgotten(self, others: int) -> None:
        durations = Durations()
        durations.note("f", 0.5)
        for number in range(others):
            durations.note(f"other-{number}", 0.5)
        assert (durations.expected_s("f") is None) is (others == 4096)
