"""Code that no row names goes; what can still be named stays, whatever kind of row names it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from holdfast.engine.graph import Graph, NodeSpec
from holdfast.engine.records import GraphLogged
from holdfast.engine.schedules import Overlap, Schedule
from holdfast.engine.transitions import WorkflowStatus
from holdfast.listeners.schedule_triggers import Timing
from holdfast.storage import layout, schedule_store, subscriptions
from holdfast.storage import workflow_store as store
from holdfast.storage.actor_codec import encode_actor
from holdfast.storage.actor_row import ActorRow, ActorSpec
from holdfast.storage.code_garbage import collect_code
from holdfast.storage.folder import StorageFolder
from holdfast.storage.interface import WriteTransaction
from holdfast.storage.schedule_store import ScheduleRow
from holdfast.storage.subscriptions import Subscription
from holdfast.storage.workflow_row import WorkflowRow

SINCE = time.time() + 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StorageFolder]:
    folder = StorageFolder.open(tmp_path / "storage")
    yield folder
    folder.close()


def graph_of(code: str) -> Graph:
    return Graph(nodes=(NodeSpec(task_id="t", function=code),), sink=0)


def workflow(txn: WriteTransaction, code: str, workflow_id: str = "w") -> WorkflowRow:
    row = WorkflowRow(
        seq=0, workflow_id=workflow_id, status=WorkflowStatus.RUNNING, executor="e", nonce=f"{workflow_id}-nonce"
    )
    row = store.create(txn, row)
    graph = graph_of(code)
    logged = GraphLogged(
        first=0, nodes=graph.nodes, sink=graph.sink, parent=None, group=graph.sink, catcher=None, scope=None
    )
    store.write_records(txn, row, [logged])
    return row


def schedule(txn: WriteTransaction, code: str) -> None:
    state = Schedule(name="s", overlap=Overlap.QUEUE, catch_up_s=60.0, coalesce=True, next_due_unix_s=1.0)
    timing = Timing.of(every_s=5).anchored(100.5).to_json()
    schedule_store.save_graph(txn, "s", graph_of(code))
    schedule_store.save(
        txn, ScheduleRow(schedule=state, timing=timing, nonce="n", digest="d"), was=None, now_unix_s=1.0
    )


def rule(txn: WriteTransaction, code: str) -> None:
    subscriptions.subscribe(txn, Subscription(name="r", source="k/c/t", selector="all", graph=graph_of(code)), 1.0)


def rule_by_its_id_function(txn: WriteTransaction, code: str) -> None:
    graph = graph_of("")
    subscriptions.subscribe(
        txn, Subscription(name="r", source="k/c/t", selector="all", graph=graph, id_function=code), 1.0
    )


def actor(txn: WriteTransaction, code: str) -> None:
    row = ActorRow(seq=7, actor_id="a", spec=ActorSpec(class_name="m.C", code=code))
    txn.put(layout.actor(7), encode_actor(row))


def environment(txn: WriteTransaction, code: str) -> None:
    row = WorkflowRow(
        seq=0, workflow_id="e", status=WorkflowStatus.SUCCESSFUL, executor="e", nonce="n", environment=code
    )
    store.create(txn, row)


def needs_of_hosts(txn: WriteTransaction, code: str) -> None:
    store.save_setting(txn, "kind", [code, ""])


@pytest.mark.parametrize(
    "names", [workflow, schedule, rule, rule_by_its_id_function, actor, environment, needs_of_hosts]
)
def test_what_a_row_names_stays_and_what_none_names_goes(
    folder: StorageFolder, names: Callable[[WriteTransaction, str], object]
) -> None:
    named, other = folder.code.put(b"named"), folder.code.put(b"other")
    with folder.kv.write() as txn:
        names(txn, named)
    assert collect_code(folder, SINCE) == 1
    assert folder.code.has(named)
    assert not folder.code.has(other)
    assert collect_code(folder, SINCE) == 0


def test_code_goes_when_its_last_workflow_is_deleted(folder: StorageFolder) -> None:
    code = folder.code.put(b"code")
    with folder.kv.write() as txn:
        rows = [workflow(txn, code, workflow_id) for workflow_id in ("one", "two")]
    for row, stays in zip(rows, (True, False), strict=True):
        with folder.kv.write() as txn:
            store.delete(txn, row, 1.0)
        assert collect_code(folder, SINCE) == (0 if stays else 1)
        assert folder.code.has(code) is stays


def test_the_packages_of_an_environment_that_is_named_stay(folder: StorageFolder) -> None:
    package, other = folder.code.put(b"package"), folder.code.put(b"package of nobody")
    stored = folder.code.put(orjson.dumps({"runtime_env": {}, "packages": {"gcs://a.zip": package}}))
    with folder.kv.write() as txn:
        environment(txn, stored)
    assert collect_code(folder, SINCE) == 1
    assert folder.code.has(package)
    assert folder.code.has(stored)
    assert not folder.code.has(other)


def test_the_old_package_of_an_environment_that_was_stored_since_stays(folder: StorageFolder) -> None:
    package = folder.code.put(b"package")
    path = next(path for path in folder.code.root.rglob("*") if path.name == package)
    os.utime(path, (1.0, 1.0))
    folder.code.put(orjson.dumps({"runtime_env": {}, "packages": {"gcs://a.zip": package}}))
    assert collect_code(folder, time.time() - 60.0) == 0
    assert folder.code.has(package)


def test_what_was_stored_again_since_stays_though_no_row_names_it_yet(folder: StorageFolder) -> None:
    name = folder.code.put(b"code of a submission that is on its way")
    path = next(path for path in folder.code.root.rglob("*") if path.name == name)
    os.utime(path, (1.0, 1.0))
    since = time.time() - 60.0
    StorageFolder.open(folder.path, create=False).code.put(b"code of a submission that is on its way")
    assert collect_code(folder, since) == 0
    assert folder.code.has(name)
    os.utime(path, (1.0, 1.0))
    assert collect_code(folder, since) == 1


def test_a_removal_that_was_cut_short_loses_nothing(folder: StorageFolder) -> None:
    name = folder.code.put(b"code")
    path = next(path for path in folder.code.root.rglob("*") if path.name == name)
    path.rename(path.with_name(f"{name}.going"))
    folder.code.collect_garbage()
    assert folder.code.get(name) == b"code"


def test_code_is_what_rows_name(folder: StorageFolder) -> None:
    pieces = [folder.code.put(b"%d" % number) for number in range(100)]
    with folder.kv.write() as txn:
        for number, code in enumerate(pieces[::3]):
            workflow(txn, code, f"w{number}")
    collect_code(folder, SINCE)
    with folder.kv.read() as txn:
        said = b" ".join(value for key, value in txn.scan(b"") if key[:1] == b"g")
    named = {name.decode() for name in re.findall(rb"[0-9a-f]{32}", said)}
    assert {path.name for path in folder.code.root.rglob("*") if path.is_file()} == named
