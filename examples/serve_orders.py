"""An order service: HTTP on Ray Serve in front, a workflow behind each order.

    python -m examples.serve_orders                 # serves on http://127.0.0.1:8000 until Ctrl-C

    curl -i -X POST localhost:8000/orders -H 'Idempotency-Key: my-first' -H 'Content-Type: application/json' \\
        -d '{"article": "lamp", "quantity": 2}'
    curl localhost:8000/orders/<order_id>?wait_s=10

Whoever posts an order is answered as soon as it is durable: 202, and where to ask for it. The same Idempotency-Key
again is the same order, however often and however many at once; with other contents it is refused. No request
blocks the event loop, so those that wait for their order keep nobody else waiting.
"""

# No `from __future__ import annotations` here: Serve carries the handlers to its replicas by value, and FastAPI would
# not find there what annotations name that are only text.
import argparse
import asyncio
import hashlib
import os
import queue
import threading
from pathlib import Path
from typing import Annotated, Any

import ray
from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from ray import serve

from holdfast import workflow

app = FastAPI(title="Orders")

PRICES_CENTS = {"lamp": 4900, "chair": 8900, "rug": 12900}


class Order(BaseModel):
    """What a customer sends."""

    article: str
    quantity: int = Field(default=1, ge=1, le=100)
    ships_after_s: float = Field(default=0.0, ge=0.0)


# -- behind: the workflow of an order ------------------------------------------------------------------------------


@ray.remote
def price(article: str, quantity: int) -> int:
    return PRICES_CENTS[article] * quantity


@ray.remote
def charge(order_id: str, cents: int, ledger: str) -> int:
    # The outside world of this example. One write, so that lines do not mix.
    with open(ledger, "ab", buffering=0) as file:
        file.write(f"{order_id}\t{cents}\n".encode())
    return cents


@ray.remote
def ship(order_id: str, article: str, cents: int, _slept: None) -> dict[str, Any]:
    return {"shipped": article, "charged_cents": cents, "parcel": f"parcel-of-{order_id}"}


def process_of(order_id: str, order: Order, ledger: str) -> Any:
    """The graph of an order. A task that is logged is not run again, whatever dies."""
    charged: Any = charge.bind(order_id, price.bind(order.article, order.quantity), ledger)
    return ship.bind(order_id, order.article, charged, workflow.sleep(order.ships_after_s))


# -- in front: HTTP ------------------------------------------------------------------------------------------------


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Orders:
    """Starts workflows and tells of them. It keeps nothing itself."""

    def __init__(self, ledger: str) -> None:
        self._ledger = ledger

    @app.post("/orders", status_code=202)
    async def place(
        self, order: Order, idempotency_key: Annotated[str, Header(min_length=1, max_length=200)]
    ) -> JSONResponse:
        """Take an order. Answered when it is durable; what is to be done about it goes on behind."""
        if order.article not in PRICES_CENTS:
            raise HTTPException(422, f"no article {order.article!r}: there are {', '.join(PRICES_CENTS)}")
        order_id = f"order-{hashlib.sha256(idempotency_key.encode()).hexdigest()[:24]}"
        wanted = order.model_dump()
        try:
            await workflow.aio.run_async(
                process_of(order_id, order, self._ledger), workflow_id=order_id, metadata={"order": wanted}
            )
        except queue.Full:
            raise HTTPException(503, "too many orders: try again", {"Retry-After": "1"}) from None
        except RuntimeError:
            # It is running: another request with this key came before. If not, the next line says so.
            pass
        known = await workflow.aio.get_metadata(order_id)
        if known["user_metadata"]["order"] != wanted:
            raise HTTPException(422, "this Idempotency-Key was used for another order")
        where = f"/orders/{order_id}"
        return JSONResponse({"order_id": order_id, "status_url": where}, status_code=202, headers={"Location": where})

    @app.get("/orders/{order_id}")
    async def show(self, order_id: str, wait_s: Annotated[float, Query(ge=0.0, le=300.0)] = 0.0) -> dict[str, Any]:
        """Tell of an order; with `wait_s`, when it is done, or so many seconds later."""
        await self._status(order_id)
        if wait_s:
            await self._wait(order_id, wait_s)
        status = await self._status(order_id)
        result = await workflow.aio.get_output(order_id) if status == workflow.SUCCESSFUL else None
        return {"order_id": order_id, "status": status.value, "result": result}

    @app.delete("/orders/{order_id}")
    async def withdraw(self, order_id: str) -> dict[str, Any]:
        """Stop an order for good, unless it has been shipped."""
        await self._status(order_id)
        await workflow.aio.cancel(order_id)
        return {"order_id": order_id, "status": (await self._status(order_id)).value}

    @staticmethod
    async def _status(order_id: str) -> workflow.WorkflowStatus:
        try:
            return await workflow.aio.get_status(order_id)
        except workflow.exceptions.WorkflowNotFoundError:
            raise HTTPException(404, f"no order {order_id!r}") from None

    @staticmethod
    async def _wait(order_id: str, seconds: float) -> None:
        try:
            await asyncio.wait_for(workflow.aio.get_output(order_id), seconds)
        except asyncio.TimeoutError:
            return
        except (workflow.WorkflowError, ValueError):
            # It failed, or was withdrawn: the status tells.
            return


def main() -> None:
    """Serve until Ctrl-C. Again on the same folder: what was going on goes on."""
    parser = argparse.ArgumentParser(description="Orders over HTTP, a workflow for each.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--folder", type=Path, default=Path(".demo/serve_orders"))
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False)
    workflow.init(str(folder / "storage"), resume="auto")
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    serve.run(Orders.bind(str(folder / "ledger.tsv")), name="orders", route_prefix="/")  # type: ignore[attr-defined]
    print(f"Orders are taken at http://127.0.0.1:{given.port}/orders", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        workflow.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
