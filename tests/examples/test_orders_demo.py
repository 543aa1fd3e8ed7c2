"""The demo: its file, its outside world and its audit by themselves, and the whole of it as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from examples.orders import confirmations
from examples.orders.audit import audit
from examples.orders.confirmations import JOURNAL, LINE_TEST, Confirmations, LineError
from examples.orders.orders_file import COLUMNS, Order, read_orders
from examples.orders.outside import Outside, lot
from examples.orders.payments import CardDeclinedError, PaymentService, PaymentUnavailableError
from examples.orders.process import NOT_CONFIRMED, SHIPPED
from examples.orders.report import Report, read_books
from examples.orders.warehouse import Warehouse
from tests.kafka.running_kafka import RunningKafka

PROJECT = Path(__file__).resolve().parents[2]
ORDER = Order(order_id="order-0001", customer="Ada", items={"lamp": 2, "rug": 1}, total_cents=22700)


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    world = Outside(str(tmp_path / "outside.db"))
    world.open_for_business()
    return world


def charge_until_it_works(outside: Outside, order: Order) -> None:
    for _ in range(5):
        try:
            PaymentService(outside).charge(order.order_id, order.total_cents)
        except PaymentUnavailableError:
            continue
        return
    raise AssertionError("the service never answered")


def close_as_shipped(outside: Outside, order: Order) -> None:
    warehouse = Warehouse(outside)
    assert warehouse.reserve(order.order_id, order.items)
    charge_until_it_works(outside, order)
    for sku, quantity in order.items.items():
        warehouse.ship(order.order_id, sku, quantity)
    warehouse.file_receipt(order.order_id, SHIPPED, order.total_cents)


def wrong(outside: Outside, status: str = "SUCCESSFUL", nightly: Report | None = None) -> list[str]:
    """The questions that the audit answers with no."""
    findings = audit(outside, [ORDER], {ORDER.order_id: status}, nightly or read_books(outside))
    return [finding.question for finding in findings if not finding.passed]


class TestOrdersFile:
    def test_the_shipped_file_has_three_hundred_good_rows_and_eight_bad_ones(self) -> None:
        orders, bad = read_orders(PROJECT / "examples" / "orders" / "orders.csv")
        assert len(orders) == 300
        assert [row.line for row in bad] == [25, 63, 100, 142, 173, 211, 257, 290]
        assert len({row.reason for row in bad}) == 8

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("a,Ada,lamp:1", "3 columns where 4 belong"),
            ("a,,lamp:1,4900", "a has no customer"),
            ("a,Ada,sofa:1,1", "there is no article 'sofa'"),
            ("a,Ada,lamp:-1,1", "the quantity of lamp must be a whole number of at least 1, not '-1'"),
            ("a,Ada,,0", "a orders nothing"),
            ("a,Ada,lamp:1,1", "the total of a is given as 1 but its items cost 4900"),
        ],
    )
    def test_a_bad_row_is_reported_by_line_and_the_next_one_is_read(
        self, tmp_path: Path, row: str, reason: str
    ) -> None:
        path = tmp_path / "orders.csv"
        path.write_text(f"{','.join(COLUMNS)}\n{row}\nb,Ben,rug:1,12900\n")
        orders, bad = read_orders(path)
        assert [order.order_id for order in orders] == ["b"]
        assert [(found.line, found.reason) for found in bad] == [(2, reason)]


class TestOutside:
    def test_what_is_asked_twice_is_done_once(self, outside: Outside) -> None:
        close_as_shipped(outside, ORDER)
        warehouse = Warehouse(outside)
        warehouse.ship(ORDER.order_id, "lamp", 2)
        warehouse.file_receipt(ORDER.order_id, SHIPPED, ORDER.total_cents)
        assert wrong(outside) == ["logged tasks that were run again"]

    def test_a_reservation_takes_all_items_or_none(self, outside: Outside) -> None:
        warehouse = Warehouse(outside)
        assert not warehouse.reserve("a", {"lamp": 1, "rug": 401})
        assert warehouse.reserve("b", {"lamp": 400})
        assert not warehouse.reserve("c", {"lamp": 1})
        warehouse.release("b")
        assert warehouse.reserve("c", {"lamp": 1})

    def test_some_card_is_declined_and_some_charge_fails_at_first(self, outside: Outside) -> None:
        said = set()
        # Those below 20 answer at once; of some others the answer is lost, which takes a minute.
        for order_id in [name for name in map("order-{}".format, range(120)) if lot(name, "temper") < 20]:
            try:
                PaymentService(outside).charge(order_id, 1)
            except (CardDeclinedError, PaymentUnavailableError) as problem:
                said.add(type(problem))
        assert said == {CardDeclinedError, PaymentUnavailableError}


class TestAudit:
    def test_an_order_that_was_shipped_and_paid_is_clean(self, outside: Outside) -> None:
        close_as_shipped(outside, ORDER)
        assert wrong(outside) == []

    def test_an_order_without_receipt_is_found(self, outside: Outside) -> None:
        assert "orders with a receipt" in wrong(outside)

    def test_a_workflow_that_failed_is_found(self, outside: Outside) -> None:
        close_as_shipped(outside, ORDER)
        assert wrong(outside, status="FAILED") == ["workflows that are SUCCESSFUL"]

    def test_stock_and_money_that_were_not_given_back_are_found(self, outside: Outside) -> None:
        Warehouse(outside).reserve(ORDER.order_id, ORDER.items)
        charge_until_it_works(outside, ORDER)
        Warehouse(outside).file_receipt(ORDER.order_id, NOT_CONFIRMED, 0)
        assert wrong(outside) == [
            "money kept, in cents, is that of the shipped orders",
            "stock left is what the shipped orders leave",
        ]

    def test_a_parcel_of_an_order_that_was_not_shipped_is_found(self, outside: Outside) -> None:
        Warehouse(outside).ship(ORDER.order_id, "lamp", 2)
        Warehouse(outside).file_receipt(ORDER.order_id, NOT_CONFIRMED, 0)
        assert wrong(outside) == ["pieces sent in parcels", "parcels of orders that were not shipped"]

    def test_a_nightly_report_that_leaves_money_out_is_found(self, outside: Outside) -> None:
        close_as_shipped(outside, ORDER)
        assert wrong(outside, nightly=Report(outcomes={SHIPPED: (1, 0)})) == ["the nightly report"]


class TestConfirmations:
    @pytest.fixture(autouse=True)
    def _without_servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)

    def test_a_new_broker_is_given_what_the_old_one_had_where_it_had_it(self, tmp_path: Path) -> None:
        with Confirmations(tmp_path) as line:
            line.tell([f"order-{number}" for number in range(20)])
            line.tell(["order-3"])
            topic, there = line.topic, messages_of(line)
        with Confirmations(tmp_path) as line:
            assert line.topic == topic
            assert messages_of(line) == there
        assert len(there) == 21

    def test_servers_that_do_not_answer_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        monkeypatch.setattr(confirmations, "PATIENCE_S", 0.5)
        with pytest.raises(LineError, match=r"127\.0\.0\.1:1 gives no topic confirmations-"):
            Confirmations(tmp_path)

    def test_what_was_half_written_down_when_it_was_stopped_was_not_said(self, tmp_path: Path) -> None:
        with Confirmations(tmp_path) as line:
            line.tell(["a"])
        with (tmp_path / JOURNAL).open("a") as journal:
            journal.write('[0, "b", {"conf')
        with Confirmations(tmp_path) as line:
            line.tell(["c"])
        with Confirmations(tmp_path) as line:
            assert {key for _, _, key, _ in messages_of(line)} == {b"a", b"c"}


@pytest.mark.slow
class TestTheWholeDemo:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
        """Starts it, on its own Kafka or that of some servers."""
        started: list[subprocess.Popen[str]] = []

        def start_one(servers: str = "") -> subprocess.Popen[str]:
            started.append(start_demo(tmp_path / "demo", servers))
            return started[-1]

        yield start_one
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)

    def test_it_is_stopped_by_ctrl_c_without_leftovers_and_then_goes_on(
        self, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        demo = start()
        journal = tmp_path / "demo" / JOURNAL
        wait_until(demo, lambda: journal.exists() and LINE_TEST in journal.read_text(), "the line was not tried")
        stop(demo)

        again = start()
        outside = Outside(str(tmp_path / "demo" / "outside.db"))
        wait_until(again, lambda: receipts(outside) >= 10, "no ten orders were closed")
        stop(again)

        at_last = start()
        said = end_of(at_last)
        assert "From the run before:" in said
        assert said.count("kill -9") == 3

    def test_it_runs_on_a_real_kafka(
        self, start: Callable[..., subprocess.Popen[str]], kafka: RunningKafka, tmp_path: Path
    ) -> None:
        said = end_of(start(kafka.broker.bootstrap_servers))
        assert f"by Kafka (the servers {kafka.bootstrap_servers})" in said
        assert not (tmp_path / "demo" / JOURNAL).exists()


def stop(demo: subprocess.Popen[str]) -> None:
    """Stop it as Ctrl-C does, and see that nothing is left."""
    os.killpg(demo.pid, signal.SIGINT)
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert processes_of_session(demo.pid) == []


def end_of(demo: subprocess.Popen[str]) -> str:
    """Wait for its good end, and see that nothing is left; what it said."""
    said, _ = demo.communicate(timeout=200)
    assert demo.returncode == 0, said
    assert "Nightly report" in said
    assert "The audit is clean." in said
    assert processes_of_session(demo.pid) == []
    return said


def messages_of(line: Confirmations) -> set[tuple[int, int, bytes, bytes]]:
    """All that the Kafka of a line has of its topic: partition, offset, key and value."""
    settings = {"bootstrap.servers": line.servers, "group.id": "test", "enable.partition.eof": True, "log_level": 0}
    reader = Consumer(settings)
    try:
        partitions = reader.list_topics(line.topic, timeout=30).topics[line.topic].partitions
        reader.assign([TopicPartition(line.topic, partition, 0) for partition in partitions])
        found, ended = set(), set()
        deadline_s = time.monotonic() + 60
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline_s, f"read {len(found)} messages, and then nothing"
            message = reader.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
                continue
            found.add((message.partition(), message.offset(), message.key(), message.value()))
        return found
    finally:
        reader.close()


def start_demo(folder: Path, servers: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    if servers:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = servers
    return subprocess.Popen(
        [sys.executable, "-m", "examples.orders", str(folder)],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(demo: subprocess.Popen[str], true: Callable[[], bool], problem: str) -> None:
    deadline_s = time.monotonic() + 90
    while not true():
        assert demo.poll() is None, f"{problem}: it has ended, and said {demo.communicate()[0]}"
        assert time.monotonic() < deadline_s, f"{problem} in time"
        time.sleep(0.1)


def receipts(outside: Outside) -> int:
    with outside.connected() as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'receipts'").fetchone() is None:
            return 0
        (count,) = db.execute("SELECT COUNT(*) FROM receipts").fetchone()
        return int(count)


def processes_of_session(session: int) -> list[str]:
    """Command lines of what still runs in a session (Linux)."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                left.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return left
