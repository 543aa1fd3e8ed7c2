"""Checks that the placement group or node that a task asks Ray for is in this cluster.

A placement group and a node belong to one cluster, and Ray waits without an end
for those of another one. Nothing is placed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from holdfast.engine.errors import PlacementLostError

_NODE_LABEL = "ray.io/node-id"
_NODE_RESOURCE, _HEAD = "node:", "node:__internal_head__"


def names_a_place(options: Mapping[str, Any]) -> bool:
    """Whether Ray options name a placement group or a node."""
    return bool(_group(options) or _nodes(options))


def check_place(options: Mapping[str, Any]) -> None:
    """Refuse Ray options that no node of this cluster can meet, since they name what belongs to another one.

    Raises:
        PlacementLostError: Names the option and the place.
    """
    group = _group(options)
    if group is not None:
        option, wanted = group
        state = dict(placement_group_table(wanted)).get("state", "REMOVED")
        if state == "REMOVED":
            raise PlacementLostError(option, f"the placement group {wanted.id.hex()}")
    wanted_nodes = _nodes(options)
    if not wanted_nodes:
        return
    # Without type hints.
    list_nodes: Any = ray.nodes
    alive = [node for node in list_nodes() if node["Alive"]]
    known = {node["NodeID"] for node in alive} | {name for node in alive for name in node["Resources"]}
    for option, name in wanted_nodes:
        if name not in known:
            raise PlacementLostError(option, f"the node {name.removeprefix(_NODE_RESOURCE)!r}")


def _group(options: Mapping[str, Any]) -> tuple[str, PlacementGroup] | None:
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        return "scheduling_strategy", strategy.placement_group
    group = options.get("placement_group")
    return ("placement_group", group) if isinstance(group, PlacementGroup) and not group.is_empty else None


def _nodes(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, NodeAffinitySchedulingStrategy) and not strategy.soft:
        found.append(("scheduling_strategy", strategy.node_id))
    label = (options.get("label_selector") or {}).get(_NODE_LABEL)
    # `in(...)` and `!...` may be met by others.
    if isinstance(label, str) and label.isalnum():
        found.append(("label_selector", label))
    for name in options.get("resources") or {}:
        if name.startswith(_NODE_RESOURCE) and name != _HEAD:
            found.append(("resources", name))
    return found
