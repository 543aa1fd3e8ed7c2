"""Fills a storage folder until its process is killed: `python -m tests.kept.driver STORAGE`, started by `make.py`.

It says on its standard output what is there, when all is there that the loss of the cluster is to meet.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray

from holdfast import workflow
from holdfast.storage import schedule_store
from holdfast.storage.folder import StorageFolder
from holdfast.workflow.http_event_provider import HTTPListener
from tests.integration.outside import Source
from tests.kept import by_value, contents
from tests.recovery.processes import until

code: Any = importlib.import_module("kept_code")
own = by_value.load()


def main(storage: str) -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    workflow.init(storage)
    folder = StorageFolder.open(storage, create=False)
    run_to_their_ends()
    wait_for_times_and_events()
    for name in contents.SCHEDULES:
        contents.schedule(code, name)
    workflow.pause_schedule("paused")
    workflow.schedule("own-code", ray.remote(own.plain).bind(), at=contents.PARTY)
    letter = leave_a_dead_letter(folder)
    reminder = make_actors()
    run_up_to_the_gate()
    with folder.kv.read() as txn:
        rows = [schedule_store.load(txn, name) for name in (*contents.SCHEDULES, "own-code")]
    made = contents.Made(
        python=contents.python_version(),
        ray=ray.__version__,
        schedules={row.schedule.name: row.schedule.next_due_unix_s for row in rows},
        reminder=reminder,
        letter=letter,
    )
    print("MADE", json.dumps(asdict(made)), flush=True)
    threading.Event().wait()


def run_to_their_ends() -> None:
    assert len(workflow.run(ray.remote(code.spread).bind(1 << 21), workflow_id="done")) == 1 << 21
    try:
        workflow.run(ray.remote(code.fail).bind(), workflow_id="failed")
    except workflow.WorkflowExecutionError:
        assert workflow.get_status("failed") == workflow.FAILED
    workflow.submit(workflow.sleep(3600), workflow_id="cancelled")
    workflow.cancel("cancelled")


def wait_for_times_and_events() -> None:
    after = ray.remote(code.after)
    workflow.run_async(after.bind(workflow.sleep(30)), workflow_id="sleeper")
    workflow.run_async(after.bind(event("paid")), workflow_id="waiter")
    workflow.run_async(after.bind(event("early"), event("late")), workflow_id="half-heard")
    workflow.send_event("half-heard", "early", "from before")
    retry = workflow.Retry(max_attempts=100_000, initial_s=0.2, max_s=1.0)
    task = ray.remote(code.when_open).options(**workflow.options(retry=retry))
    workflow.run_async(task.bind(), workflow_id="backing-off")


def event(key: str) -> Any:
    return workflow.wait_for_event(HTTPListener, event_key=key)


def leave_a_dead_letter(folder: StorageFolder) -> int:
    """An event whose workflow cannot be started; its number."""
    source = Source(folder)
    workflow.on_event(code.Orders, start=code.take_order, workflow_id=code.order_id, name="orders")
    source.take_in("orders", ("k", b'{"number": 7}'))
    assert source.start_all()
    (letter,) = workflow.dead_letters()
    assert letter.reason == "start-failed"
    return letter.id


def make_actors() -> str:
    """One with calls in its mailbox, and one with a large state; the reminder of the first."""
    account = code.ACCOUNT.get_or_create("account", 100)
    assert account.add.run(5) == 105
    workflow.remind(account, "add", 1000, at=contents.PARTY, name="interest")
    account.add_at_gate.run_async(10)
    for amount in (1, 2, 3):
        account.add.run_async(amount)
    chest = code.CHEST.get_or_create("chest")
    chest.fill.run(100_000)
    assert chest.look.run() == (100_000, 2 + 3j)
    return repr(workflow.list_reminders(account))


def run_up_to_the_gate() -> None:
    measured = ray.remote(code.measure).bind(contents.LARGE)
    spread = ray.remote(code.spread).bind(1 << 17)
    sevens = ray.remote(code.count_sevens).bind(np.full(20_000, 7))
    held = ray.remote(code.at_gate).bind(spread)
    workflow.run_async(ray.remote(code.sum_up).bind(measured, sevens, held), workflow_id="half-done")
    workflow.run_async(workflow.step(code.count_down).step(5), workflow_id="half-down")
    checked = ray.remote(own.check).bind(ray.remote(own.issue).bind(42), event("receipt"))
    workflow.run_async(checked, workflow_id="own-code-half-done")
    notes = Path(os.environ[code.NOTES])
    wanted = {"measure", "count_sevens", "at_gate", "count_down 2", "issue", "add 5"}
    until(lambda: wanted <= set(notes.read_text().split("\n")), "all that can be done is done")
    logged = [("half-done", "kept_code.measure"), ("half-done", "kept_code.spread")]
    logged += [("half-done", "kept_code.count_sevens"), ("own-code-half-done", "kept_by_value.issue")]
    until(lambda: all(is_logged(*task) for task in logged), "it is logged")


def is_logged(workflow_id: str, task_id: str) -> bool:
    return "end_time" in workflow.get_metadata(workflow_id, task_id)["stats"]


if __name__ == "__main__":
    main(sys.argv[1])
