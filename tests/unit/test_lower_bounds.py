"""Each dependency names the oldest version that it works with, so that this version can be tested."""

from __future__ import annotations

from importlib.metadata import requires

import pytest

from deploy.compat.lower_bounds import lower_bounds


def test_each_dependency_of_ours_names_the_oldest_version_it_works_with() -> None:
    bounds = lower_bounds(requires("holdfast") or [])

    assert {"aiokafka", "apscheduler", "lmdb", "orjson", "platformdirs", "rich"} <= set(bounds)


def test_markers_and_extras_are_no_part_of_a_bound_and_ray_is_left_to_the_caller() -> None:
    found = lower_bounds(
        ["aiokafka[lz4,zstd]<1,>=0.14", "pytest>=8.2; extra == 'dev'", "ray[serve]>=2.48", "holdfast[serve]"]
    )

    assert found == {"aiokafka": "0.14", "pytest": "8.2"}


def test_a_dependency_without_a_lower_bound_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'rich<14' has no lower bound: write rich>=VERSION"):
        lower_bounds(["rich<14"])
