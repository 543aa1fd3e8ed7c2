"""A report every night, by a schedule that outlives the program that made it. Run it: `python examples/cron_report.py`.

Nobody waits for the night here: the run of tonight is started by hand, as one would after mending what made it fail.
"""

import tempfile
from typing import Any

import ray

from holdfast import workflow

SALES = {"lamp": [49, 49, 98], "chair": [89], "table": []}


@ray.remote
def total(article: str) -> tuple[str, int]:
    return article, sum(SALES[article])


@ray.remote
def report(*totals: tuple[str, int]) -> str:
    lines = [f"{article:<6} {amount:>4}" for article, amount in totals]
    return "\n".join([*lines, f"{'all':<6} {sum(amount for _, amount in totals):>4}"])


if __name__ == "__main__":
    workflow.init(tempfile.mkdtemp(prefix="holdfast-report-"))

    # Half past four in the shop's time zone, summer and winter. A night on which the machine was off is made up for
    # when it is on again, once; a report that takes longer than a day is not joined by a second one.
    nightly: Any = report.bind(*[total.bind(article) for article in SALES])
    workflow.schedule("nightly-report", nightly, cron="30 4 * * *", timezone="Europe/Berlin", overlap="skip")

    # The same again, as at every start of a service: nothing changes.
    workflow.schedule("nightly-report", nightly, cron="30 4 * * *", timezone="Europe/Berlin", overlap="skip")

    schedule = workflow.describe_schedule("nightly-report")
    print(schedule["name"], "is due", schedule["when"])
    for night in schedule["next_runs"][:3]:
        print("  next", night.strftime("%Y-%m-%d %H:%M"))

    run = workflow.trigger_schedule("nightly-report")
    assert run is not None
    print(workflow.get_output(run))

    (last,) = workflow.describe_schedule("nightly-report")["last_runs"]
    print("the last run is", last["status"])

    workflow.pause_schedule("nightly-report")
    print([(one["name"], "paused" if one["paused"] else "on") for one in workflow.list_schedules()])
    workflow.delete_schedule("nightly-report")

    workflow.shutdown()
    ray.shutdown()
