"""The examples of virtual actors do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kafka.broker import Broker, missing_tools
from tests.integration.serving import free_port
from tests.printed import own_lines

PROJECT = Path(__file__).resolve().parents[2]


def run(example: str, folder: Path, *arguments: str) -> list[str]:
    return said_by([str(PROJECT / "examples" / example), *arguments], folder)


def said_by(arguments: list[str], folder: Path, **environment: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return own_lines(ran.stdout)


def test_the_cart_is_paid_for_once(tmp_path: Path) -> None:
    assert run("shopping_cart.py", tmp_path) == [
        "added apple total 3",
        "added tea total 15",
        "refused: we sell no lamp",
        "the total is 15",
        "apple, tea on the way to ann (ann paid 15)",
        "left in the cart: 0",
        "SUCCESSFUL after 4 calls, the last one check_out",
    ]


def test_no_money_is_made_or_lost_while_hosts_are_killed(tmp_path: Path) -> None:
    said = run("accounts.py", tmp_path)
    assert len(said) == 2, said
    assert re.fullmatch(r"200 transfers(, \d+ refused)?", said[0])
    assert said[1] == "the sum is 1000"


def test_a_chat_agent_remembers_and_answers_a_message_once(tmp_path: Path) -> None:
    assert run("chat_agent.py", tmp_path, f"--port={free_port()}") == [
        "Hello, Ann.",
        "Hello, Bob.",
        "the process of the agents is killed",
        "Your name is Ann.",
        "posted again: Your name is Ann.",
        "That is the 2. thing you tell me.",
        "ann's conversation has 4 turns",
        "eve's: 404",
        "ann is SUCCESSFUL after 3 calls",
        "bob is SUCCESSFUL after 3 calls",
    ]


def devices(**environment: str) -> list[str]:
    return said_by(["-m", "examples.device"], PROJECT, **environment)


EVERY_DEVICE = [
    "device-0: 20 readings, 44.0 on average, 1 alarms",
    "device-1: 17 readings, 48.4 on average, 1 alarms",
    "device-2: 23 readings, 48.8 on average, 1 alarms",
]


def test_each_reading_of_a_device_counts_once_while_hosts_are_killed() -> None:
    assert devices() == EVERY_DEVICE


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_tools()), reason=f"needs a real Kafka, and {missing_tools()}")
def test_devices_are_fed_by_a_real_kafka() -> None:
    with Broker(auto_create_topics=True) as broker:
        assert devices(KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap_servers) == EVERY_DEVICE
