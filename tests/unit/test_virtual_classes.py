"""What a class has to be for virtual actors, and what its declaration refuses; no actor is made."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast import workflow
from holdfast.actors.code import BOOK
from holdfast.actors.virtual.definition import definition_of
from holdfast.actors.virtual.requests import ActorPlace
from holdfast.workflow.virtual_actors import VirtualActorHandle


@workflow.virtual_actor
class Counter:
    step_size = 1

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, by: int) -> int:
        self.count += by
        return self.count

    def add_twice(self, by: int) -> int:
        self.add(by)
        return self.add(by)

    async def add_slowly(self, by: int) -> int:
        self.count += by
        return self.count

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        return self.count

    @staticmethod
    def helper() -> int:
        return 7

    def _private(self) -> None:
        pass


def handle_of(virtual_class: Any, actor_id: str = "one") -> VirtualActorHandle:
    place = ActorPlace(actor_id=actor_id, digest="", class_name=virtual_class.definition.name, hosts="")
    return VirtualActorHandle(place, virtual_class.definition)


class TestDeclaring:
    def test_calling_the_class_is_refused(self) -> None:
        with pytest.raises(TypeError, match="get_or_create"):
            Counter(1)

    def test_only_public_methods_can_be_called(self) -> None:
        assert set(Counter.definition.methods) == {"add", "add_twice", "add_slowly", "value"}

    def test_readonly_methods_are_known(self) -> None:
        assert [name for name, method in Counter.definition.methods.items() if method.readonly] == ["value"]

    def test_a_method_calls_another_one_plainly(self) -> None:
        instance = object.__new__(Counter.definition.cls)
        instance.count = 1
        assert instance.add_twice(2) == 5

    def test_class_attributes_are_there(self) -> None:
        assert Counter.step_size == 1
        assert Counter.helper() == 7

    def test_not_a_class_is_refused(self) -> None:
        with pytest.raises(TypeError, match="takes a class"):
            workflow.virtual_actor(print)

    def test_decorating_twice_is_refused(self) -> None:
        with pytest.raises(TypeError, match="already"):
            workflow.virtual_actor(Counter)

    @pytest.mark.parametrize("there", ["__getstate__", "__setstate__"])
    def test_one_of_the_state_methods_alone_is_refused(self, there: str) -> None:
        with pytest.raises(ValueError, match=there):
            workflow.virtual_actor(type("Half", (), {there: lambda *_: None}))

    def test_slots_without_state_methods_are_refused(self) -> None:
        with pytest.raises(ValueError, match="__slots__"):
            workflow.virtual_actor(type("Slotted", (), {"__slots__": ("x",)}))

    @pytest.mark.parametrize("name", ["ready", "actor_id"])
    def test_a_method_that_the_handle_would_hide_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            workflow.virtual_actor(type("Hidden", (), {name: lambda self: None}))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"version": -1}, "version"),
            ({"version": True}, "version"),
            ({"on_error": "ignore"}, "on_error"),
            ({"mailbox_limit": 0}, "mailbox_limit"),
            ({"runtime_env": 3}, "runtime_env"),
            ({"max_restarts": 3}, "max_restarts"),
            ({"no_such_option": 3}, "no_such_option"),
        ],
    )
    def test_refused_options_are_named(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises((ValueError, TypeError), match=said):
            workflow.virtual_actor(**options)

    def test_a_class_inherits_from_a_virtual_actors_class(self) -> None:
        @workflow.virtual_actor(version=2)
        class Better(Counter):  # type: ignore[misc]
            def add(self, by: int) -> int:
                return int(super().add(by * 10))

        instance = object.__new__(Better.definition.cls)
        instance.count = 0
        assert instance.add_twice(1) == 20
        assert Better.definition.settings.version == 2
        assert Counter.definition.settings.version == 1

    def test_a_base_class_stays_as_it_was(self) -> None:
        class Base:
            def hello(self) -> str:
                return "hello"

        @workflow.virtual_actor
        class Greeter(Base):
            pass

        assert set(Greeter.definition.methods) == {"hello"}
        assert Base().hello() == "hello"
        assert type(Base.hello).__name__ == "function"


class TestMigrations:
    def test_they_are_found_by_version_and_are_no_methods(self) -> None:
        @workflow.virtual_actor(version=3)
        class Grown:
            @workflow.migrate(from_version=1)
            @staticmethod
            def one(state: dict[str, Any]) -> dict[str, Any]:
                return {**state, "b": 2}

            @workflow.migrate(from_version=2)
            def two(state: dict[str, Any]) -> dict[str, Any]:
                return {**state, "c": 3}

        definition = Grown.definition
        assert sorted(definition.migrations) == [1, 2]
        assert definition.migrations[2](definition.migrations[1]({"a": 1})) == {"a": 1, "b": 2, "c": 3}
        assert not definition.methods

    def test_one_from_the_version_of_the_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="version=3"):
            workflow.virtual_actor(version=2)(
                type("Late", (), {"up": workflow.migrate(from_version=2)(lambda state: state)})
            )

    def test_two_from_one_version_are_refused(self) -> None:
        with pytest.raises(ValueError, match="two migrations"):
            workflow.virtual_actor(version=2)(
                type(
                    "Twice",
                    (),
                    {
                        "one": workflow.migrate(from_version=1)(lambda state: state),
                        "other": workflow.migrate(from_version=1)(lambda state: state),
                    },
                )
            )

    def test_a_version_is_a_number(self) -> None:
        with pytest.raises(TypeError, match="from_version"):
            workflow.migrate(from_version="1")  # type: ignore[arg-type]


class TestHandles:
    def test_unknown_methods_are_named_with_those_there_are(self) -> None:
        with pytest.raises(AttributeError, match=r"'take'.*add, add_slowly, add_twice, value"):
            _ = handle_of(Counter).take

    def test_a_direct_call_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"add\.run"):
            handle_of(Counter).add(1)

    @pytest.mark.parametrize("call", ["run", "run_async"])
    def test_arguments_are_checked_at_the_call(self, call: str) -> None:
        with pytest.raises(TypeError, match=r"Counter\.add\(by: "):
            getattr(handle_of(Counter).add, call)(1, 2)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"checkpoint": False}, "checkpoint"),
            ({"allow_inplace": True}, "allow_inplace"),
            ({"timeout_s": 0}, "timeout_s"),
            ({"metadata": 3}, "metadata"),
            ({"no_such_option": 1}, "no_such_option"),
            ({"num_cpus": -1}, "num_cpus"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": 3}, "idempotency_key"),
        ],
    )
    def test_refused_options_of_a_call_are_named(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            handle_of(Counter).add.options(**options)

    def test_a_handle_travels(self) -> None:
        handle = handle_of(Counter, "seven")
        back = pickle.loads(pickle.dumps(handle))
        assert back == handle
        assert back.actor_id == "seven"
        assert hash(back) == hash(handle)


class TestStepsOutside:
    def test_a_step_outside_of_a_running_method_is_refused(self) -> None:
        instance = object.__new__(Counter.definition.cls)
        with pytest.raises(RuntimeError, match="method of a virtual actor"):
            instance.add.step(1)

    def test_to_await_oneself_is_refused(self) -> None:
        instance = object.__new__(Counter.definition.cls)
        with pytest.raises(TypeError, match="would wait for itself"):
            _ = instance.add.aio

    def test_a_class_that_is_not_decorated_makes_nothing(self) -> None:
        class Forgotten(workflow.VirtualActor):
            pass

        with pytest.raises(TypeError, match="decorate"):
            Forgotten.get_or_create("one")
        with pytest.raises(TypeError, match="decorate"):
            _ = Forgotten.aio

    @pytest.mark.parametrize("call", ["run", "run_async"])
    def test_to_wait_for_oneself_is_refused(self, call: str) -> None:
        instance = object.__new__(Counter.definition.cls)
        with pytest.raises(TypeError, match="would wait for itself"):
            getattr(instance.add, call)(1)


def test_a_stored_class_is_the_same_class_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "shop_of_test.py"
    source.write_text(
        "from holdfast import workflow\n"
        "@workflow.virtual_actor(version=4)\n"
        "class Till:\n"
        "    def __init__(self): self.sum = 0\n"
        "    def take(self, n):\n"
        "        self.sum += n\n"
        "        return isinstance(self, Till.definition.cls), self.sum\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import shop_of_test\n"
        "from holdfast.actors.code import BOOK\n"
        "sys.stdout.buffer.write(BOOK.encode(shop_of_test.Till.definition.cls)[1])\n"
    )
    pickled = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    source.unlink()
    cls = BOOK.decode("of-test", pickled)
    definition = definition_of(cls)
    assert definition.settings.version == 4
    instance = cls()
    assert instance.take(2) == (True, 2)


_TYPED = """
from holdfast import workflow

@workflow.virtual_actor
class Counter(workflow.VirtualActor):
    def __init__(self, start: int) -> None:
        self.count = start

    @workflow.virtual_actor.method
    def add(self, by: int, *, twice: bool = False) -> int:
        self.count += by
        return self.count

    @workflow.virtual_actor.method
    async def name(self) -> str:
        return "" if self.add(1) else self.actor_id

    @workflow.virtual_actor.readonly
    def value(self) -> int:
        return self.count

counter = Counter.get_or_create("c", 3)
total: int = counter.add.run(1, twice=True)
name: str = counter.name.run()
value: int = counter.value.run()
options: int = counter.add.options(name="x").run(1)
counter.add.run_async(2)
counter.ready()

async def use() -> int:
    made = await Counter.aio.get_or_create("c", 3)
    reference = await made.add.aio.run_async(1)
    kept: int = await made.value.aio.run()
    return await made.add.options(timeout_s=1).aio.run(by=kept, twice=True) + int(await reference)
"""

_WRONG = """
counter.add.run("x")
counter.take.run()
Counter.get_or_create("c", "x")
text: str = counter.value.run()
async def misuse() -> None:
    await Counter.aio.get_or_make("c", 3)
    await counter.add.aio.run("x")
    other: str = await counter.value.aio.run()
"""


def test_a_type_checker_knows_the_methods_of_a_handle(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(_TYPED)
    (tmp_path / "wrong.py").write_text(_TYPED + _WRONG)
    outcome = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = outcome.stdout.splitlines()
    last = len(_TYPED.splitlines())
    assert [line for line in said if line.startswith("right.py")] == []
    wrong = {int(line.split(":")[1]) - last for line in said if line.startswith("wrong.py")}
    assert wrong == {2, 3, 4, 5, 7, 8, 9}, outcome.stdout
