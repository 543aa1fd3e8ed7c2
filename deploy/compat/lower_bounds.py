"""Prints pip constraints that pin each dependency of Holdfast to the oldest version it allows.

Run it in an environment that has Holdfast's metadata and `packaging`. Ray is left out: the caller names its version.
What an old Ray needs stands in `before-ray-2.60.txt` beside this file.
"""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement

_DISTRIBUTION = "holdfast"


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Find the oldest version that each requirement allows.

    Args:
        requirements: Requirements as in a project's metadata, with their markers.

    Returns:
        Versions by the name of the distribution, without Ray and Holdfast itself.

    Raises:
        ValueError: A requirement has no lower bound, so that nobody can say what is tested.
    """
    bounds = {}
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name in {"ray", _DISTRIBUTION}:
            continue
        lowest = [part.version for part in requirement.specifier if part.operator in {">=", "=="}]
        if not lowest:
            raise ValueError(f"{text!r} has no lower bound: write {requirement.name}>=VERSION in pyproject.toml")
        bounds[requirement.name] = lowest[0]
    return bounds


if __name__ == "__main__":
    for name, version in sorted(lower_bounds(requires(_DISTRIBUTION) or []).items()):
        print(f"{name}=={version}")
