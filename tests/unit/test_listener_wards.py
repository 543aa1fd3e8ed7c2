"""In which host a listener polls: those who end theirs, known or not, are parted from those who do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from holdfast.actors.listener_wards import MOST_LOST, STEADY_S, WARDS, Standing

FORGIVEN_DEATHS = 3
SOON_S = 1.0


def test_all_begin_in_one_host_and_go_back_there_after_a_single_loss() -> None:
    standing = Standing(key=(7, 1), mark=1)
    assert standing.ward == 0
    lost = standing.lost_again(SOON_S)
    assert lost is not None
    assert lost.ward == 0


def test_one_that_has_ended_its_host_goes_to_a_ward() -> None:
    wards = {Standing(key=(7, task), mark=1, deaths=1).ward for task in range(100)}
    assert wards == set(range(1, WARDS + 1))


def test_losses_far_apart_are_nobodys_fault() -> None:
    standing = Standing(key=(7, 1), mark=1)
    for _ in range(10 * MOST_LOST):
        again = standing.lost_again(STEADY_S)
        assert again is not None
        assert again.ward == 0
        standing = again


@pytest.mark.parametrize("guilty", range(5))
def test_whoever_ends_hosts_unseen_is_found_and_nobody_else_is_taken_for_it(guilty: int) -> None:
    """At the worst pace: the guilty one ends its host so often that nobody has ever been there for long."""
    everybody = {task: Standing(key=(1, task), mark=1) for task in range(1000)}
    losses: Counter[int] = Counter()
    while everybody[guilty].deaths <= FORGIVEN_DEATHS:
        ward = everybody[guilty].ward
        for task, standing in everybody.items():
            if standing.ward == ward:
                losses[task] += 1
                again = standing.lost_again(SOON_S)
                everybody[task] = again or replace(standing, lost=0, deaths=standing.deaths + 1)
    assert losses[guilty] == MOST_LOST * (FORGIVEN_DEATHS + 1)
    del everybody[guilty]
    assert max(standing.deaths for standing in everybody.values()) <= FORGIVEN_DEATHS
    # Nor do they pay for it with their time: most have hardly lost their host beside what all lost in the first one.
    del losses[guilty]
    assert sum(losses.values()) / len(losses) < MOST_LOST * (FORGIVEN_DEATHS + 1) / 2
