"""The examples that speak HTTP: run as a user runs them, or asked over real HTTP, and audited."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from ray import serve

from examples.serve_orders import PRICES_CENTS, Orders
from holdfast import workflow
from tests.integration.serving import Answer, call, free_port, serving
from tests.printed import own_lines

PROJECT = Path(__file__).resolve().parents[2]


def test_the_approval_example_prints_what_it_promises(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "examples.approval", f"--port={free_port()}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert own_lines(ran.stdout) == [
        "hotel, posted: 200",
        "hotel, posted again: 200",
        "yacht, posted: 200",
        "hotel (240 EUR): approved by Ada",
        "yacht (99000 EUR): refused by Grace",
        "train (80 EUR): refused, nobody answered in time",
        "train, posted too late: 409",
    ]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside") / "ledger.tsv"


@pytest.fixture(scope="module")
def url(local_ray: None, ledger: Path) -> Iterator[str]:
    workflow.init(str(ledger.with_name("storage")))
    with serving() as port:
        serve.run(Orders.bind(str(ledger)), name="orders", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    workflow.shutdown()


class TestServeOrders:
    def test_five_hundred_requests_with_repeats_are_one_workflow_per_key(self, url: str, ledger: Path) -> None:
        random = Random(500)
        articles = sorted(PRICES_CENTS)
        orders = {
            f"key-{number}": {"article": random.choice(articles), "quantity": random.randint(1, 9)}
            for number in range(150)
        }
        # Each key at least once, the rest repeats of any, and all mixed: some repeats are on their way at once.
        keys = [*orders, *random.choices(sorted(orders), k=500 - len(orders))]
        random.shuffle(keys)

        def place(key: str) -> Answer:
            return call(f"{url}/orders", orders[key], idempotency_key=key)

        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(place, keys))
        assert Counter(answer.status for answer in answers) == {202: 500}
        ids: dict[str, set[str]] = {key: set() for key in orders}
        for key, answer in zip(keys, answers, strict=True):
            assert answer.headers["Location"] == answer.body["status_url"]
            ids[key].add(answer.body["order_id"])
        assert {len(found) for found in ids.values()} == {1}

        order_of = {found.pop(): orders[key] for key, found in ids.items()}
        with ThreadPoolExecutor(24) as threads:
            shown = list(threads.map(lambda order_id: call(f"{url}/orders/{order_id}?wait_s=60").body, order_of))
        cents = {name: PRICES_CENTS[order["article"]] * order["quantity"] for name, order in order_of.items()}
        assert {one["order_id"]: (one["status"], one["result"]["charged_cents"]) for one in shown} == {
            name: ("SUCCESSFUL", charged) for name, charged in cents.items()
        }
        assert {name for name, _ in workflow.list_all()} == set(order_of)
        charges = [line.split("\t") for line in ledger.read_text().splitlines()]
        assert sorted((name, int(charged)) for name, charged in charges) == sorted(cents.items())

    def test_those_that_wait_for_their_order_keep_nobody_else_waiting(self, url: str, ledger: Path) -> None:
        slow = call(f"{url}/orders", {"article": "rug", "ships_after_s": 3600}, idempotency_key="slow").body
        # More than there are threads anywhere in the service.
        with ThreadPoolExecutor(60) as threads:
            waiting = [threads.submit(call, f"{url}{slow['status_url']}?wait_s=120", timeout_s=150) for _ in range(60)]
            quick = call(f"{url}/orders", {"article": "lamp"}, idempotency_key="quick")
            assert call(f"{url}{quick.body['status_url']}?wait_s=60").body["status"] == "SUCCESSFUL"
            assert not any(one.done() for one in waiting)
            assert call(f"{url}{slow['status_url']}", method="DELETE").body["status"] == "CANCELED"
            assert {one.result().body["status"] for one in waiting} == {"CANCELED"}

    def test_what_it_refuses(self, url: str) -> None:
        before = len(workflow.list_all())
        lamp = {"article": "lamp", "quantity": 1}
        assert call(f"{url}/orders", lamp).status == 422
        assert call(f"{url}/orders", {"article": "boat"}, idempotency_key="a").status == 422
        assert call(f"{url}/orders", {"article": "lamp", "quantity": 0}, idempotency_key="a").status == 422
        assert call(f"{url}/orders/nobody").status == 404
        assert len(workflow.list_all()) == before
        assert call(f"{url}/orders", lamp, idempotency_key="a").status == 202
        assert call(f"{url}/orders", {"article": "rug"}, idempotency_key="a").status == 422
        assert len(workflow.list_all()) == before + 1
