"""The business process of one order: reserve, charge, wait for the customer, ship, write a receipt.

Each function is a task: its result is logged, and once logged it is never run again. Which task comes
next is decided by the ones before it, who hand over with `workflow.continuation`. A crash in the middle
of a task means that the task is run again, which is why the outside world takes each operation once.
"""

from __future__ import annotations

from typing import Any

import ray

from examples.orders.orders_file import Order
from examples.orders.outside import Outside
from examples.orders.payments import CardDeclinedError, PaymentService
from examples.orders.warehouse import Warehouse
from holdfast import workflow
from holdfast.listeners import KafkaListener

CONFIRMATION_PATIENCE_S = 8.0
CHARGE_TIMEOUT_S = 1.5

SHIPPED = "shipped"
OUT_OF_STOCK = "out of stock"
DECLINED = "card declined"
NOT_CONFIRMED = "not confirmed"
OUTCOMES = (SHIPPED, NOT_CONFIRMED, DECLINED, OUT_OF_STOCK)


@ray.remote(**workflow.options(task_id="reserve"))
def reserve(outside: Outside, topic: str, order: Order) -> Any:
    """Reserve the stock, and go on to the payment."""
    if not Warehouse(outside).reserve(order.order_id, order.items):
        return workflow.continuation(receipt.bind(outside, order, OUT_OF_STOCK))
    return workflow.continuation(await_confirmation.bind(outside, topic, order, charge.bind(outside, order)))


# The back-off is a row in the store, not a worker that sleeps; a declined card is final; and an attempt
# whose answer does not come is stopped and tried again.
@ray.remote(
    **workflow.options(
        task_id="charge",
        retry=workflow.Retry(
            max_attempts=8, initial_s=0.2, factor=2.0, max_s=2.0, jitter=0.2, non_retryable=(CardDeclinedError,)
        ),
        timeout_s=CHARGE_TIMEOUT_S,
        catch_exceptions=True,
    )
)
def charge(outside: Outside, order: Order) -> str:
    """Charge the card. The next task gets (charge id, None) or (None, error)."""
    return PaymentService(outside).charge(order.order_id, order.total_cents)


@ray.remote(**workflow.options(task_id="await_confirmation"))
def await_confirmation(outside: Outside, topic: str, order: Order, charged: tuple[str | None, Exception | None]) -> Any:
    """Wait for the message of the customer's confirmation, or for our patience to end. Nothing runs meanwhile."""
    _, problem = charged
    if problem is not None:
        released: Any = release.bind(outside, order, False)
        return workflow.continuation(receipt.bind(outside, order, DECLINED, released))
    confirmation = workflow.wait_for_event(KafkaListener, topic=topic, key=order.order_id)
    patience = workflow.sleep(CONFIRMATION_PATIENCE_S)
    first = workflow.wait([confirmation, patience], num_returns=1)
    return workflow.continuation(decide.bind(outside, order, first))


@ray.remote(**workflow.options(task_id="decide"))
def decide(outside: Outside, order: Order, first: tuple[list[Any], list[Any]]) -> Any:
    """Ship in parallel parcels when the payment was confirmed; otherwise undo what was done."""
    ready, _ = first
    # The event is a message; a sleep that is over is None.
    if ready[0] is None:
        released: Any = release.bind(outside, order, True)
        return workflow.continuation(receipt.bind(outside, order, NOT_CONFIRMED, released))
    parcels: list[Any] = [ship.bind(outside, order.order_id, sku, quantity) for sku, quantity in order.items.items()]
    return workflow.continuation(receipt.bind(outside, order, SHIPPED, *parcels))


@ray.remote(**workflow.options(task_id="ship"))
def ship(outside: Outside, order_id: str, sku: str, quantity: int) -> str:
    """Send one parcel."""
    return Warehouse(outside).ship(order_id, sku, quantity)


@ray.remote(**workflow.options(task_id="release"))
def release(outside: Outside, order: Order, charged: bool) -> None:
    """Give the stock back, and the money if it was taken."""
    if charged:
        PaymentService(outside).refund(order.order_id, order.total_cents)
    Warehouse(outside).release(order.order_id)


@ray.remote(**workflow.options(task_id="receipt"))
def receipt(outside: Outside, order: Order, outcome: str, *_done_before: Any) -> str:
    """Close the order. What must be done before is an argument, so it is."""
    paid_cents = order.total_cents if outcome == SHIPPED else 0
    Warehouse(outside).file_receipt(order.order_id, outcome, paid_cents)
    return outcome


def submit(outside: Outside, topic: str, order: Order) -> None:
    """Start the workflow of an order, under the order's own id. From here on it needs nobody.

    Args:
        outside: The world with the books.
        topic: Where its confirmation comes, as a message whose key is the order's id.
        order: The order.
    """
    started: Any = reserve.bind(outside, topic, order)
    workflow.run_async(started, workflow_id=order.order_id, metadata={"customer": order.customer})
