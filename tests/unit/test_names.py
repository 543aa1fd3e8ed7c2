"""Task ids made unique: the first keeps its id, the others are numbered."""

from __future__ import annotations

from random import Random

import pytest

from holdfast.engine.names import TaskNames, was_given


def assigned(*asked: str) -> list[str]:
    names = TaskNames()
    return [names.assign(one) for one in asked]


def test_repeated_ids_are_numbered_from_1() -> None:
    assert assigned("a", "a", "b", "a") == ["a", "a_1", "b", "a_2"]


def test_a_number_that_was_asked_for_by_itself_is_left_out() -> None:
    assert assigned("a_1", "a", "a", "a") == ["a_1", "a", "a_2", "a_3"]


def test_who_asks_for_a_number_that_is_taken_is_numbered_too() -> None:
    assert assigned("a", "a", "a_1", "a_1") == ["a", "a_1", "a_1_1", "a_1_2"]


@pytest.mark.parametrize("name", ["a_0", "a_01", "_1", "a\nb_1", "", "ü_2"])
def test_ids_that_only_look_numbered_are_ids(name: str) -> None:
    assert assigned(name, name) == [name, f"{name}_1"]


@pytest.mark.parametrize("seed", range(200))
def test_ids_are_unique_and_stay_so_after_a_restart_at_any_point(seed: int) -> None:
    random = Random(seed)
    asked = [random.choice(("a", "a_1", "a_2", "a_1_1", "b")) for _ in range(25)]
    names = TaskNames()
    given: list[str] = []
    for one in asked:
        if random.random() < 0.2:
            names = TaskNames()
            for old in given:
                names.observe(old)
        given.append(names.assign(one))
    assert len(set(given)) == len(given)
    assert all(name == one or name.startswith(f"{one}_") for name, one in zip(given, asked, strict=True))


def test_memory_follows_the_ids_asked_for_and_not_the_tasks() -> None:
    names = TaskNames()
    for _ in range(1_000):
        names.assign("a")
    assert dict(names.counts) == {"a": 1_000}
    restarted = TaskNames()
    for given in ("a", *(f"a_{number}" for number in range(1, 1_000))):
        restarted.observe(given)
    assert dict(restarted.counts) == {"a": 1_000}


@pytest.mark.parametrize("seed", range(200))
def test_ids_are_unique_where_single_ones_are_looked_up(seed: int) -> None:
    random = Random(seed)
    asked = [random.choice(("a", "a_1", "a_2", "a_1_1", "b", "b_1")) for _ in range(25)]
    names, kept_whole = TaskNames(), TaskNames()
    given: list[str] = []
    for one in asked:
        if random.random() < 0.2:
            names = TaskNames(names.repeated, set(given).__contains__)
        given.append(names.assign(one))
        assert given[-1] == kept_whole.assign(one)


def test_single_ids_are_not_among_the_repeated_ones() -> None:
    names = TaskNames()
    for number in range(100):
        names.assign(f"order {number}")
    names.assign("pay")
    names.assign("pay")
    assert dict(names.repeated) == {"pay": 2}


def test_counts_tell_which_ids_were_given() -> None:
    counts = {"add": 3, "a_1": 2}
    assert [name for name in ("add", "add_1", "add_2", "a_1", "a_1_1") if not was_given(counts, name)] == []
    assert [name for name in ("add_3", "add_0", "add_01", "a", "a_1_2", "other", "") if was_given(counts, name)] == []
