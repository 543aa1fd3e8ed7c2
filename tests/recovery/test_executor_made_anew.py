"""An executor that is gone for good, as one is that could not start again, is made anew; who asks meanwhile waits."""

from __future__ import annotations

from pathlib import Path

import ray

from holdfast import workflow
from holdfast.actors import names


@ray.remote
def identity(value: int) -> int:
    return value


def test_requests_wait_for_the_one_made_in_its_place(storage: Path) -> None:
    assert workflow.run(identity.bind(1), workflow_id="before") == 1
    for entry in workflow.platform_status()["executors"]:
        ray.kill(ray.get_actor(entry["name"], namespace=names.NAMESPACE), no_restart=True)
    assert workflow.run(identity.bind(2), workflow_id="after") == 2
    workflow.delete("before")
    assert [workflow_id for workflow_id, _ in workflow.list_all()] == ["after"]
