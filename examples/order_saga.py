"""Orders that come by Kafka, each with steps that are undone when a later one fails: a saga.

    python -m examples.order_saga

A message on `orders` starts the workflow of that order. It reserves stock, charges, and waits for a message on
`payments` with the order's number. When none comes in time, or the payment was refused, what was done is undone, last
step first. It runs against the Kafka of `some_kafka`.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from examples.some_kafka import kafka, make_topics, produce, wait_until, wait_until_read
from holdfast import workflow
from holdfast.listeners import KafkaListener, KafkaMessage
from holdfast.workflow.exceptions import EventTimeoutError

PATIENCE_S = 15.0


def note(ledger: Path, order: str, what: str) -> None:
    """The outside world: one line for each thing that was done to it."""
    with ledger.open("a") as lines:
        lines.write(f"{order} {what}\n")


@ray.remote
def do(ledger: Path, order: str, what: str, *_after: Any) -> str:
    """One step, or the undoing of one. What has to be done before is an argument."""
    note(ledger, order, what)
    return what


@ray.remote
def wait_for_payment(topic: str, order: str, *_after: Any) -> Any:
    """Wait for the payment's message. This is a row in the store: no process waits."""
    return workflow.wait_for_event(KafkaListener, topic=topic, key=order, timeout_s=PATIENCE_S)


@ray.remote
def decide(ledger: Path, order: str, answer: tuple[KafkaMessage | None, Exception | None]) -> Any:
    """Go on when the money has come; else undo, the last step first."""
    message, error = answer
    if message is not None and message.value["paid"]:
        return workflow.continuation(do.bind(ledger, order, "ship"))
    if error is not None and not isinstance(error, EventTimeoutError):
        raise error
    refunded: Any = do.bind(ledger, order, "refund")
    return workflow.continuation(do.bind(ledger, order, "release", refunded))


def main(storage: Path | None = None) -> dict[str, str]:
    """Run it. Returns what became of each order: `ship` or `release`."""
    logging.getLogger("holdfast").setLevel(logging.WARNING)
    run = uuid4().hex[:8]
    orders, payments = f"orders-{run}", f"payments-{run}"
    with tempfile.TemporaryDirectory() as scratch, kafka() as servers:
        ledger = Path(scratch) / "ledger"
        ray.init(address="local", log_to_driver=False, ignore_reinit_error=True, logging_level=logging.ERROR)
        asyncio.run(make_topics(servers, orders, payments))
        workflow.init(
            storage or Path(scratch) / "storage",
            kafka={"default": {"bootstrap_servers": servers, "on_offset_out_of_range": "earliest"}},
        )
        try:

            def take_order(message: KafkaMessage) -> Any:
                """The first task of an order's workflow."""
                order = str(message.key)
                reserved: Any = do.bind(ledger, order, "reserve")
                charged: Any = do.bind(ledger, order, "charge", reserved)
                wait: Any = wait_for_payment.options(**workflow.options(catch_exceptions=True))
                return workflow.continuation(decide.bind(ledger, order, wait.bind(payments, order, charged)))

            workflow.on_event(KafkaListener, topic=orders, start=take_order, workflow_id=f"{run}-{{key}}")
            wait_until_read(orders)
            # Two messages of order-2: the second starts nothing.
            ordered = [(f"order-{number}", {"total": number}) for number in (1, 2, 2, 3, 4)]
            asyncio.run(produce(servers, orders, ordered))
            # An order is the first to ask for payments. That of order-3 is refused, and of order-4 nothing is heard.
            wait_until_read(payments)
            paid = [(f"order-{number}", {"paid": number != 3}) for number in (1, 2, 3)]
            asyncio.run(produce(servers, payments, paid))
            outcomes = {order: outcome_of(f"{run}-{order}") for order in ("order-1", "order-2", "order-3", "order-4")}
            audit(ledger, outcomes)
            return outcomes
        finally:
            workflow.shutdown()


def outcome_of(workflow_id: str) -> str:
    """What a workflow came to, once its message has started it."""
    wait_until(lambda: workflow_id in dict(workflow.list_all()), f"no message has started {workflow_id}")
    return str(workflow.get_output(workflow_id))


def audit(ledger: Path, outcomes: dict[str, str]) -> None:
    """Every order was shipped or undone, each step of it once."""
    lines = ledger.read_text().splitlines()
    twice = [line for line, count in Counter(lines).items() if count > 1]
    if twice:
        raise SystemExit(f"done twice: {twice}")
    for order, outcome in outcomes.items():
        steps = [line.partition(" ")[2] for line in lines if line.startswith(f"{order} ")]
        expected = ["reserve", "charge", *(["ship"] if outcome == "ship" else ["refund", "release"])]
        print(f"{order}: {' > '.join(steps)}")
        if steps != expected:
            raise SystemExit(f"{order} did {steps} and not {expected}")


if __name__ == "__main__":
    main()
