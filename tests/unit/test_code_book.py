"""Code by hash: what was submitted runs, wherever its source has gone."""

from __future__ import annotations

import functools
import gc
import importlib
import subprocess
import sys
import threading

import pytest
import ray

from holdfast.actors import code
from holdfast.actors.code import CodeBook, hash_code, is_user_module
from holdfast.engine.errors import ResultNotStoredError

HELPER = """
FACTOR = 3

def triple(x):
    return x * FACTOR

class Box:
    def __init__(self, content):
        self.content = triple(content)
"""

MAIN = """
import ray
import {helper}
from {helper} import triple, Box

LIMIT = 100

@ray.remote
def task(x):
    return min(LIMIT, triple(x)) + {helper}.triple(1)

def boxed(x):
    return Box(x).content

class Listener:
    async def poll_for_event(self, key):
        return triple(key)
"""

DECODE = """
import sys
from holdfast.actors.code import CodeBook
with open(sys.argv[1], "rb") as file:
    pickled = file.read()
code = CodeBook().decode(sys.argv[2], pickled)
print(eval(sys.argv[3], {"code": code}))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A user's module and its helper; both gone, file and import, after `forget()`."""
    name = f"user_{tmp_path.name.replace('-', '_')}"
    helper = f"{name}_helper"
    paths = [tmp_path / f"{helper}.py", tmp_path / f"{name}.py"]
    paths[0].write_text(HELPER)
    paths[1].write_text(MAIN.format(helper=helper))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)

    def forget() -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        for each in (name, helper):
            sys.modules.pop(each, None)

    module.forget = forget
    yield module
    forget()


def elsewhere(tmp_path, digest: str, pickled: bytes, expression: str) -> str:
    stored = tmp_path / "code.bin"
    stored.write_bytes(pickled)
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(stored), digest, expression],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("pick", "expression", "expected"),
    [
        (lambda m: m.task._function, "code(5)", "18"),
        (lambda m: m.boxed, "code(5)", "15"),
        (lambda m: m.Listener, "__import__('asyncio').run(code().poll_for_event(4))", "12"),
    ],
    ids=["ray function", "function", "listener class"],
)
def test_code_runs_after_its_source_and_that_of_its_helper_are_gone(
    modules, tmp_path, pick, expression, expected
) -> None:
    digest, pickled = CodeBook().encode(pick(modules))
    modules.forget()
    assert elsewhere(tmp_path, digest, pickled, expression) == expected


def test_the_hash_is_of_the_bytes_and_the_same_object_keeps_it(modules) -> None:
    book = CodeBook()
    digest, pickled = book.encode(modules.boxed)
    assert digest == hash_code(pickled)
    assert len(digest) == 32
    assert book.encode(modules.boxed)[0] == digest


def test_a_decoded_function_keeps_the_hash_it_came_with() -> None:
    def recursive(n):
        return recursive(n - 1) if n else "done"

    digest, pickled = CodeBook().encode(recursive)
    elsewhere_book = CodeBook()
    decoded = elsewhere_book.decode(digest, pickled)
    assert decoded is not recursive
    assert decoded(3) == "done"
    assert elsewhere_book.encode(decoded) == (digest, pickled)
    assert elsewhere_book.decode(digest, pickled) is decoded


def test_a_dead_function_is_forgotten_even_if_another_takes_its_place_in_memory() -> None:
    book = CodeBook()
    # What the other tests have left need not be looked through each time.
    gc.freeze()
    try:
        for number in range(50):

            def temporary(number=number):
                return number

            digest, pickled = book.encode(temporary)
            assert CodeBook().decode(digest, pickled)() == number
            del temporary
            gc.collect()
    finally:
        gc.unfreeze()


def test_pickling_by_value_leaves_cloudpickles_register_as_it_was(modules) -> None:
    before = ray.cloudpickle.list_registry_pickle_by_value()
    CodeBook().encode(modules.boxed)
    assert ray.cloudpickle.list_registry_pickle_by_value() == before


def test_installed_and_own_modules_are_not_the_users(modules) -> None:
    assert is_user_module(modules)
    for installed in (ray, pytest, threading, code, sys, functools):
        assert not is_user_module(installed)


def test_a_module_shipped_by_a_runtime_env_is_not_pickled_by_value(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "session_x" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    (folder / "shipped_module.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("shipped_module")
    assert not is_user_module(module)
    sys.modules.pop("shipped_module")


def test_a_link_into_an_installed_package_is_not_the_users_and_what_lies_beside_it_is(tmp_path, monkeypatch) -> None:
    installed, own = tmp_path / "site-packages", tmp_path / "own"
    for folder in (installed, own):
        folder.mkdir()
    (installed / "linked_module.py").touch()
    (own / "linked_module.py").symlink_to(installed / "linked_module.py")
    (own / "module_beside_it.py").touch()
    monkeypatch.syspath_prepend(str(own))
    linked, beside = importlib.import_module("linked_module"), importlib.import_module("module_beside_it")
    assert not is_user_module(linked)
    assert is_user_module(beside)
    for module in (linked, beside):
        sys.modules.pop(module.__name__)


def test_code_that_cannot_be_pickled_is_named_with_the_fix() -> None:
    lock = threading.Lock()

    def guarded():
        return lock

    with pytest.raises(ResultNotStoredError, match=r"guarded.*lock.*inside the function"):
        CodeBook().encode(guarded)


def test_a_module_that_holds_what_cannot_be_pickled_is_named_by_reference(tmp_path, monkeypatch) -> None:
    (tmp_path / "with_a_lock.py").write_text(
        "import threading\nLOCK = threading.Lock()\ndef f():\n    with LOCK:\n        return 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("with_a_lock")
    digest, pickled = CodeBook().encode(module.f)
    assert b"with_a_lock" in pickled
    assert CodeBook().decode(digest, pickled) is module.f
    sys.modules.pop("with_a_lock")


def test_a_partial_can_be_encoded() -> None:
    digest, pickled = CodeBook().encode(functools.partial(max, 3))
    assert CodeBook().decode(digest, pickled)(2) == 3
