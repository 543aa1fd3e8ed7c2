import tempfile
from typing import Any

import ray

from holdfast import workflow
from holdfast.workflow.http_event_provider import HTTPListener


@ray.remote
def price(article: str) -> int:
    return {"lamp": 49, "chair": 89}[article]


@ray.remote
def add(one: int, other: int) -> int:
    return one + other


@ray.remote
def checkout(total: int) -> object:
    # A task may return more work in place of a value.
    return workflow.continuation(discount.bind(total, 10)) if total > 100 else total


@ray.remote
def discount(total: int, percent: int) -> int:
    return total * (100 - percent) // 100


@ray.remote
def thank(event: tuple[str, dict[str, str]]) -> str:
    _, payment = event
    return f"Thank you, {payment['by']}."


if __name__ == "__main__":
    workflow.init(tempfile.mkdtemp(prefix="holdfast-tour-"))

    # An ordinary Ray graph, with an id. Each result is on disk before the next task sees it.
    order: Any = checkout.bind(add.bind(price.bind("lamp"), price.bind("chair")))
    print("order-1 costs", workflow.run(order, workflow_id="order-1"))

    # The same id again, also after a crash, also tomorrow: the stored result, and nothing runs.
    print("order-1 costs", workflow.run(order, workflow_id="order-1"))

    # A workflow that waits for the world holds no process meanwhile.
    paid = workflow.wait_for_event(HTTPListener, event_key="payment")
    answer = workflow.run_async(thank.bind(paid), workflow_id="order-2")
    workflow.send_event("order-2", "payment", {"by": "Ada"})
    print(ray.get(answer))

    for workflow_id, status in workflow.list_all():
        print(workflow_id, status)

    workflow.shutdown()
    ray.shutdown()
