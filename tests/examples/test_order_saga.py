"""The saga ships what is paid and undoes what is not, each step once, on either kind of Kafka."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kafka.broker import Broker, missing_tools
from tests.printed import own_lines

PROJECT = Path(__file__).resolve().parents[2]

EXPECTED = [
    "order-1: reserve > charge > ship",
    "order-2: reserve > charge > ship",
    "order-3: reserve > charge > refund > release",
    "order-4: reserve > charge > refund > release",
]


def run(servers: str = "") -> list[str]:
    """What it prints, with the Kafka of these servers; none given: its own."""
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    if servers:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    ran = subprocess.run(
        [sys.executable, "-m", "examples.order_saga"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return own_lines(ran.stdout)


def test_an_order_is_shipped_or_undone_whatever_becomes_of_its_payment() -> None:
    assert run() == EXPECTED


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_tools()), reason=f"needs a real Kafka, and {missing_tools()}")
def test_it_runs_on_a_real_kafka() -> None:
    with Broker(auto_create_topics=True) as broker:
        assert run(broker.bootstrap_servers) == EXPECTED
