"""Modules that a function imports only when it runs travel with it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.actors.carried_modules import find_carried
from holdfast.actors.code import CodeBook

FILES = {
    "{top}.py": """
import ray
import {package}.sibling

def plain(x):
    return x + 1

def late():
    import {late}
    return {late}.VALUE

def through_a_helper():
    return late()

@ray.remote
def remote():
    return late()

class Listener:
    async def poll_for_event(self):
        from {package} import part
        return part.VALUE

def installed_only():
    import json, numpy
    return json.dumps([])

def missing():
    import surely_not_there_at_all
""",
    "{late}.py": "import {deep}\nVALUE = {deep}.VALUE + 1\n",
    "{deep}.py": "VALUE = 1\n",
    "{package}/__init__.py": "",
    "{package}/part.py": "from . import sibling\nfrom .sibling import VALUE\n",
    "{package}/sibling.py": "VALUE = 5\n",
}

RUN = """
import sys
from holdfast.actors.carried_modules import import_here, prepare_imports
from holdfast.actors.code import CodeBook
import_here()
for path, digest, expected in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    with open(path, "rb") as file:
        function = CodeBook().decode(digest, file.read())
    prepare_imports(function)
    assert str(function()) == expected, (function(), expected)
"""


def write(folder: Path, names: dict[str, str], *, edit: tuple[str, str] = ("", "")) -> None:
    for path, content in FILES.items():
        file = folder / path.format(**names)
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(content.format(**names).replace(*edit))


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    mark = "".join(letter for letter in tmp_path.name if letter.isalnum())
    return {name: f"{name}_{mark}" for name in ("top", "late", "deep", "package")}


@pytest.fixture
def top(tmp_path: Path, names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    write(tmp_path, names)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(names["top"])
    for module in [module for module in sys.modules if module.split(".")[0] in names.values()]:
        del sys.modules[module]


def carried(code: Any) -> set[str]:
    def is_own(name: str, file: str) -> bool:
        return "site-packages" not in file and "/lib/python" not in file

    return set(find_carried(code, is_own))


@pytest.mark.parametrize("name", ["late", "through_a_helper", "remote"])
def test_what_is_imported_late_is_carried_with_what_it_imports(top: Any, names: dict[str, str], name: str) -> None:
    assert carried(getattr(top, name)) == {names["late"], names["deep"]}


def test_a_method_that_imports_from_a_package_carries_it(top: Any, names: dict[str, str]) -> None:
    package = names["package"]
    assert carried(top.Listener) == {package, f"{package}.part", f"{package}.sibling"}


@pytest.mark.parametrize("name", ["plain", "installed_only", "missing"])
def test_code_without_late_imports_of_the_users_own_carries_nothing(top: Any, name: str) -> None:
    assert carried(getattr(top, name)) == set()
    assert b"load_carrying" not in CodeBook().encode(getattr(top, name))[1]


def test_nothing_is_imported_by_looking(top: Any, names: dict[str, str]) -> None:
    CodeBook().encode(top.late)
    CodeBook().encode(top.Listener)
    assert names["late"] not in sys.modules
    assert f"{names['package']}.part" not in sys.modules


def test_a_worker_imports_what_was_submitted_for_each_function_though_the_names_are_the_same(
    top: Any, names: dict[str, str], tmp_path: Path
) -> None:
    first = CodeBook().encode(top.late)
    write(tmp_path, names, edit=("VALUE = 1\n", "VALUE = 10\n"))
    second = CodeBook().encode(top.late)
    write(tmp_path, names, edit=("VALUE = 1\n", "VALUE = 100\n"))
    arguments = []
    for (digest, pickled), expected in ((first, "2"), (second, "11"), (first, "2")):
        (tmp_path / digest).write_bytes(pickled)
        arguments += [str(tmp_path / digest), digest, expected]
    # With the edited files in its path too.
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{RUN}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
