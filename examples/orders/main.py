"""The demo from end to end: start or resume, run, kill, go on, audit, leave nothing running."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from rich.console import Console

from examples.orders import audit, report
from examples.orders.confirmations import Confirmations, LineError, open_line
from examples.orders.kill import Accident
from examples.orders.orders_file import Order, read_orders
from examples.orders.outside import Outside
from examples.orders.payments import PaymentService
from examples.orders.platform_start import StoppedError, StopSignals, start_platform, stop_platform
from examples.orders.process import submit
from examples.orders.view import View, look
from holdfast import workflow

ORDERS_FILE = Path(__file__).with_name("orders.csv")
# Below the project: what the demo leaves is easy to find and easy to throw away.
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".demo"
FINISHED = "finished"
RAY_SAYS = "ray.log"

ROUND_S = 0.25
SUBMITTED_PER_ROUND = 30
PAUSE_BETWEEN_KILLS_S = 2.0
# With fewer orders to do (a resumed run near its end) a kill would hit an idle platform and show nothing.
LEAST_ORDERS_FOR_KILLS = 40
NO_PROGRESS_LIMIT_S = 60.0
REPLACED_WITHIN_S = 30.0


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
        ExitStack() as ended_last,
    ):
        if not alone:
            return 1
        code = 130
        signals = StopSignals()
        try:
            # Inside the `try`: from the first signal on there is somebody who tidies up.
            signals.listen()
            code = run(folder, console, signals, ended_last)
        except StoppedError:
            console.print("\nStopped. `make demo` again goes on with the orders that are open.")
        except (StuckError, LineError, report.NoReportError) as problem:
            console.print(problem, style="bold red", markup=False, highlight=False)
            code = 1
        finally:
            signals.ignore()
            stop_platform(console)
        return code


def run(folder: Path, console: Console, signals: StopSignals, ended_last: ExitStack) -> int:
    """Everything between the start and the audit. What must outlive the platform goes to `ended_last`."""
    begin(folder, console)
    orders, bad_rows = read_orders(ORDERS_FILE)
    console.print(f"{ORDERS_FILE.name}: {len(orders)} orders, and {len(bad_rows)} rows that are skipped:")
    for row in bad_rows:
        console.print(f"  line {row.line}: {row.reason}", highlight=False)

    outside = Outside(str(folder / "outside.db"))
    outside.open_for_business()
    line = ended_last.enter_context(Confirmations(folder))
    start_platform(folder / "holdfast", line.servers)
    open_line(line)
    console.print(f"Confirmations come by Kafka ({line.where}), topic {line.topic}.", highlight=False)
    report.schedule_report(outside)
    # Ids that the store knows are done or being resumed; submitting them again is not for us to do.
    known = statuses(orders)
    for order_id, status in known.items():
        if status == "FAILED":
            workflow.resume_async(order_id)
    to_submit = [order for order in orders if order.order_id not in known]
    if known:
        done = sum(status == "SUCCESSFUL" for status in known.values())
        console.print(f"From the run before: {done} orders are done and stay so, {len(known) - done} go on.")

    accident = Accident()
    with View(console) as view:
        work(outside, line, orders, to_submit=to_submit, view=view, accident=accident, signals=signals)
        if accident.killed:
            wait_until_replaced(accident)

    console.print(f"All are closed. The nightly report is due {report.next_night():%Y-%m-%d %H:%M %Z}; here it is now:")
    made = report.report_of_tonight()
    console.print(report.as_table(made))
    findings = audit.audit(outside, orders, statuses(orders), made)
    console.print(audit.as_table(findings))
    if not all(finding.passed for finding in findings):
        console.print(f"[bold red]The audit failed.[/] {folder} is kept as it is; remove it to start afresh.")
        return 1
    (folder / FINISHED).touch()
    console.print("[green]The audit is clean.[/] The next `make demo` starts afresh.")
    return 0


def work(
    outside: Outside,
    line: Confirmations,
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
            submit(outside, line.topic, queue[-1])
            queue.pop()
        confirmed = payments.confirmations_due()
        line.tell(confirmed)
        for order_id in confirmed:
            # A stop before this line has it told twice, which nobody minds: an order listens once.
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
        if not queue and progress.closed == progress.total and not active(statuses(orders)):
            return
        if progress.closed > closed:
            closed, closed_at_s = progress.closed, now_s
        elif now_s - closed_at_s > NO_PROGRESS_LIMIT_S:
            waiting = [order_id for order_id, status in statuses(orders).items() if status != "SUCCESSFUL"]
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


def statuses(orders: list[Order]) -> Mapping[str, str]:
    """Holdfast's status of every order it knows."""
    wanted = {order.order_id for order in orders}
    return {workflow_id: str(status) for workflow_id, status in workflow.list_all() if workflow_id in wanted}


def active(known: Mapping[str, str]) -> bool:
    """Whether Holdfast owes an order progress. The last receipt is filed a moment before its task is logged."""
    return not {"RUNNING", "PENDING", "RESUMABLE"}.isdisjoint(known.values())


def wait_until_replaced(accident: Accident) -> None:
    """Wait until other processes have taken the places of the killed ones."""
    deadline_s = time.monotonic() + REPLACED_WITHIN_S
    while not accident.replaced():
        if time.monotonic() > deadline_s:
            raise StuckError("The killed processes were not replaced.")
        time.sleep(ROUND_S)


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
