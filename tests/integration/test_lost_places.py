"""A task that asks for a node, or a placement group, of another cluster fails by name, and does not wait for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from holdfast import workflow
from holdfast.workflow.exceptions import PlacementLostError

OTHER_NODE = "ab" * 28


@ray.remote
def one() -> int:
    return 1


@pytest.mark.parametrize(
    "options",
    [
        {"scheduling_strategy": NodeAffinitySchedulingStrategy(OTHER_NODE, soft=False)},
        {"label_selector": {"ray.io/node-id": OTHER_NODE}},
        {"resources": {"node:203.0.113.7": 0.001}},
    ],
    ids=["node affinity", "label of a node", "resource of a node"],
)
def test_a_node_of_another_cluster_is_a_failure_that_names_it(platform: Path, options: dict[str, Any]) -> None:
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        ray.get(workflow.run_async(one.options(**options).bind()), timeout=60)
    assert isinstance(failure.value.__cause__, PlacementLostError)
    assert failure.value.__cause__.option == next(iter(options))


def test_a_placement_group_that_is_gone_is_a_failure_that_names_it(platform: Path) -> None:
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group)
    assert workflow.run(one.options(scheduling_strategy=strategy).bind()) == 1
    remove_placement_group(group)
    with pytest.raises(workflow.WorkflowExecutionError) as failure:
        ray.get(workflow.run_async(one.options(scheduling_strategy=strategy).bind()), timeout=60)
    assert isinstance(failure.value.__cause__, PlacementLostError)
    assert group.id.hex() in str(failure.value.__cause__)


def test_places_of_this_cluster_are_used(platform: Path) -> None:
    node = ray.get_runtime_context().get_node_id()
    for soft, where in ((False, node), (True, OTHER_NODE)):
        strategy = NodeAffinitySchedulingStrategy(where, soft=soft)
        assert workflow.run(one.options(scheduling_strategy=strategy).bind()) == 1


def test_a_virtual_actor_is_not_put_into_a_placement_group(platform: Path) -> None:
    class Placed:
        def look(self) -> int:
            return 1

    with pytest.raises(ValueError, match="'placement_group' cannot be given to a virtual actor"):
        workflow.virtual_actor(placement_group="default")(Placed)
