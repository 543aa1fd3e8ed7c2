"""The demo from end to end: start or resume, run, kill, go on, audit, leave nothing running."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from rich.console import Console

from examples.orders import audit
from examples.orders.kill import Accident
from examples.orders.orders_file import Order, read_orders
from examples.orders.outside import Outside
from examples.orders.payments import PaymentService
from examples.orders.platform_start import StoppedError, StopSignals, start_platform, stop_platform
from examples.orders.process import confirm, submit
from examples.orders.view import View, look
from holdfast import workflow

ORDERS_FILE = Path(__file__).with_name("orders.csv")
# Below the project: what the demo leaves is easy to find and easy to throw away.
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".demo"
FINISHED = "finished"
RAY_SAYS = "ray.log"

ROUND_S = 0.25
SUBMITTED_PER_ROUND = 30
PAUSE_BETWEEN_KILLS_S = 3.0
# With fewer orders to do (a resumed run near its end) a kill would hit an idle platform and show nothing.
LEAST_ORDERS_FOR_KILLS = 40
NO_PROGRESS_LIMIT_S = 60.0


class StuckError(Exception):
    """No order was closed for so long that something is wrong."""


def main(folder: Path = DEFAULT_FOLDER) -> int:
    """Run the demo; returns the exit code of the process: 0, 1 (the audit failed) or 130 (stopped)."""
    # What Ray prints about the workers that die here, on purpose, goes to a file: the view stays readable.
    console = Console(file=sys.stdout)
    folder.mkdir(exist_ok=True)
    with (
        only_one_demo(folder, console) as alone,
        (folder / RAY_SAYS).open("w", buffering=1) as ray_says,
        redirect_stdout(ray_says),
    ):
        if not alone:
            return 1
        code = 130
        signals = StopSignals()
        try:
            # Inside the `try`: from the first signal on there is somebody who tidies up.
            signals.listen()
            code = run(folder, console, signals)
        except StoppedError:
            console.print("\nStopped. `make demo` again goes on with the orders that are open.")
        except StuckError as stuck:
            console.print(f"[bold red]{stuck}[/]")
            code = 1
        finally:
            signals.ignore()
            stop_platform(console)
        return code


def run(folder: Path, console: Console, signals: StopSignals) -> int:
    """Everything between the start and the audit."""
    begin(folder, console)
    orders, bad_rows = read_orders(ORDERS_FILE)
    console.print(f"{ORDERS_FILE.name}: {len(orders)} orders, and {len(bad_rows)} rows that are skipped:")
    for row in bad_rows:
        console.print(f"  line {row.line}: {row.reason}", highlight=False)

    outside = Outside(str(folder / "outside.db"))
    outside.open_for_business()
    start_platform(folder / "holdfast")
    # Ids that the store knows are done or being resumed; submitting them again is not for us to do.
    known = statuses()
    for order_id, status in known.items():
        if status == "FAILED":
            workflow.resume_async(order_id)
    to_submit = [order for order in orders if order.order_id not in known]
    if known:
        done = sum(status == "SUCCESSFUL" for status in known.values())
        console.print(f"From the run before: {done} orders are done and stay so, {len(known) - done} go on.")

    accident = Accident()
    with View(console) as view:
        work(outside, orders, to_submit=to_submit, view=view, accident=accident, signals=signals)
        if accident.killed and not accident.replaced():
            raise StuckError("The killed processes were not replaced.")

    findings = audit.audit(outside, orders, statuses())
    console.print(audit.as_table(findings))
    if not all(finding.passed for finding in findings):
        console.print(f"[bold red]The audit failed.[/] {folder} is kept as it is; remove it to start afresh.")
        return 1
    (folder / FINISHED).touch()
    console.print("[green]The audit is clean.[/] The next `make demo` starts afresh.")
    return 0


def work(
    outside: Outside,
    orders: list[Order],
    *,
    to_submit: list[Order],
    view: View,
    accident: Accident,
    signals: StopSignals,
) -> None:
    """Submit, pass confirmations on, kill, and watch, until every order is closed."""
    payments = PaymentService(outside)
    queue = list(reversed(to_submit))
    start = look(outside, total=len(orders), submitted=len(orders) - len(queue), killed=0)
    still_open = start.total - start.closed
    kill_after_closed = start.closed + still_open // 2 if still_open >= LEAST_ORDERS_FOR_KILLS else None
    next_kill_at_s = 0.0
    closed, closed_at_s = start.closed, time.monotonic()

    while True:
        signals.check()
        for _ in range(min(SUBMITTED_PER_ROUND, len(queue))):
            submit(outside, queue[-1])
            queue.pop()
        for order_id in payments.confirmations_due():
            confirm(order_id)
            # A stop between these two lines sends the event twice, which nobody minds: it is read once.
            payments.confirmation_was_told(order_id)

        progress = look(outside, total=len(orders), submitted=len(orders) - len(queue), killed=len(accident.killed))
        view.show(progress)
        now_s = time.monotonic()
        halfway = kill_after_closed is not None and progress.closed >= kill_after_closed
        if halfway and not accident.complete and now_s >= next_kill_at_s:
            said = accident.strike()
            if said is not None:
                view.say(said, style="bold red")
                next_kill_at_s = now_s + PAUSE_BETWEEN_KILLS_S
        if not queue and progress.closed == progress.total and no_order_is_active():
            return
        if progress.closed > closed:
            closed, closed_at_s = progress.closed, now_s
        elif now_s - closed_at_s > NO_PROGRESS_LIMIT_S:
            waiting = [order_id for order_id, status in statuses().items() if status != "SUCCESSFUL"]
            raise StuckError(f"No order was closed for {NO_PROGRESS_LIMIT_S:g} s. Open: {', '.join(waiting[:10])}")
        time.sleep(ROUND_S)


def begin(folder: Path, console: Console) -> None:
    """Throw a finished run away; say what is going to happen."""
    finished = folder / FINISHED
    if finished.exists():
        console.print("The last run finished; this one starts afresh.")
        # The mark goes last: stopped in between, this is done again.
        for entry in folder.iterdir():
            if entry.name not in (FINISHED, RAY_SAYS):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        finished.unlink()
    elif any(entry.name != RAY_SAYS for entry in folder.iterdir()):
        console.print("The last run was stopped; this one goes on where it was.")


def statuses() -> Mapping[str, str]:
    """Holdfast's status of every order it knows."""
    return {order_id: str(status) for order_id, status in workflow.list_all()}


def no_order_is_active() -> bool:
    """Whether Holdfast owes no order any progress. The last receipt is filed a moment before its task is logged."""
    return not workflow.list_all({"RUNNING", "PENDING", "RESUMABLE"})


@contextmanager
def only_one_demo(folder: Path, console: Console) -> Iterator[bool]:
    """Hold the demo's folder, so that a second demo does not throw it away under the first."""
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another `make demo` is running in this project. Let it finish, or stop it.")
            yield False
        else:
            yield True
    finally:
        os.close(held)
