"""What functions hold: references outlive the driver, handles are refused; and equal code of two processes is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow

HOLDING = """
import functools, sys
import ray
from holdfast import workflow
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
table = ray.put({"lamp": 49})
behind = ray.put([table])

@ray.remote
def in_a_global(flag): return ray.get(table)["lamp"]

@ray.remote
def in_a_default(flag, table=table): return ray.get(table)["lamp"]

@ray.remote
def behind_another(flag): return ray.get(ray.get(behind)[0])["lamp"]

class Prices:
    tables = {"all": [table]}
    def lamp(self): return ray.get(self.tables["all"][0])["lamp"]

@ray.remote
def in_a_class(flag): return Prices().lamp()

def made(table):
    @ray.remote
    def in_a_closure(flag): return ray.get(table)["lamp"]
    return in_a_closure

@workflow.step
def in_a_step(flag): return ray.get(table)["lamp"]

for task in (in_a_global, in_a_default, behind_another, in_a_class, made(table)):
    workflow.submit(task.bind(workflow.sleep(1)), workflow_id=task._function.__name__)
workflow.submit(in_a_step.step(workflow.sleep(1)), workflow_id="in_a_step")
"""

SERVICE = """
import dataclasses, enum, sys
import ray
from holdfast import workflow
import module_of_the_service
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")

class Mode(enum.Enum):
    FULL = 1

@ray.remote
def plain(): return 1
@ray.remote
def touches_a_class(): return Mode.FULL.value
@ray.remote
def touches_a_module(): return module_of_the_service.work(1).a
@ray.remote
def continues(): return workflow.continuation(plain.bind())
@ray.remote
def takes(mode): return mode.value

for node in (plain.bind(), touches_a_class.bind(), touches_a_module.bind(), continues.bind(), takes.bind(Mode.FULL)):
    workflow.schedule("service-" + node._body.__name__, node, cron="30 4 * * *")

@ray.remote
def many(words, table): return len(words)
workflow.schedule("service-arguments", many.bind({"a", "b", "c", "d"}, ray.put([1] * 100)), cron="30 4 * * *")
"""


def drive(folder: Path, source: str, name: str, seed: str = "0") -> None:
    script = folder / name
    script.write_text(source)
    ran = subprocess.run(
        [sys.executable, script, ray.get_runtime_context().gcs_address],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def driven(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    drive(tmp_path_factory.mktemp("holding"), HOLDING, "holding.py")


@pytest.mark.parametrize(
    "name", ["in_a_global", "in_a_default", "behind_another", "in_a_class", "in_a_closure", "in_a_step"]
)
def test_a_reference_that_a_function_holds_is_valid_after_its_driver_has_left(driven: None, name: str) -> None:
    assert workflow.get_output(name) == 49


def test_the_same_schedules_at_the_second_start_of_a_service_have_no_effect(platform: Path, tmp_path: Path) -> None:
    (tmp_path / "module_of_the_service.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    a: int\ndef work(n): return Row(n)\n"
    )
    drive(tmp_path, SERVICE, "service.py", seed="1")
    stored = {path.name for path in (platform / "code").rglob("*") if path.is_file()}
    drive(tmp_path, SERVICE, "service.py", seed="2")
    assert {path.name for path in (platform / "code").rglob("*") if path.is_file()} == stored
    for before, after in (('{"a", "b", "c", "d"}', '{"a", "b", "c", "e"}'), ("[1] * 100", "[2] * 100")):
        with pytest.raises(AssertionError, match=r"service-arguments.*what it runs"):
            drive(tmp_path, SERVICE.replace(before, after), "service.py", seed="3")


@ray.remote
class Counter:
    def count(self) -> int:
        return 1


def test_an_actor_handle_that_a_function_holds_is_refused_by_the_name_of_the_variable(platform: Path) -> None:
    counter = Counter.remote()
    held = {"counters": [counter]}

    @ray.remote
    def in_a_closure() -> Any:
        return ray.get(counter.count.remote())

    @ray.remote
    def in_a_container() -> Any:
        return held

    @ray.remote
    def in_a_default(one: Any = counter) -> Any:
        return one

    @workflow.step
    def in_a_step() -> Any:
        return counter

    class Listener(workflow.EventListener):
        async def poll_for_event(self) -> Any:
            return counter

    for node, where in (
        (in_a_closure.bind(), "the variable 'counter' of "),
        (in_a_container.bind(), "the variable 'held' of "),
        (in_a_default.bind(), "the default of 'one' of "),
        (in_a_step.step(), "the variable 'counter' of "),
        (workflow.wait_for_event(Listener), "the variable 'counter' of "),
    ):
        with pytest.raises(TypeError, match=f"holds an actor handle.*{where}.*ray.get_actor it inside"):
            workflow.run_async(node)
    with pytest.raises(TypeError, match="holds an actor handle"):
        workflow.schedule("holding", in_a_closure.bind(), every_s=100)

    @workflow.virtual_actor
    class Holding:
        def look(self) -> Any:
            return counter

    with pytest.raises(TypeError, match="holds an actor handle"):
        Holding.get_or_create("holding")
    ray.kill(counter)


def test_a_step_that_a_function_holds_is_refused_by_the_name_of_the_variable(platform: Path) -> None:
    @workflow.step
    def one() -> int:
        return 1

    waiting = one.step()

    @workflow.step
    def holding() -> Any:
        return waiting

    with pytest.raises(TypeError, match=r"holds .*the variable 'waiting' of .*Instead, call"):
        workflow.run_async(holding.step())


def test_a_node_that_a_function_holds_can_be_its_continuation(platform: Path) -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    number = ray.put(2)
    below = add.bind(number, add.bind(1, 1))

    @ray.remote
    def continues() -> Any:
        return workflow.continuation(below)

    assert workflow.run(continues.bind()) == 4
