"""A shopping cart that outlives every process. Run it: `python examples/shopping_cart.py`.

The cart is a virtual actor: an object with an id. It is paid for by a workflow, which its checkout starts under an id
that is made of the cart's: once, however often the checkout is run again after a crash.
"""

import tempfile
from typing import Any

import ray

from holdfast import workflow

PRICES = {"apple": 3, "bread": 4, "tea": 12}


@ray.remote
def charge(owner: str, amount: int) -> str:
    return f"{owner} paid {amount}"


@ray.remote
def ship(owner: str, items: list[str], receipt: str) -> str:
    return f"{', '.join(items)} on the way to {owner} ({receipt})"


@workflow.virtual_actor
class Cart(workflow.VirtualActor):
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.items: list[str] = []
        self.order = ""

    @workflow.virtual_actor.method
    def add(self, item: str) -> int:
        if item not in PRICES:
            raise ValueError(f"we sell no {item}")
        self.items.append(item)
        # Whoever leaves the cart alone for a day finds it empty. The reminder is set with the item, or not at all.
        workflow.remind(self, "forget", after_s=24 * 3600)
        return self.total()

    @workflow.virtual_actor.method
    def forget(self) -> None:
        self.items.clear()

    @workflow.virtual_actor.method
    def check_out(self) -> str:
        receipt: Any = charge.bind(self.owner, self.total())
        shipment: Any = ship.bind(self.owner, self.items, receipt)
        self.order = f"order-of-{self.actor_id}"
        workflow.run_async(shipment, workflow_id=self.order)
        self.items = []
        workflow.cancel_reminder(self, "forget")
        return self.order

    @workflow.virtual_actor.readonly
    def total(self) -> int:
        return sum(PRICES[item] for item in self.items)


if __name__ == "__main__":
    workflow.init(tempfile.mkdtemp(prefix="holdfast-cart-"))

    cart = Cart.get_or_create("cart-7", "ann")
    for article in ("apple", "tea"):
        print("added", article, "total", cart.add.run(article))
    try:
        cart.add.run("lamp")
    except ValueError as error:
        print("refused:", error)

    # Any process of the cluster finds it by its id, without its class.
    print("the total is", workflow.get_actor("cart-7").total.run())

    order = cart.check_out.run()
    print(workflow.get_output(order))
    print("left in the cart:", cart.total.run())

    cart_now = workflow.describe("cart-7")
    print(cart_now.status.value, "after", cart_now.state_version, "calls, the last one", cart_now.last_call)

    workflow.shutdown()
    ray.shutdown()
