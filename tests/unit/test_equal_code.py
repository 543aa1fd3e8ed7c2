"""Equal code has equal bytes in every process, whatever it touches, and what is loaded from them is what was stored."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast.actors.code import CodeBook
from holdfast.actors.same_code import form_of

MODULE = """
import dataclasses
WORDS = {"one", "two", "three", "four"}
@dataclasses.dataclass
class Row:
    a: int
    tags: frozenset = frozenset({"p", "q", "r", "s"})
class Below(Row):
    def work(self):
        return work(2), WORDS
def work(n):
    return Row(n)
"""

SCRIPT = """
import abc, dataclasses, enum, functools, sys, typing
import ray
import own_module
T = typing.TypeVar("T")
class Mode(enum.Enum):
    FULL, PART = 1, 2
class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
@dataclasses.dataclass(frozen=True)
class Row:
    a: int
    b: list = dataclasses.field(default_factory=list)
class Point(typing.NamedTuple):
    x: int
    y: int = 2
class Options(typing.TypedDict, total=False):
    a: int
    b: str
    c: typing.Required[str] if hasattr(typing, "Required") else str
class Base(abc.ABC):
    @abc.abstractmethod
    def first(self): ...
    @abc.abstractmethod
    def second(self): ...
    @abc.abstractmethod
    def third(self): ...
for number in range(4):
    Base.register(type(f"Registered{number}", (), {}))
class Proto(typing.Protocol):
    foo: int
    bar: int
    baz: int
class Box(typing.Generic[T]):
    def get(self) -> T: ...
class First:
    def other(self): return Second()
class Second(First):
    def other(self): return First()
class Settings:
    def __init__(self): self.allowed = {"u", "v", "w", "z"}
NAMES, NESTED, SETTINGS = {"a", "b", "c", "d"}, {"x": [{"p", "q", "r"}, (frozenset("abcd"),)]}, Settings()
MODES, KINDS = {Mode.FULL, Mode.PART}, {Row, Point, Mode, Base}
@ray.remote
def other(x): return x
CHEAPER = other.options(num_cpus=0.1)
NODE = other.bind(3)
@ray.remote
class Actor:
    def go(self): return 1
def made():
    class Local:
        names = {"1", "2", "3", "4"}
    def inner(x=Local, *, y={"k", "l", "m"}): return Local
    return inner
@ray.remote
def task(): return [Row(1)]

CODE = {
    "nothing": lambda: 1,
    "enum": lambda: Mode.FULL,
    "flag": lambda: Rights.READ,
    "dataclass": lambda: Row(1),
    "named tuple": lambda: Point(1),
    "typed dict": lambda: Options(a=1),
    "abstract class": lambda: Base,
    "protocol": lambda: Proto,
    "generic": lambda: Box[int],
    "type variable": lambda: T,
    "classes that name each other": lambda: First().other(),
    "set of the script": lambda x: x in NAMES,
    "constant set": lambda x: x in {"k", "l", "m", "n"},
    "set in a dict": lambda: NESTED,
    "set in an object": lambda: SETTINGS,
    "set of enum members": lambda: MODES,
    "set of classes": lambda: KINDS,
    "remote function": lambda: other.bind(1),
    "remote function with options": lambda: CHEAPER.bind(1),
    "actor class": lambda: Actor.remote(),
    "node": lambda: NODE,
    "module": lambda: own_module.work(1),
    "class of a module": lambda: own_module.Below(1),
    "local class": made(),
    "default": lambda x={"q", "w", "e"}: x,
    "partial": functools.partial(lambda x, y: y in NAMES, {"g", "h", "i"}),
    "class": Row,
    "task": task._function,
}
"""

PRINT = """
from holdfast.actors.code import CodeBook
from holdfast.actors.same_code import form_of
import pickle
if "--used" in sys.argv:
    # Plain Ray has pickled them before, in another order.
    for kind in (Row, Mode, own_module.Row, T):
        ray.cloudpickle.dumps(kind)
for name, code in CODE.items():
    digest, pickled = CodeBook().encode(code)
    ray.cloudpickle.register_pickle_by_value(own_module)
    earlier = ray.cloudpickle.dumps(code, protocol=5)
    ray.cloudpickle.unregister_pickle_by_value(own_module)
    # Last: what is loaded is the class that is there, which it changes.
    again = CodeBook().encode(pickle.loads(pickled))[0]
    print(name, digest, again, form_of(pickled).hex(), form_of(earlier).hex(), sep="=")
"""


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[str, ...]]]:
    """The hashes of each piece of code, in three processes: before and after it was loaded once."""
    folder = tmp_path_factory.mktemp("equal")
    (folder / "own_module.py").write_text(MODULE)
    script = folder / "service.py"
    script.write_text(SCRIPT + PRINT)
    found = []
    # The first one compiles the module, the others load what was compiled.
    for seed, *more in (("1",), ("2",), ("3", "--used")):
        ran = subprocess.run(
            [sys.executable, script, *more],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        lines = (line.split("=") for line in ran.stdout.splitlines())
        found.append({name: tuple(digests) for name, *digests in lines})
    return found


NAMES = [line.split('"')[1] for line in SCRIPT[SCRIPT.index("CODE = {") :].splitlines() if line.startswith('    "')]


@pytest.mark.parametrize("name", NAMES)
def test_equal_code_has_one_hash_in_all_processes(hashes: list[dict[str, tuple[str, ...]]], name: str) -> None:
    assert len({found[name][0] for found in hashes}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_code_that_was_loaded_has_one_hash_in_all_processes(
    hashes: list[dict[str, tuple[str, ...]]], name: str
) -> None:
    assert len({found[name][1] for found in hashes}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_code_stored_by_an_earlier_version_says_the_same(hashes: list[dict[str, tuple[str, ...]]], name: str) -> None:
    assert len({form for found in hashes for form in found[name][2:]}) == 1


def test_no_two_pieces_of_code_say_the_same(hashes: list[dict[str, tuple[str, ...]]]) -> None:
    assert len({digests[2] for digests in hashes[0].values()}) == len(NAMES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ([1], (1,)),
        ("1", 1),
        ({"a", "b"}, {"a", "c"}),
        ({"a": 1}, {"a": 2}),
        (Fraction(1, 2), Fraction(1, 3)),
        ([], [[]]),
        (b"a", "a"),
    ],
)
def test_unequal_values_do_not_say_the_same(one: Any, other: Any) -> None:
    assert form_of(pickle.dumps(one, 5)) == form_of(pickle.dumps(one, 5))
    assert form_of(pickle.dumps(one, 5)) != form_of(pickle.dumps(other, 5))


def test_nothing_is_imported_or_run_to_see_what_a_pickle_says(tmp_path: Path) -> None:
    class Writes:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "made",)

    form_of(pickle.dumps(Writes(), 5))
    assert not (tmp_path / "made").exists()


def test_classes_with_one_name_and_other_content_stay_two_where_both_are_loaded() -> None:
    def of(content: str) -> bytes:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(f"class Same:\n    def text(self): return {content!r}\ndef make(): return Same()", namespace)
        return CodeBook().encode(namespace["make"])[1]

    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; made = [pickle.loads(code) for code in pickle.load(sys.stdin.buffer)]\n"
            "print(made[0]().text(), made[1]().text())",
        ],
        input=pickle.dumps([of("one"), of("two")]),
        capture_output=True,
        check=True,
    )
    assert loaded.stdout.split() == [b"one", b"two"]


def test_two_classes_of_one_content_that_are_alive_do_not_become_one() -> None:
    def made() -> type:
        class Twin:
            pass

        return Twin

    one, two = made(), made()

    def both() -> Any:
        return one, two

    loaded = pickle.loads(CodeBook().encode(both)[1])()
    assert loaded == (one, two)


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_keep_their_elements_and_who_shares_them(kind: type) -> None:
    shared = kind({"a", "b", "c"})
    holder = {"first": shared, "second": [shared, (1, shared)]}

    def look() -> Any:
        return holder

    found = pickle.loads(CodeBook().encode(look)[1])()
    assert found == holder
    assert type(found["first"]) is kind
    assert found["second"][0] is found["first"] is found["second"][1][1]


def test_containers_that_hold_themselves_can_be_encoded() -> None:
    loop: list[Any] = [{"a", "b"}]
    loop.append((loop,))

    def look() -> Any:
        return loop

    found = pickle.loads(CodeBook().encode(look)[1])()
    assert found[0] == {"a", "b"}
    assert found[1][0][0] == {"a", "b"}


def test_a_remote_function_that_was_loaded_twice_is_two_for_ray() -> None:
    @ray.remote
    def inner() -> int:
        return 1

    def outer() -> Any:
        return inner

    pickled = CodeBook().encode(outer)[1]
    first, second = pickle.loads(pickled)(), pickle.loads(pickled)()
    assert first._uuid != second._uuid
    assert first._function() == 1
