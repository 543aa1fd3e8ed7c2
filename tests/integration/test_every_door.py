"""A bad input gets the same typed refusal by every door that takes it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import inspect
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.engine.errors import InvalidWorkflowIdError, MetadataTooLargeError, NotJsonError
from holdfast.listeners import KafkaListener


@pytest.fixture(scope="module", autouse=True)
def one_place(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A platform with one place to run, and none to wait."""
    workflow.init(
        str(tmp_path_factory.mktemp("platform") / "storage"), max_running_workflows=1, max_pending_workflows=0
    )
    yield
    workflow.shutdown()


@ray.remote(num_cpus=0)
def give(value: Any = 1) -> Any:
    return value


@workflow.step  # type: ignore[untyped-decorator]
def give_in_a_step() -> int:
    return 1


@ray.remote(num_cpus=0)
def until(folder: str) -> None:
    Path(folder, "runs").touch()
    while not Path(folder, "let go").exists():
        time.sleep(0.02)


@workflow.virtual_actor
class Thing:
    def add(self) -> int:
        return 1


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    """An async function, for code that is not."""

    def call(*args: Any, **kwargs: Any) -> Any:
        async def within() -> Any:
            return await function(*args, **kwargs)

        return asyncio.run(within())

    return call


# -- ids ---------------------------------------------------------------------------------------------------------------

BAD_IDS = {"empty": "", "too long": "x" * 1025, "too many bytes": "ä" * 513, "no text": "\ud800", "a number": 7}
BAD_IDS |= {"bytes": b"id", "a list": ["id"]}
IDS = ("workflow_id", "actor_id")
# What they need beside an id.
ALSO_NEEDED: dict[str, Any] = {"dag": give.bind(), "key": "key"}
# Their ids are templates, and functions of an event: what these make is looked at when the event is there.
OF_EVENTS = {"on_event"}


def takers_of_ids() -> dict[str, Callable[[Any], Any]]:
    """What takes an id, of all there is in the public API; by name."""
    found: dict[str, Callable[[Any], Any]] = {}
    for module, where in ((workflow, "workflow"), (workflow.aio, "aio")):
        for name in module.__all__:
            function = getattr(module, name)
            if name in OF_EVENTS or isinstance(function, type) or not callable(function):
                continue
            parameters = inspect.signature(function).parameters
            for taken in IDS:
                if taken in parameters:
                    needed = {
                        other: ALSO_NEEDED[other]
                        for other, about in parameters.items()
                        if other != taken and about.default is about.empty and about.kind is about.POSITIONAL_OR_KEYWORD
                    }
                    call = awaited(function) if where == "aio" else function
                    found[f"{where}.{name}"] = _with(call, needed, taken)
    return found


def _with(call: Callable[..., Any], needed: dict[str, Any], taken: str) -> Callable[[Any], Any]:
    return lambda given: call(**needed, **{taken: given})


BY_ID: dict[str, Callable[[Any], Any]] = takers_of_ids() | {
    "create.run": lambda given: workflow.create(give.bind()).run(given),
    "create.run_async": lambda given: workflow.create(give.bind()).run_async(given),
    "node.run": lambda given: give.bind().run(workflow_id=given),  # type: ignore[attr-defined]
    "node.run_async": lambda given: give.bind().run_async(workflow_id=given),  # type: ignore[attr-defined]
    "step.run": lambda given: give_in_a_step.step().run(given),
    "step.run_async": lambda given: give_in_a_step.step().run_async(given),
    "get_or_create": Thing.get_or_create,  # type: ignore[attr-defined]
    "aio.get_or_create": awaited(Thing.aio.get_or_create),  # type: ignore[attr-defined]
}


def test_the_doors_that_take_an_id_are_known() -> None:
    assert {"workflow.run", "aio.run", "workflow.cancel", "workflow.reset_actor", "aio.describe"} <= set(BY_ID)
    assert len(BY_ID) > 30


@pytest.mark.parametrize("door", BY_ID)
def test_a_bad_id_is_refused(door: str) -> None:
    for what, given in BAD_IDS.items():
        with pytest.raises(InvalidWorkflowIdError):
            pytest.fail(f"{door} took an id that is {what}: {BY_ID[door](given)!r}")
    assert workflow.list_all() == []


# -- starting a workflow -----------------------------------------------------------------------------------------------

STARTS: dict[str, Callable[..., Any]] = {
    "run": workflow.run,
    "run_async": workflow.run_async,
    "submit": workflow.submit,
    "aio.run": awaited(workflow.aio.run),
    "aio.run_async": awaited(workflow.aio.run_async),
    "aio.submit": awaited(workflow.aio.submit),
    "create.run": lambda dag, **given: workflow.create(dag).run(**given),
    "create.run_async": lambda dag, **given: workflow.create(dag).run_async(**given),
    "step.run": lambda _, **given: give_in_a_step.step().run(**given),
    "step.run_async": lambda _, **given: give_in_a_step.step().run_async(**given),
    "node.run": lambda _, **given: give.bind().run(**given),  # type: ignore[attr-defined]
    "node.run_async": lambda _, **given: give.bind().run_async(**given),  # type: ignore[attr-defined]
}

BAD_METADATA: dict[str, tuple[Any, type[Exception]]] = {
    "not a dict": ([1], ValueError),
    "not a number": ({"n": float("nan")}, NotJsonError),
    "infinite": ({"n": [float("inf")]}, NotJsonError),
    "no JSON": ({"n": object()}, NotJsonError),
    "a key that is no text": ({1: 2}, NotJsonError),
    "too large": ({"n": "x" * 100_000}, MetadataTooLargeError),
}

TAKES_METADATA: dict[str, Callable[[Any], Any]] = {
    **{name: lambda given, start=start: start(give.bind(), metadata=given) for name, start in STARTS.items()},
    "schedule": lambda given: workflow.schedule("s", give.bind(), every_s=60, metadata=given),
    "aio.schedule": lambda given: awaited(workflow.aio.schedule)("s", give.bind(), every_s=60, metadata=given),
    "on_event": lambda given: workflow.on_event(KafkaListener, topic="t", start=give, metadata=given),
    "on_event over a method": lambda given: workflow.on_event(KafkaListener, topic="t", actor_id="a", metadata=given),
    "on_event with options": lambda given: workflow.on_event(
        KafkaListener, topic="t", actor_id="a", options={"metadata": given}
    ),
    "options": lambda given: workflow.options(metadata=given),
    "step.options": lambda given: give_in_a_step.options(metadata=given),
    "step(...)": lambda given: workflow.step(metadata=given),
    "a call of an actor": lambda given: Thing.get_or_create("t").add.options(metadata=given),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("door", TAKES_METADATA)
def test_bad_metadata_is_refused(door: str) -> None:
    for what, (given, kind) in BAD_METADATA.items():
        with pytest.raises(kind, match="metadata"):
            pytest.fail(f"{door} took metadata that is {what}: {TAKES_METADATA[door](given)!r}")
    assert [one for one, _ in workflow.list_all() if one != "t"] == []
    assert workflow.list_schedules() == []
    assert workflow.list_event_subscriptions() == []


TAKES_NODES: dict[str, Callable[[Any], Any]] = {
    **{name: start for name, start in STARTS.items() if not name.startswith(("step", "node"))},
    "create": workflow.create,
    "continuation": workflow.continuation,
    "schedule": lambda given: workflow.schedule("s", given, every_s=60),
    "wait": lambda given: workflow.wait([given]),
}


@pytest.mark.parametrize("door", TAKES_NODES)
def test_what_is_no_node_is_refused(door: str) -> None:
    for given in (7, None, give, len, "give", Thing):
        with pytest.raises(TypeError):
            pytest.fail(f"{door} took {given!r}: {TAKES_NODES[door](given)!r}")


def test_a_workflow_that_finds_no_place_is_refused_by_every_door(tmp_path: Path) -> None:
    holds_it = workflow.run_async(until.bind(str(tmp_path)), workflow_id="holds it")
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for door, start in STARTS.items():
        with pytest.raises(queue.Full):
            pytest.fail(f"{door} took one too many: {start(give.bind())!r}")
    (tmp_path / "let go").touch()
    ray.get(holds_it)
    assert [one for one, _ in workflow.list_all() if one != "t"] == ["holds it"]
