"""The Kafka that the tests and `make kafka` use is what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from deploy.kafka import broker
from deploy.kafka.in_process import InProcessBroker
from tests.kafka.running_kafka import RunningKafka

SCRIPT = Path(broker.__file__)


@pytest.mark.slow
def test_what_was_written_outlives_a_restart_on_the_same_port(kafka: RunningKafka) -> None:
    topic = kafka.make_topic()
    kafka.produce(topic, [("k", "1")])
    kafka.broker.restart(crash=True)
    assert kafka.produce(topic, [("k", "2")]) == [(0, 1)]


def test_ctrl_c_ends_the_server_of_make_kafka_and_removes_its_folder(kafka: RunningKafka, tmp_path: Path) -> None:
    assert kafka.broker, "the script needs Java, too"
    script = subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    told = next(line for line in script.stdout if "answers at" in line)
    address = told.split("answers at ")[1].split()[0]
    pid = int(told.split("process ")[1].split(")")[0])
    assert AdminClient({"bootstrap.servers": address}).list_topics(timeout=30).brokers
    assert list(tmp_path.iterdir())
    script.send_signal(signal.SIGINT)
    rest, _ = script.communicate(timeout=60)
    assert "Stopped." in rest
    assert script.returncode == 0
    assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.iterdir()) == []


def test_the_broker_in_this_process_answers() -> None:
    with InProcessBroker() as in_process:
        found = AdminClient({"bootstrap.servers": in_process.bootstrap_servers}).list_topics(timeout=30)
        assert len(found.brokers) == 1
