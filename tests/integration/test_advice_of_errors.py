"""What an error advises is a call that works: each advice that stands in the sources is run here."""

from __future__ import annotations

import ast
import re
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.dag import InputNode

from holdfast import workflow
from holdfast.engine import errors
from holdfast.listeners import KafkaListener
from holdfast.storage import actor_store, layout, workflow_store
from holdfast.storage.folder import StorageFolder

ROOT = Path(__file__).parents[2]
ADVICE = re.compile(r"workflow\.([a-z_]+)\(")
WHERE_USERS_HEAR = ("platform", "actors", "listeners")


# -- what is advised ---------------------------------------------------------------------------------------------------


def advice_in(source: str) -> Iterator[tuple[str, str]]:
    """(where it stands, what is to be called), of all texts in some source but the docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{name}.{node.name}" if name else node.name
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "_" for part in node.values)
        else:
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if id(node) not in docstrings:
            for found in ADVICE.findall(text):
                yield name, found
        if not isinstance(node, ast.JoinedStr):
            for child in ast.iter_child_nodes(node):
                yield from walk(child, name)
        else:
            # In {...} there may be texts, too.
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from walk(part.value, name)

    yield from walk(tree, "")


def all_advice() -> set[tuple[str, str]]:
    files = [path for root in WHERE_USERS_HEAR for path in sorted((ROOT / root).rglob("*.py"))]
    return {advice for path in files for advice in advice_in(path.read_text())}


# -- running it --------------------------------------------------------------------------------------------------------


def advised(error: BaseException, call: str) -> str:
    """The call as the error says it."""
    said = str(error)
    start = said.index(f"workflow.{call}(")
    depth = 0
    for end in range(start, len(said)):
        depth += (said[end] == "(") - (said[end] == ")")
        if said[end] == ")" and depth == 0:
            return said[start : end + 1]
    raise AssertionError(f"no whole call in {said}")


def follow(error: BaseException, call: str, **names: Any) -> Any:
    """Do what the error says."""
    return eval(advised(error, call), {"workflow": workflow, **names})


def refused(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each case looks at what is said
        call()
    return raised.value


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@ray.remote(num_cpus=0)
def until(folder: str) -> str:
    Path(folder, "runs").touch()
    while not Path(folder, "let go").exists():
        time.sleep(0.02)
    return "done"


@ray.remote(num_cpus=0)
def once_there(folder: str) -> str:
    return Path(folder, "mended").read_text()


@ray.remote(num_cpus=0)
def give(value: Any) -> Any:
    return value


@workflow.virtual_actor
class Thing:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    def hang(self, folder: str) -> None:
        Path(folder, "runs").touch()
        while not Path(folder, "let go").exists():
            time.sleep(0.02)


@workflow.virtual_actor
class Other:
    def add(self) -> str:
        return "other"


@workflow.virtual_actor(on_error="suspend")
class Careful:
    def read(self, folder: str) -> str:
        return Path(folder, "mended").read_text()


class Polls(workflow.EventListener):
    async def poll_for_event(self) -> Any:
        return "polled"


class Case:
    """What a case has to itself."""

    def __init__(self, wid: str, folder: Path, storage: Path) -> None:
        self.wid, self.folder, self.storage = wid, folder, storage

    def running(self) -> Any:
        reference = workflow.run_async(until.bind(str(self.folder)), workflow_id=self.wid)
        wait_for((self.folder / "runs").exists, "it does not run")
        return reference

    def failed(self) -> Exception:
        error = refused(lambda: workflow.run(once_there.bind(str(self.folder)), workflow_id=self.wid))
        (self.folder / "mended").write_text("mended")
        return error

    def stuck(self) -> Any:
        thing = Thing.get_or_create(self.wid)
        thing.hang.run_async(str(self.folder))
        wait_for((self.folder / "runs").exists, "it does not run")
        return thing

    def let_go(self) -> None:
        (self.folder / "let go").touch()

    def damage(self, key: Callable[[Any], bytes]) -> None:
        folder = StorageFolder.open(self.storage, create=False)
        with folder.kv.write() as txn:
            txn.put(key(txn), b"garbage")
        folder.close()


def failed_workflow(case: Case) -> None:
    assert follow(case.failed(), "resume") == "mended"


def defect(case: Case) -> None:
    case.failed()
    assert follow(errors.WorkflowDefectError(case.wid, "a defect"), "resume") == "mended"


def unknown_workflow(case: Case) -> None:
    error = refused(lambda: workflow.get_status(case.wid))
    assert isinstance(follow(error, "list_all"), list)
    follow(error, "init")


def active_workflow(case: Case) -> None:
    case.running()
    error = refused(lambda: workflow.delete(case.wid))
    follow(error, "cancel")
    workflow.delete(case.wid)


def unknown_schedule(case: Case) -> None:
    error = refused(lambda: workflow.describe_schedule(case.wid))
    assert isinstance(follow(error, "list_schedules"), list)


def no_executor(case: Case) -> None:
    workflow.run(give.bind(1), workflow_id=case.wid)
    error = errors.ExecutorNotFoundError(case.wid, "executor-0", 120.0)
    assert follow(error, "get_status") == workflow.SUCCESSFUL
    assert follow(error, "platform_status")["executors"]


def unknown_dead_letter(case: Case) -> None:
    error = refused(lambda: workflow.show_dead_letter(10**9))
    assert isinstance(follow(error, "dead_letters"), list)


def unknown_actor(case: Case) -> None:
    error = refused(lambda: workflow.get_actor(case.wid))
    assert isinstance(follow(error, "list_actors"), list)


def taken_id(case: Case) -> None:
    workflow.run(give.bind(1), workflow_id=case.wid)
    follow(refused(lambda: Thing.get_or_create(case.wid)), "delete")
    assert Thing.get_or_create(case.wid).add.run() == 1
    follow(refused(lambda: workflow.run(give.bind(1), workflow_id=case.wid)), "delete")
    assert workflow.run(give.bind(1), workflow_id=case.wid) == 1


def quarantined(case: Case) -> None:
    careful = Careful.get_or_create(case.wid)
    refused(lambda: careful.read.run(str(case.folder)))
    (case.folder / "mended").write_text("mended")
    follow(workflow.exceptions.VirtualActorQuarantinedError(case.wid, "Careful", "read", 5), "resume")
    wait_for(lambda: workflow.get_status(case.wid) == workflow.SUCCESSFUL, "it is not resumed")


def nothing_to_resume(case: Case) -> None:
    thing = case.stuck()
    follow(refused(lambda: workflow.resume(case.wid)), "cancel")
    assert thing.add.run() == 1
    case.let_go()


def unknown_call(case: Case) -> None:
    Thing.get_or_create(case.wid)
    assert follow(refused(lambda: workflow.cancel(f"{case.wid}/never")), "describe").actor_id == case.wid


def actor_is_no_call(case: Case) -> None:
    thing = case.stuck()
    error = refused(lambda: workflow.cancel(case.wid))
    follow(error, "cancel")
    assert thing.add.run() == 1
    follow(error, "reset_actor")
    assert thing.add.run() == 2
    case.let_go()


def busy_actor(case: Case) -> None:
    case.stuck()
    follow(refused(lambda: workflow.delete(case.wid)), "cancel")
    workflow.delete(case.wid)
    case.let_go()


def moved_state(case: Case) -> None:
    Thing.get_or_create(case.wid).add.run()
    error = refused(lambda: workflow.reset_actor(case.wid, expected_version=1))
    workflow.reset_actor(case.wid, expected_version=follow(error, "describe").state_version)


def other_class(case: Case) -> None:
    Thing.get_or_create(case.wid).add.run()
    error = refused(lambda: Other.get_or_create(case.wid))

    class Renamed:
        def add(self) -> str:
            return "renamed"

    assert follow(error, "virtual_actor")(Renamed).get_or_create(case.wid).add.run() == "renamed"
    follow(error, "delete")
    assert Other.get_or_create(case.wid).add.run() == "other"


def damaged(case: Case) -> None:
    workflow.run(give.bind(1), workflow_id=case.wid)

    def row(txn: Any) -> bytes:
        found = workflow_store.find(txn, case.wid)
        assert found is not None
        return layout.workflow(found.seq)

    case.damage(row)
    error = refused(lambda: workflow.get_output(case.wid))
    assert advised(error, "delete") == "workflow.delete(<its id>)"
    workflow.delete(case.wid)
    Thing.get_or_create(actor := f"{case.wid}-actor").add.run()
    case.damage(lambda txn: layout.actor(actor_store.seq_of(txn, actor) or 0))
    error = refused(lambda: workflow.describe(actor))
    assert advised(error, "delete") == "workflow.delete(<its id>)"
    workflow.delete(actor)


def no_rule(case: Case) -> None:
    advice = advised(refused(lambda: workflow.subscribe(Thing)), "on_event")
    assert advice == "workflow.on_event(...)"

    @workflow.virtual_actor
    class Hears:
        @workflow.on_event(KafkaListener, topic=case.wid, actor_id="one")
        def heard(self, message: Any) -> None: ...

    assert len(workflow.subscribe(Hears)) == 1


def made_by_events(case: Case) -> None:
    def declare(**given: Any) -> Any:
        class Hears:
            def __init__(self, needed: int) -> None: ...

            @workflow.on_event(KafkaListener, topic=case.wid, actor_id="one", **given)
            def heard(self, message: Any) -> None: ...

        return workflow.virtual_actor(Hears)

    assert "create=False" in advised(refused(declare), "on_event")
    declare(create=False)


def migrations(case: Case) -> None:
    def body() -> type:
        class Account:
            @workflow.migrate(from_version=3)
            @staticmethod
            def up(state: Any) -> Any:
                return state

        return Account

    follow(refused(lambda: workflow.virtual_actor(body())), "virtual_actor")(body())


def state_of_an_old_version(case: Case) -> None:
    Thing.get_or_create(case.wid).add.run()

    def declare(**members: Any) -> Any:
        def body(namespace: dict[str, Any]) -> None:
            namespace.update(add=lambda self: self.n, **members)

        return workflow.virtual_actor(version=2)(types.new_class("Newer", (Thing,), exec_body=body))

    newer = declare()
    error = refused(newer.get_or_create(case.wid).add.run)
    up = follow(error, "migrate")(lambda state: {**state, "n": 50})
    assert declare(up=up).get_or_create(case.wid).add.run() == 50


def same_id_at_work(case: Case) -> None:
    case.running()
    error = refused(lambda: workflow.run(give.bind(1), workflow_id=case.wid))
    case.let_go()
    assert follow(error, "get_output") == "done"


def executed_nodes(case: Case) -> None:
    dag: Any = workflow.sleep(0)
    with warnings.catch_warnings():
        # It is Ray's own, and deprecated there.
        warnings.simplefilter("ignore")
        error = refused(dag.execute)
    follow(error, "run", dag=dag)
    with InputNode() as given:
        dag = give.bind(given)
    assert follow(refused(lambda: workflow.run(dag)), "run", dag=dag, value=7) == 7


def polled_with_a_limit(case: Case) -> None:
    error = refused(lambda: workflow.wait_for_event(Polls, timeout_s=1))
    said = {"event": workflow.wait_for_event(Polls), "seconds": 60}
    assert advised(error, "sleep") in advised(error, "wait")
    assert workflow.run(follow(error, "wait", **said))[0] == ["polled"]


def shown_options(case: Case) -> None:
    options = workflow.options(max_retries=2)
    assert eval(repr(options), {"workflow": workflow}) == options


def another_folder(case: Case) -> None:
    """And what its end leaves is taken up as the error about it says."""
    case.running()
    error = refused(lambda: workflow.init(str(case.folder / "other")))
    follow(error, "shutdown")
    workflow.init(str(case.storage))
    case.let_go()
    error = refused(lambda: workflow.get_output(case.wid))
    assert follow(error, "resume") == "done"
    follow(refused(lambda: workflow.init(max_running_workflows=7)), "shutdown")
    workflow.init(str(case.storage))


def kafka_connection(case: Case) -> None:
    advice = 'workflow.init(kafka={"c": {"bootstrap_servers": "127.0.0.1:1"}})'
    eval(advice, {"workflow": workflow})


RUN: dict[tuple[str, str], Callable[[Case], None]] = {
    ("WorkflowExecutionError.__str__", "resume"): failed_workflow,
    ("WorkflowNotFoundError.__str__", "list_all"): unknown_workflow,
    ("WorkflowNotFoundError.__str__", "init"): unknown_workflow,
    ("WorkflowStillActiveError.__str__", "cancel"): active_workflow,
    ("WorkflowDefectError.__str__", "resume"): defect,
    ("ScheduleNotFoundError.__str__", "list_schedules"): unknown_schedule,
    ("ExecutorNotFoundError.__str__", "get_status"): no_executor,
    ("ExecutorNotFoundError.__str__", "platform_status"): no_executor,
    ("DeadLetterNotFoundError.__str__", "dead_letters"): unknown_dead_letter,
    ("VirtualActorNotFoundError.__str__", "list_actors"): unknown_actor,
    ("IdTakenError.__str__", "delete"): taken_id,
    ("VirtualActorQuarantinedError.__str__", "resume"): quarantined,
    ("VirtualActorNotResumableError.__str__", "cancel"): nothing_to_resume,
    ("CallNotFoundError.__str__", "describe"): unknown_call,
    ("VirtualActorNotCancellableError.__str__", "cancel"): actor_is_no_call,
    ("VirtualActorNotCancellableError.__str__", "reset_actor"): actor_is_no_call,
    ("VirtualActorBusyError.__str__", "cancel"): busy_actor,
    ("VirtualActorVersionError.__str__", "describe"): moved_state,
    ("OtherClassError.__str__", "delete"): other_class,
    ("OtherClassError.__str__", "virtual_actor"): other_class,
    ("_read", "delete"): damaged,
    ("subscribe", "on_event"): no_rule,
    ("_check_made_by_events", "on_event"): made_by_events,
    ("_migrations_of", "virtual_actor"): migrations,
    ("load_instance", "migrate"): state_of_an_old_version,
    ("ExecutorCore._submit_known", "get_output"): same_id_at_work,
    ("_OwnNode._execute_impl", "run"): executed_nodes,
    ("resolve_input", "run"): executed_nodes,
    ("EventNode.__init__", "wait"): polled_with_a_limit,
    ("EventNode.__init__", "sleep"): polled_with_a_limit,
    ("WorkflowOptions.__repr__", "options"): shown_options,
    ("_check_same", "shutdown"): another_folder,
    ("_error_of", "resume"): another_folder,
    ("SourceHosts.look", "init"): kafka_connection,
    ("SourceHosts.replay", "init"): kafka_connection,
    ("_platform", "init"): unknown_workflow,
}

# What needs a broker: the test that runs it.
ELSEWHERE = {
    ("replay", "replay_dead_letter"): ("tests/kafka/test_kafka_workflows.py", "replay_dead_letter(letter.id, value="),
}


def test_what_every_error_advises_is_run_by_a_test() -> None:
    assert all_advice() == set(RUN) | set(ELSEWHERE), "an error advises a call that no test here runs, or no more does"
    for path, call in ELSEWHERE.values():
        assert call in (ROOT / path).read_text()


def test_advice_that_is_new_is_found() -> None:
    planted = (
        'def f(x):\n    """Or workflow.told(x)."""\n    raise ValueError(f"no {x}: " + f"call workflow.mend({x!r})")\n'
    )
    assert list(advice_in(planted)) == [("f", "mend")]


@pytest.mark.parametrize("case", sorted(set(RUN.values()), key=lambda one: one.__name__), ids=lambda one: one.__name__)
def test_the_advice_works(case: Callable[[Case], None], platform: Path, wid: str, tmp_path: Path) -> None:
    case(Case(wid, tmp_path, platform))
