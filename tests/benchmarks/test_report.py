"""The verdicts of the benchmarks, on figures made up for the purpose."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.report import Comparison, as_table
from benchmarks.run import main


def comparison(holdfast_s: list[float], plain_ray_s: list[float], logged: list[int]) -> Comparison:
    return Comparison(
        workload="chain", holdfast_s=holdfast_s, plain_ray_s=plain_ray_s, logged_tasks=logged, expected_tasks=200
    )


def test_the_speed_is_the_ratio_of_the_medians() -> None:
    assert comparison([9.0, 0.5, 0.4], [0.2, 0.1, 7.0], [200] * 3).speed == pytest.approx(0.4)


def test_a_speed_at_the_asked_one_is_met_and_one_below_is_not() -> None:
    assert comparison([0.5], [0.25], [200]).met
    assert not comparison([0.5], [0.19], [200]).met


def test_one_missing_task_in_one_repeat_is_not_durable() -> None:
    assert comparison([0.5] * 2, [0.2] * 2, [200, 200]).durable
    assert not comparison([0.5] * 2, [0.2] * 2, [200, 199]).durable


def test_the_table_says_what_was_not_met() -> None:
    console = Console(width=160, record=True)
    console.print(as_table([comparison([0.5], [0.1], [199])], caption="a machine"))
    said = console.export_text()
    assert "0.20x" in said
    assert "0.4x: not met" in said
    assert "NOT ALL of 200" in said
    assert "a machine" in said


def test_an_unknown_workload_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="no workload 'sprint'; there are latency, chain, fanout, many, arrays, event"):
        main(["--only", "chain,sprint"])
