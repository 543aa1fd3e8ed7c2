"""The examples of virtual actors do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.serving import free_port

PROJECT = Path(__file__).resolve().parents[2]


def run(example: str, folder: Path, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(PROJECT / "examples" / example), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_cart_is_paid_for_once(tmp_path: Path) -> None:
    assert run("shopping_cart.py", tmp_path).splitlines() == [
        "added apple total 3",
        "added tea total 15",
        "refused: we sell no lamp",
        "the total is 15",
        "apple, tea on the way to ann (ann paid 15)",
        "left in the cart: 0",
        "SUCCESSFUL after 4 calls, the last one check_out",
    ]


def test_no_money_is_made_or_lost_while_hosts_are_killed(tmp_path: Path) -> None:
    # Ray tells every driver of a process that was killed.
    said = [line for line in run("accounts.py", tmp_path).splitlines() if line.strip() and "(raylet)" not in line]
    assert len(said) == 2, said
    assert re.fullmatch(r"200 transfers(, \d+ refused)?", said[0])
    assert said[1] == "the sum is 1000"


def test_a_chat_agent_remembers_and_answers_a_message_once(tmp_path: Path) -> None:
    said = run("chat_agent.py", tmp_path, f"--port={free_port()}").splitlines()
    # Ray tells every driver of a process that was killed.
    assert [line for line in said if line.strip() and "(raylet)" not in line] == [
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
