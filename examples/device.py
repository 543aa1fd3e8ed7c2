"""Devices that are fed by Kafka, each with a reminder at the end of every hour. Run it: `python -m examples.device`.

A device is a virtual actor, made by its first message: the message's key is its id. Each message is one call of it, in
the order of its key and exactly once, also while what runs the devices is killed. What nobody asks about is rows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from examples.some_kafka import kafka, make_topics, produce, wait_until, wait_until_read
from holdfast import workflow
from holdfast.listeners import KafkaListener, KafkaMessage

HOUR_S = float(os.environ.get("HOUR_S", "3"))
"""An hour of this example; in earnest it is 3600."""

READINGS = f"readings-{uuid4().hex[:8]}"
DEVICES, MESSAGES, KILLS = 3, 60, 2


@workflow.virtual_actor
class Device(workflow.VirtualActor):
    def __init__(self) -> None:
        self.this_hour: list[int] = []
        self.hours: list[list[int]] = []
        self.alarms = 0
        # Set with the device, and kept by the store: it comes though nothing of this runs in between.
        workflow.remind(self, "close_hour", every_s=HOUR_S)

    @workflow.on_event(KafkaListener, topic=READINGS, actor_id="device-{key}", options={"max_retries": 3})
    def measured(self, message: KafkaMessage) -> None:
        reading = message.value["celsius"]
        self.this_hour.append(reading)
        if reading > 90:
            self.alarms += 1

    @workflow.virtual_actor.method
    def close_hour(self) -> None:
        if self.this_hour:
            self.hours.append(self.this_hour)
            self.this_hour = []

    @workflow.virtual_actor.readonly
    def report(self) -> tuple[list[int], int, int]:
        """The readings of the hours that are over, how many others there are, and how many alarms."""
        return [reading for hour in self.hours for reading in hour], len(self.this_hour), self.alarms


def main(storage: Path | None = None) -> dict[str, list[int]]:
    """Run it. Returns what each device has measured."""
    logging.getLogger("holdfast").setLevel(logging.ERROR)
    choose = random.Random(7)
    sent: list[tuple[str, Any]] = [
        (str(choose.randrange(DEVICES)), {"celsius": choose.randrange(100)}) for _ in range(MESSAGES)
    ]
    with tempfile.TemporaryDirectory() as scratch, kafka() as servers:
        ray.init(address="local", log_to_driver=False, ignore_reinit_error=True, logging_level=logging.ERROR)
        asyncio.run(make_topics(servers, READINGS))
        connection = {"bootstrap_servers": servers, "on_offset_out_of_range": "earliest"}
        workflow.init(storage or Path(scratch) / "storage", kafka={"default": connection})
        try:
            workflow.subscribe(Device)
            wait_until_read(READINGS)
            part = MESSAGES // (KILLS + 1)
            for first in range(0, MESSAGES, part):
                asyncio.run(produce(servers, READINGS, sent[first : first + part]))
                if first + part < MESSAGES:
                    for host in workflow.platform_status()["virtual_actor_hosts"]:
                        os.kill(host["pid"], signal.SIGKILL)
            return {key: reported(key, sent) for key in sorted({key for key, _ in sent})}
        finally:
            workflow.shutdown()


def reported(key: str, sent: list[tuple[str, Any]]) -> list[int]:
    """What a device has measured, once its hour is over; all that was sent, in order and once, or this ends here."""
    wanted = [value["celsius"] for other, value in sent if other == key]
    actor_id = f"device-{key}"
    wait_until(lambda: any(one.actor_id == actor_id for one in workflow.list_actors(Device)), f"no {actor_id}")
    device = workflow.get_actor(actor_id)
    ray.get(device.ready())
    wait_until(lambda: len(device.report.run()[0]) >= len(wanted), f"{actor_id} has not measured all")
    found: list[int]
    found, open_ones, alarms = device.report.run()
    if found != wanted or open_ones:
        raise SystemExit(f"{actor_id} has measured {found} and not {wanted}")
    (reminder,) = workflow.list_reminders(device)
    print(f"{actor_id}: {len(found)} readings, {sum(found) / len(found):.1f} on average, {alarms} alarms")
    if not reminder["fired"]:
        raise SystemExit(f"{actor_id} had no reminder")
    return found


if __name__ == "__main__":
    main()
